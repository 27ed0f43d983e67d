//! Following: every client reads a blob up to the watermark; a hit is a flight that has landed.
//!
//! A follower never hurries or holds up the fill. What it reads from may change under it without the client noticing:
//! a damaged blob is fetched anew and followed from there; a fill that our disk ended is gone on with by itself; a
//! range far ahead of the watermark is asked for by itself. Its end is told exactly once: all bytes, or an error,
//! after which the connection must be closed so that the body is seen to be short.

use bytes::Bytes;
use tokio::sync::watch;

use crate::pull::Puller;
use crate::pull::access::authorize::Caller;
use crate::pull::blob::flight::Progress;
use crate::pull::blob::lookup::Flown;
use crate::pull::blob::passthrough::Through;
use crate::pull::blob::source::UpstreamBody;
use crate::pull::error::Error;
use crate::reference::{Digest, Repository};
use crate::store::{self, Blob, GrowingBlob};
use crate::support::body_chunk::BodyChunk;

/// Bytes a read of a growing file.
const PIECE: u64 = 256 * 1024;
/// A reader that is further ahead of the watermark than this does not wait for it: at a slow upstream's 8 MB/s the
/// fill would take a second to get there.
const FAR_AHEAD: u64 = 8 * 1024 * 1024;
/// Times that one answer is repaired: a disk that damages what was just written is not to be trusted further.
const REPAIRS_MAX: u32 = 3;

/// On whose behalf a blob is read, for when more has to be asked for.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) puller: Puller,
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    pub(crate) caller: Caller,
}

impl Reader {
    pub(crate) async fn source(&self, from: u64) -> Result<UpstreamBody, Error> {
        UpstreamBody::open(&self.puller, &self.repository, self.digest, &self.caller, from, None).await
    }

    fn count_passed(&self, reason: &str, bytes: usize) {
        self.puller.0.metrics.passed_through.with_label_values(&[reason]).inc_by(bytes as u64);
    }
}

/// A part of a blob, byte for byte.
pub struct BlobBody {
    reader: Reader,
    state: State,
    at: u64,
    end: Option<u64>,
    repairs: u32,
}

enum State {
    /// On disk.
    Committed(Blob),
    /// GrowingBlob; and whether a range far ahead may be asked for by itself.
    Following(watch::Receiver<Progress>, bool),
    /// From upstream, past the disk; why.
    Through(Box<Through>, &'static str),
    /// From upstream, far ahead of the watermark, until that gets here. The fill is given the bytes.
    Ahead(Box<UpstreamBody>, watch::Receiver<Progress>),
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody").field("at", &self.at).field("end", &self.end).finish_non_exhaustive()
    }
}

/// What one look at the source brought.
enum Step {
    BodyChunk(BodyChunk),
    Instead(State),
    Again,
}

impl BlobBody {
    pub(crate) fn committed(reader: Reader, blob: Blob) -> Self {
        let end = Some(blob.size());
        Self { reader, state: State::Committed(blob), at: 0, end, repairs: 0 }
    }

    pub(crate) fn following(reader: Reader, progress: watch::Receiver<Progress>, size: Option<u64>) -> Self {
        Self { reader, state: State::Following(progress, true), at: 0, end: size, repairs: 0 }
    }

    /// Bytes of a blob of `size` bytes that come alone; the body is to be narrowed to them.
    pub(crate) fn part(reader: Reader, source: UpstreamBody, size: u64) -> Self {
        let state = State::Through(Box::new(Through::range(source)), "part");
        Self { reader, state, at: 0, end: Some(size), repairs: 0 }
    }

    /// Narrows the body to the bytes from `start` up to, not including, `end`.
    pub fn slice(&mut self, start: u64, end: u64) {
        self.at = start;
        self.end = Some(self.end.map_or(end, |size| size.min(end)));
    }

    /// The next bytes; `None` when all have been handed out.
    ///
    /// # Errors
    /// The rest cannot be had. What was handed out before is right, or will never be completed.
    pub async fn next(&mut self) -> Option<Result<BodyChunk, Error>> {
        loop {
            if self.end.is_some_and(|end| self.at >= end) {
                return None;
            }
            match self.step().await {
                Ok(Step::BodyChunk(piece)) if piece.is_empty() => return None,
                Ok(Step::BodyChunk(piece)) => {
                    self.at += piece.len() as u64;
                    return Some(Ok(piece));
                }
                Ok(Step::Instead(state)) => self.state = state,
                Ok(Step::Again) => {}
                Err(error) => {
                    self.end = Some(self.at);
                    return Some(Err(error));
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, Error> {
        let (at, end) = (self.at, self.end);
        match &mut self.state {
            State::Committed(blob) => match blob.read(at, end.unwrap_or(blob.size())).await {
                Err(store::Error::Damaged { reason, .. }) if self.repairs < REPAIRS_MAX => {
                    self.repairs += 1;
                    let damaged = blob.clone();
                    Box::pin(self.repair(damaged, reason)).await
                }
                read => Ok(Step::BodyChunk(read?)),
            },
            State::Following(progress, jump) => match follow(&self.reader, progress, at, end, *jump).await? {
                Some(step) => Ok(step),
                None => {
                    *jump = false;
                    Ok(Step::Again)
                }
            },
            State::Ahead(source, progress) => run_ahead(&self.reader, source, progress, at, end).await,
            State::Through(through, reason) => {
                let Some(bytes) = through.next().await else {
                    // A blob whose size nobody told ends here; any other has ended short.
                    return match end {
                        None => Ok(Step::BodyChunk(Bytes::new().into())),
                        Some(_) => Err(Error::Abandoned),
                    };
                };
                let mut bytes = bytes?;
                let left = end.map_or(u64::MAX, |end| end - at);
                if bytes.len() as u64 > left {
                    bytes.truncate(left as usize);
                }
                self.reader.count_passed(reason, bytes.len());
                Ok(Step::BodyChunk(bytes.into()))
            }
        }
    }

    /// A chunk on disk is not what it was: the blob is set aside and fetched anew, and this answer goes on from there.
    async fn repair(&self, damaged: Blob, reason: String) -> Result<Step, Error> {
        let Reader { puller, repository, caller, .. } = &self.reader;
        let digest = damaged.digest();
        puller.0.store.quarantine(&damaged, reason.clone()).await;
        drop(damaged);
        let refetched = puller.fly(repository, digest, caller, None, true).await;
        let refetched = refetched.inspect_err(|error| {
            tracing::error!(%repository, %digest, reason, %error, "a damaged blob cannot be fetched anew");
        })?;
        puller.0.metrics.repairs.inc();
        tracing::warn!(%repository, %digest, reason, at = self.at, "a damaged blob is fetched anew while it is read");
        Ok(Step::Instead(match refetched {
            Flown::Landed(answer) => answer.body.state,
            Flown::Seat(_, progress) => State::Following(progress, true),
        }))
    }
}

/// The next bytes of a flight, empty at the end of the blob; `None` if a range far ahead cannot be had by itself.
async fn follow(
    reader: &Reader,
    progress: &mut watch::Receiver<Progress>,
    at: u64,
    end: Option<u64>,
    jump: bool,
) -> Result<Option<Step>, Error> {
    let has_word = |progress: &Progress| match progress {
        Progress::Filling { readable, .. } => *readable > at || jump && at - readable > FAR_AHEAD,
        other => other.is_over(),
    };
    // An error means that the flight is over and gone; its last word is still there.
    let _ = progress.wait_for(has_word).await;
    let now = progress.borrow_and_update().clone();
    let (growing, up_to): (GrowingBlob, u64) = match now {
        Progress::Filling { readable, .. } if readable <= at => {
            return Ok(Box::pin(ahead(reader, at, progress)).await);
        }
        Progress::Filling { growing, readable, .. } => (growing, readable),
        Progress::Landed { growing, size } => (growing, size),
        Progress::Detached { growing: Some(growing), written, .. } if at < written => (growing, written),
        Progress::Detached { written, hasher, .. } => {
            let source = Box::pin(reader.source(at)).await?;
            let through = if at == written {
                Through::rest(source, hasher, reader.digest)
            } else {
                Through::range(source)
            };
            return Ok(Some(Step::Instead(State::Through(Box::new(through), "disk"))));
        }
        Progress::Failed(error) => return Err(error),
        Progress::Waiting => return Err(Error::Abandoned),
    };
    let up_to = up_to.min(end.unwrap_or(u64::MAX)).min(at + PIECE);
    if up_to <= at {
        return Ok(Some(Step::BodyChunk(Bytes::new().into())));
    }
    let read = growing.read(at, (up_to - at) as usize).await;
    read.map(|piece| Some(Step::BodyChunk(piece))).map_err(|error| {
        tracing::error!(%error, at, "a growing file cannot be read");
        Error::Abandoned
    })
}

/// A range far ahead of the watermark, asked for by itself; `None` from a registry that does not do ranges, which would
/// send everything before it too, or that will not answer now: the fill gets there.
async fn ahead(reader: &Reader, at: u64, progress: &watch::Receiver<Progress>) -> Option<Step> {
    let source = match reader.source(at).await {
        Ok(source) if source.is_ranged() => source,
        Ok(_) => return None,
        Err(error) => {
            tracing::debug!(digest = %reader.digest, at, %error, "a range cannot be asked for by itself");
            return None;
        }
    };
    tracing::debug!(digest = %reader.digest, at, "a range far ahead is asked for by itself");
    Some(Step::Instead(State::Ahead(Box::new(source), progress.clone())))
}

/// The next bytes of a range of its own, kept for the fill; back to following where the fill has come up to it.
async fn run_ahead(
    reader: &Reader,
    source: &mut UpstreamBody,
    progress: &watch::Receiver<Progress>,
    at: u64,
    end: Option<u64>,
) -> Result<Step, Error> {
    let (caught_up, growing) = match &*progress.borrow() {
        Progress::Filling { readable, growing, .. } => (*readable > at, Some(growing.clone())),
        other => (matches!(other, Progress::Landed { .. }), None),
    };
    if caught_up {
        return Ok(Step::Instead(State::Following(progress.clone(), true)));
    }
    let mut bytes = source.next().await.ok_or(Error::Abandoned)??;
    bytes.truncate(end.map_or(usize::MAX, |end| usize::try_from(end - at).unwrap_or(usize::MAX)));
    if let Some(growing) = growing
        && let Err(error) = growing.write_out_of_order(at, bytes.clone()).await
    {
        tracing::debug!(digest = %reader.digest, at, %error, "bytes fetched ahead are not kept");
    }
    reader.count_passed("ahead", bytes.len());
    Ok(Step::BodyChunk(bytes.into()))
}
