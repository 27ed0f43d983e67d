//! Following: every client reads a blob up to the readable offset; a hit reads a blob that is complete.
//!
//! A follower never holds up the fill. Where its bytes come from may change without the client noticing: a damaged blob
//! is fetched anew and followed from there; a fill whose disk failed is continued past the disk; a range far ahead of
//! the readable offset is asked for by itself. The end of a body is told exactly once: all bytes, or an error, after
//! which the connection must be closed so that the body is seen to be short.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::download::{Download, Downloads};
use super::flight::Progress;
use super::passthrough::Passthrough;
use super::source::{UpstreamBlobs, UpstreamBody};
use super::stored::StoredBlobs;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::metrics::Metrics;
use crate::reference::Digest;
use crate::store::{self, Blob, GrowingBlob};
use crate::support::body_chunk::BodyChunk;

/// Bytes that one read of a growing file returns at most.
const CHUNK: u64 = 256 * 1024;
/// A reader that is further ahead of the readable offset than this does not wait for it: at a slow upstream's 8 MB/s the
/// fill would take a second to get there.
const FAR_AHEAD: u64 = 8 * 1024 * 1024;
/// Times that one answer is repaired: a disk that damages what was just written is not to be trusted further.
const REPAIRS_MAX: u32 = 3;

/// What a body needs to get at more of its blob.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) stored: StoredBlobs,
    pub(crate) downloads: Downloads,
    pub(crate) upstream: UpstreamBlobs,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) context: PullContext,
    pub(crate) digest: Digest,
}

impl Reader {
    async fn upstream_from(&self, at: u64) -> Result<UpstreamBody, Error> {
        self.upstream.open(&self.context, self.digest, at, None).await
    }

    fn count_passthrough(&self, reason: &str, bytes: usize) {
        self.metrics.passthrough.with_label_values(&[reason]).inc_by(bytes as u64);
    }
}

/// The body of an answer: a byte range of a blob, or all of it.
pub struct BlobBody {
    reader: Reader,
    source: BodySource,
    at: u64,
    end: Option<u64>,
    repairs: u32,
}

/// Where the next bytes come from.
enum BodySource {
    /// A blob in the store.
    Stored(Blob),
    /// A flight; and whether a range far ahead may be asked for by itself.
    Following(watch::Receiver<Progress>, bool),
    /// Upstream, past the disk; why, as a label value.
    Passthrough(Box<Passthrough>, &'static str),
    /// Upstream, out of order, until the flight gets there; the fill is given the bytes.
    OutOfOrder(Box<UpstreamBody>, watch::Receiver<Progress>),
}

/// What one look at the source brought.
enum Next {
    Chunk(BodyChunk),
    ChangeTo(BodySource),
    Again,
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody").field("at", &self.at).field("end", &self.end).finish_non_exhaustive()
    }
}

impl BlobBody {
    pub(crate) fn stored(reader: Reader, blob: Blob) -> Self {
        let end = Some(blob.size());
        Self { reader, source: BodySource::Stored(blob), at: 0, end, repairs: 0 }
    }

    pub(crate) fn following(reader: Reader, progress: watch::Receiver<Progress>, size: Option<u64>) -> Self {
        Self { reader, source: BodySource::Following(progress, true), at: 0, end: size, repairs: 0 }
    }

    /// A range of a blob of `size` bytes that was fetched alone; the body is to be narrowed to it.
    pub(crate) fn single_range(reader: Reader, body: UpstreamBody, size: u64) -> Self {
        let source = BodySource::Passthrough(Box::new(Passthrough::range(body)), "byte_range");
        Self { reader, source, at: 0, end: Some(size), repairs: 0 }
    }

    /// Narrows the body to the bytes from `start` up to, not including, `end`.
    pub fn narrow(&mut self, start: u64, end: u64) {
        self.at = start;
        self.end = Some(self.end.map_or(end, |size| size.min(end)));
    }

    /// The next bytes; `None` when all have been returned.
    ///
    /// # Errors
    /// The rest cannot be had. What was returned before is right, or will never be completed.
    pub async fn next(&mut self) -> Option<Result<BodyChunk, Error>> {
        loop {
            if self.end.is_some_and(|end| self.at >= end) {
                return None;
            }
            match self.look().await {
                Ok(Next::Chunk(chunk)) if chunk.is_empty() => return None,
                Ok(Next::Chunk(chunk)) => {
                    self.at += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                Ok(Next::ChangeTo(source)) => self.source = source,
                Ok(Next::Again) => {}
                Err(error) => {
                    self.end = Some(self.at);
                    return Some(Err(error));
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Next, Error> {
        let (at, end) = (self.at, self.end);
        match &mut self.source {
            BodySource::Stored(blob) => match blob.read(at, end.unwrap_or(blob.size())).await {
                Err(store::Error::Damaged { reason, .. }) if self.repairs < REPAIRS_MAX => {
                    self.repairs += 1;
                    let damaged = blob.clone();
                    Box::pin(self.repair(damaged, reason)).await
                }
                read => Ok(Next::Chunk(read?)),
            },
            BodySource::Following(progress, may_jump) => {
                match follow(&self.reader, progress, at, end, *may_jump).await? {
                    Some(next) => Ok(next),
                    None => {
                        *may_jump = false;
                        Ok(Next::Again)
                    }
                }
            }
            BodySource::OutOfOrder(body, progress) => {
                out_of_order(&self.reader, body, progress, at, end).await
            }
            BodySource::Passthrough(passthrough, reason) => {
                let Some(bytes) = passthrough.next().await else {
                    // A blob of unknown size ends here; any other has ended short.
                    return match end {
                        None => Ok(Next::Chunk(Bytes::new().into())),
                        Some(end) => Err(Error::ShortBody { missing: end - at }),
                    };
                };
                let mut bytes = bytes?;
                truncate(&mut bytes, at, end);
                self.reader.count_passthrough(reason, bytes.len());
                Ok(Next::Chunk(bytes.into()))
            }
        }
    }

    /// A chunk on disk is damaged: the blob is quarantined and fetched anew, and this answer goes on from there.
    async fn repair(&self, damaged: Blob, reason: String) -> Result<Next, Error> {
        let Reader { stored, downloads, context, metrics, .. } = &self.reader;
        let (digest, repository) = (damaged.digest(), context.repository());
        stored.quarantine(&damaged, reason.clone()).await;
        drop(damaged);
        let download = downloads.join_or_lead(context, digest, None).await.inspect_err(|error| {
            tracing::error!(%repository, %digest, reason, %error, "a damaged blob cannot be fetched anew");
        })?;
        metrics.repairs.inc();
        tracing::warn!(%repository, %digest, reason, at = self.at, "a damaged blob is fetched anew while it is read");
        Ok(Next::ChangeTo(match download {
            Download::Stored(stored) => BodySource::Stored(stored.blob),
            Download::Following(_, progress) => BodySource::Following(progress, true),
        }))
    }
}

fn truncate(bytes: &mut Bytes, at: u64, end: Option<u64>) {
    bytes.truncate(end.map_or(usize::MAX, |end| usize::try_from(end - at).unwrap_or(usize::MAX)));
}

/// The next bytes of a flight, empty at the end of the blob; `None` if a range far ahead cannot be had by itself.
async fn follow(
    reader: &Reader,
    progress: &mut watch::Receiver<Progress>,
    at: u64,
    end: Option<u64>,
    may_jump: bool,
) -> Result<Option<Next>, Error> {
    let is_useful = |progress: &Progress| match progress {
        Progress::Filling { readable, .. } => *readable > at || may_jump && at - readable > FAR_AHEAD,
        other => other.is_over(),
    };
    // An error means that the flight is over and gone; its last progress is still there.
    let _ = progress.wait_for(is_useful).await;
    let now = progress.borrow_and_update().clone();
    let (growing, up_to): (GrowingBlob, u64) = match now {
        Progress::Filling { readable, .. } if readable <= at => {
            return Ok(Box::pin(jump(reader, at, progress)).await);
        }
        Progress::Filling { growing, readable, .. } => (growing, readable),
        Progress::Complete { growing, size } => (growing, size),
        Progress::Detached { growing: Some(growing), written, .. } if at < written => (growing, written),
        Progress::Detached { written, hasher, .. } => {
            let body = Box::pin(reader.upstream_from(at)).await?;
            let passthrough = if at == written {
                Passthrough::rest(body, hasher, reader.digest)
            } else {
                Passthrough::range(body)
            };
            return Ok(Some(Next::ChangeTo(BodySource::Passthrough(Box::new(passthrough), "disk"))));
        }
        Progress::Failed(error) => return Err(error),
        Progress::Waiting => return Err(Error::LeaderGone),
    };
    let up_to = up_to.min(end.unwrap_or(u64::MAX)).min(at + CHUNK);
    if up_to <= at {
        return Ok(Some(Next::Chunk(Bytes::new().into())));
    }
    let read = growing.read(at, (up_to - at) as usize).await;
    read.map(|chunk| Some(Next::Chunk(chunk))).map_err(|error| {
        tracing::error!(digest = %reader.digest, %error, at, "a growing file cannot be read");
        Error::Unreadable(Arc::new(error))
    })
}

/// A range far ahead of the readable offset, asked for by itself; `None` from a registry that does not answer ranges,
/// which would send everything before it too, or that does not answer now: the fill gets there.
async fn jump(reader: &Reader, at: u64, progress: &watch::Receiver<Progress>) -> Option<Next> {
    let body = match reader.upstream_from(at).await {
        Ok(body) if body.is_ranged() => body,
        Ok(_) => return None,
        Err(error) => {
            tracing::debug!(digest = %reader.digest, at, %error, "a range cannot be asked for by itself");
            return None;
        }
    };
    tracing::debug!(digest = %reader.digest, at, "a range far ahead is asked for by itself");
    Some(Next::ChangeTo(BodySource::OutOfOrder(Box::new(body), progress.clone())))
}

/// The next bytes of a range that was asked for by itself, kept for the fill; back to following once the fill has come up
/// to it.
async fn out_of_order(
    reader: &Reader,
    body: &mut UpstreamBody,
    progress: &watch::Receiver<Progress>,
    at: u64,
    end: Option<u64>,
) -> Result<Next, Error> {
    let (caught_up, growing) = match &*progress.borrow() {
        Progress::Filling { readable, growing, .. } => (*readable > at, Some(growing.clone())),
        other => (matches!(other, Progress::Complete { .. }), None),
    };
    if caught_up {
        return Ok(Next::ChangeTo(BodySource::Following(progress.clone(), true)));
    }
    let mut bytes = body.next().await.ok_or(Error::ShortBody { missing: body.missing() })??;
    truncate(&mut bytes, at, end);
    if let Some(growing) = growing
        && let Err(error) = growing.write_out_of_order(at, bytes.clone()).await
    {
        tracing::debug!(digest = %reader.digest, at, %error, "bytes fetched out of order are not kept");
    }
    reader.count_passthrough("out_of_order", bytes.len());
    Ok(Next::Chunk(bytes.into()))
}
