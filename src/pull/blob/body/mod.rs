//! The body of an answer: the bytes of a blob, wherever they come from.
//!
//! A hit reads a blob that is complete, a download is followed (`follow`), kept parts and single ranges are read as
//! such, and what is not stored passes by. Where the bytes come from may change without the client noticing: a damaged
//! blob is fetched anew and followed from there; what the disk does not give back is fetched past the disk; a range far
//! ahead of the readable offset is asked for by itself. The end of a body is told exactly once: all bytes, or an error,
//! after which the connection must be closed so that the body is seen to be short.
//!
//! The end of a whole body is withheld until the whole is right, wherever its parts came from: what goes on past the
//! store is hashed together with what the client has, which is read back for that from where it was sent from.

pub(super) mod answer;
pub(super) mod first_bytes;
mod follow;
mod out_of_order;
pub(super) mod reader;
mod refetch;
pub(super) mod refetch_places;

use std::sync::Arc;

use tokio::sync::watch;

use crate::pull::blob::body::first_bytes::concerns_leader_only;
use crate::pull::blob::body::follow::{Missing, Seen, Sent, follow, until_over};
use crate::pull::blob::body::out_of_order::next_out_of_order;
use crate::pull::blob::body::reader::Reader;
use crate::pull::blob::body::refetch::{RefetchOfBody, RefetchOfPart};
use crate::pull::blob::download::{Download, Followed};
use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::parts::partial::Partial;
use crate::pull::blob::parts::read::{PartRead, read_part};
use crate::pull::blob::past_the_disk::passthrough::Passthrough;
use crate::pull::blob::past_the_disk::window::{WindowReader, Windowed};
use crate::pull::blob::source::upstream_body::UpstreamBody;
use crate::pull::error::Error;
use crate::reference::Hasher;
use crate::store::{self, Blob};
use crate::support::body_chunk::{BodyChunk, IntegrityCheck, Refetch};

/// Times that one answer is repaired: a disk that damages what was just written is not to be trusted further.
const REPAIRS_MAX: u32 = 3;

/// The body of an answer: a byte range of a blob, or all of it.
pub struct BlobBody {
    reader: Reader,
    source: BodySource,
    at: u64,
    end: Option<u64>,
    sent: Sent,
    /// Whether upstream's answer to the leader of the flight that it follows is an answer to this client.
    is_own_answer: bool,
    /// Whether the client is sent the blob from its first byte on.
    from_start: bool,
    /// Whether the client is sent the blob up to its last byte.
    to_end: bool,
    /// The stored blob that it was read from until a chunk was found damaged, or the disk did not give it.
    lost: Option<Blob>,
    repairs: u32,
    /// Gets what was handed over as a range of a file and is not there any more when it is sent.
    refetch: Option<Arc<RefetchOfBody>>,
}

/// Where the next bytes come from.
enum BodySource {
    /// A blob in the store.
    Stored(Blob),
    /// A flight; and whether a range far ahead may be asked for by itself.
    Following(watch::Receiver<Progress>, bool),
    /// A window on upstream's body, past the disk, that several clients share.
    Shared(Box<WindowReader>),
    /// Nothing is open yet: upstream, past the disk, from where the body is narrowed to.
    Unopened,
    /// Upstream, past the disk; why, as a label value.
    Passthrough(Box<Passthrough>, &'static str),
    /// Upstream's whole blob, which also comes in the place of what was handed over and is not there any more.
    Again(Arc<RefetchOfBody>),
    /// Parts that are kept; what is missing of them is fetched and kept first.
    Partial(Arc<Partial>),
    /// Upstream, out of order, until the flight gets there; the fill is given the bytes.
    OutOfOrder(Box<UpstreamBody>, watch::Receiver<Progress>),
}

/// What one look at the source brought.
enum Next {
    /// The next bytes; a piece from upstream may be empty.
    Chunk(BodyChunk),
    /// The proper end.
    End,
    ChangeTo(BodySource),
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody").field("at", &self.at).field("end", &self.end).finish_non_exhaustive()
    }
}

impl BlobBody {
    pub(crate) fn stored(reader: Reader, blob: Blob) -> Self {
        let end = Some(blob.size());
        Self::whole(reader, BodySource::Stored(blob), end)
    }

    /// The blob of a flight; `size` is what the head of the answer says.
    pub(crate) fn following(reader: Reader, followed: Followed, size: Option<u64>) -> Self {
        let Followed { progress, is_own_answer, .. } = followed;
        Self { is_own_answer, ..Self::whole(reader, BodySource::Following(progress, true), size) }
    }

    /// A part of a blob of `size` bytes that was fetched alone; the body is to be narrowed to it. One that turned out
    /// to be the whole is verified.
    ///
    /// # Errors
    /// Too many clients have to be verified by themselves.
    pub(crate) fn single_range(reader: Reader, body: UpstreamBody, size: u64) -> Result<Self, Error> {
        let passthrough = if body.begun_at() == 0 && body.is_to_end() {
            Passthrough::rest(body, reader.digest.hasher(), reader.digest, Some(size), reader.own_memory()?)
        } else {
            Passthrough::range(body)
        };
        let source = BodySource::Passthrough(Box::new(passthrough), "byte_range");
        Ok(Self::whole(reader, source, Some(size)))
    }

    /// A blob of which parts are kept; the body is to be narrowed to a range.
    pub(crate) fn partial(reader: Reader, partial: Arc<Partial>) -> Self {
        let end = Some(partial.size);
        Self::whole(reader, BodySource::Partial(partial), end)
    }

    /// A blob of `size` bytes that is not stored and that there is no room for; the body is to be narrowed to a range.
    pub(crate) fn unstored(reader: Reader, size: u64) -> Self {
        Self::whole(reader, BodySource::Unopened, Some(size))
    }

    fn whole(reader: Reader, source: BodySource, end: Option<u64>) -> Self {
        let sent = Sent::nothing(end);
        Self {
            reader,
            source,
            at: 0,
            end,
            sent,
            is_own_answer: true,
            from_start: true,
            to_end: true,
            lost: None,
            repairs: 0,
            refetch: None,
        }
    }

    /// Narrows the body to the bytes from `start` up to, not including, `end`.
    pub fn narrow(&mut self, start: u64, end: u64) {
        self.at = start;
        self.from_start = start == 0;
        self.to_end = self.end.is_some_and(|size| end >= size);
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
            if let Some(refetch) = self.refetch.as_ref().filter(|refetch| refetch.has_lost())
                && !matches!(self.source, BodySource::Again(_))
            {
                self.source = BodySource::Again(Arc::clone(refetch));
            }
            match self.look().await {
                Ok(Next::Chunk(chunk)) if chunk.is_empty() => {}
                Ok(Next::Chunk(mut chunk)) => {
                    self.at += chunk.len() as u64;
                    if let BodyChunk::File(range) = &mut chunk {
                        range.refetch = Some(self.refetch_for(range.check.clone()));
                    }
                    if self.end.is_some_and(|end| self.at >= end) {
                        self.refetch.iter().for_each(|refetch| refetch.has_ended());
                    }
                    return Some(Ok(chunk));
                }
                Ok(Next::End) => {
                    self.refetch.iter().for_each(|refetch| refetch.has_ended());
                    return None;
                }
                Ok(Next::ChangeTo(source)) => self.source = source,
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
            BodySource::Stored(blob) if at >= blob.size() => end_of(at, end),
            BodySource::Stored(blob) => match blob.read(at, end.unwrap_or(blob.size())).await {
                Ok(chunk) => Ok(Next::Chunk(chunk)),
                Err(error) => {
                    let lost = blob.clone();
                    Box::pin(self.repair(lost, error)).await
                }
            },
            BodySource::Following(progress, may_jump) => {
                match follow(self.reader.digest, progress, at, end, &mut self.sent, *may_jump).await {
                    Ok(Seen::Chunk(chunk)) => Ok(Next::Chunk(chunk)),
                    seen => {
                        let progress = progress.clone();
                        Box::pin(self.no_chunk(seen, progress)).await
                    }
                }
            }
            BodySource::OutOfOrder(body, progress) => {
                let next = next_out_of_order(self.reader.digest, body, progress, at, self.is_own_answer);
                Ok(match next.await? {
                    Some(bytes) => Next::Chunk(self.reader.pass(bytes, "out_of_order", at, end)),
                    None => Next::ChangeTo(BodySource::Following(progress.clone(), true)),
                })
            }
            BodySource::Partial(partial) => {
                let Reader { upstream, context, digest, .. } = &self.reader;
                let range = at..end.unwrap_or(partial.size);
                Ok(match Box::pin(read_part(upstream, context, *digest, partial, range)).await? {
                    PartRead::Kept(bytes) => Next::Chunk(bytes.into()),
                    PartRead::Past(passthrough) => {
                        Next::ChangeTo(BodySource::Passthrough(passthrough, "byte_range"))
                    }
                })
            }
            BodySource::Unopened => Ok(Next::ChangeTo(Box::pin(self.past_the_disk(None, None, true)).await?)),
            BodySource::Shared(window) => match window.next().await {
                Ok(Windowed::Bytes(bytes)) => Ok(Next::Chunk(self.reader.pass(bytes, "disk", at, end))),
                Ok(Windowed::End) => end_of(at, end),
                Ok(Windowed::FellOut(hasher)) => Ok(Next::ChangeTo(Box::pin(self.by_itself(hasher)).await?)),
                Err(error) if !self.is_own_answer && is_leaders_own(&error) => {
                    let hasher = window.so_far();
                    Ok(Next::ChangeTo(Box::pin(self.without_leader(&error, hasher)).await?))
                }
                Err(error) => Err(error),
            },
            BodySource::Again(again) => match again.next(at).await? {
                Some(bytes) => Ok(Next::Chunk(self.reader.pass(bytes, "disk", at, end))),
                None => end_of(at, end),
            },
            BodySource::Passthrough(passthrough, reason) => match passthrough.next().await {
                Some(bytes) => Ok(Next::Chunk(self.reader.pass(bytes?, reason, at, end))),
                None => end_of(at, end),
            },
        }
    }

    /// How it goes on after a look at a flight that brought no chunk.
    async fn no_chunk(
        &mut self,
        seen: Result<Seen, Error>,
        progress: watch::Receiver<Progress>,
    ) -> Result<Next, Error> {
        match seen {
            Ok(Seen::Chunk(chunk)) => Ok(Next::Chunk(chunk)),
            Ok(Seen::End) => end_of(self.at, self.end),
            Ok(Seen::Shared(reader)) => Ok(Next::ChangeTo(BodySource::Shared(Box::new(reader)))),
            Ok(Seen::FarBehind) => {
                let jumped = self.jump(&progress).await;
                Ok(Next::ChangeTo(jumped.unwrap_or(BodySource::Following(progress, false))))
            }
            Ok(Seen::NotOnDisk(missing)) => self.not_on_disk(*missing, progress).await,
            Err(error) if !self.is_own_answer && is_leaders_own(&error) => {
                self.without_leader(&error, None).await.map(Next::ChangeTo)
            }
            Err(error) => Err(error),
        }
    }

    /// The rest of a flight that the disk does not give: from the store if it is there by now, else past the disk; if
    /// what the client was sent cannot be read back to be compared, once the flight knows what that was.
    async fn not_on_disk(
        &mut self,
        missing: Missing,
        progress: watch::Receiver<Progress>,
    ) -> Result<Next, Error> {
        let Missing { growing, detached, is_complete, error } = missing;
        if is_complete && let Some(source) = self.committed().await {
            return Ok(Next::ChangeTo(source));
        }
        let verified = is_complete || self.sent.content().is_none();
        let may_be_known_later = error.is_some() && detached.is_none();
        let source = match self.past_the_disk(growing, detached, verified).await {
            Err(Error::ContentReplaced) if may_be_known_later => {
                until_over(progress).await.map(|flight| BodySource::Following(flight, false))
            }
            source => source,
        };
        source.map(Next::ChangeTo)
    }

    /// The rest of a flight that failed with `error`, which says nothing about this client: as the client itself asks.
    async fn without_leader(&mut self, error: &Error, hasher: Option<Hasher>) -> Result<BodySource, Error> {
        tracing::info!(digest = %self.reader.digest, at = self.at, %error, "a client goes on without the leader of its download");
        Ok(match self.by_itself(hasher).await? {
            BodySource::Passthrough(passthrough, _) => BodySource::Passthrough(passthrough, "leader_failed"),
            source => source,
        })
    }

    /// The rest of a flight, without others. `hasher` is a window's hash of what the client has; without one it has
    /// taken nothing from a window.
    async fn by_itself(&mut self, hasher: Option<Hasher>) -> Result<BodySource, Error> {
        let (sent, growing) = (hasher.map(|hasher| (self.at, hasher)), self.sent.content().cloned());
        let verified = sent.is_none() && growing.is_none();
        self.past_the_disk(growing, sent, verified).await
    }

    /// The disk does not give a stored blob: it is fetched anew, and this answer goes on from there. A blob that is
    /// damaged is quarantined.
    async fn repair(&mut self, lost: Blob, error: store::Error) -> Result<Next, Error> {
        let hangs = matches!(error, store::Error::Hangs);
        let reason = match error {
            store::Error::Damaged { reason, .. } => reason,
            other => other.to_string(),
        };
        if !hangs {
            self.reader.stored.quarantine(&lost, reason.clone()).await;
        }
        self.lost = Some(lost);
        // What was sent was verified: right content begins like that.
        self.sent.is_right();
        self.repairs += 1;
        let anew = match self.repairs > REPAIRS_MAX {
            true => None,
            false => self.reader.download_anew(hangs, &reason, self.at).await?,
        };
        Ok(Next::ChangeTo(match anew {
            Some(Download::Stored(stored)) => BodySource::Stored(stored.blob),
            Some(Download::Following(followed)) => {
                self.is_own_answer = followed.is_own_answer;
                BodySource::Following(followed.progress, true)
            }
            None => self.past_the_disk(None, None, true).await?,
        }))
    }

    /// The blob of a complete download whose file is damaged, if it is in the store by now: it is repaired like any
    /// stored blob.
    async fn committed(&mut self) -> Option<BodySource> {
        self.repairs += 1;
        if self.repairs > REPAIRS_MAX {
            return None;
        }
        self.reader.stored.open(self.reader.digest).await.map(BodySource::Stored)
    }

    /// The rest from upstream, past the disk. That of a whole body is verified together with what the client has: by
    /// the hash of what a download received, if that is as far as this body is; else of what can be read back; else all
    /// of it is fetched again, and must begin with what the download received, unless that was verified.
    async fn past_the_disk(
        &mut self,
        growing: Option<FlightContent>,
        detached: Option<(u64, Hasher)>,
        verified: bool,
    ) -> Result<BodySource, Error> {
        let (at, digest) = (self.at, self.reader.digest);
        let hasher = match &detached {
            Some((written, hasher)) if *written == at && self.to_end => Some(hasher.clone()),
            _ if self.is_whole() => self.hash_of_sent(growing).await,
            _ => None,
        };
        let passthrough = match hasher {
            Some(hasher) => {
                let share = self.reader.own_memory()?;
                let body = self.reader.upstream_from(at).await?;
                Passthrough::rest(body, hasher, digest, self.end, share)
            }
            // What was sent cannot be read back to be compared.
            None if self.is_whole() => {
                if verified {
                    return Ok(BodySource::Again(self.refetch()));
                }
                let Some(received) = detached.filter(|(written, _)| *written >= at) else {
                    return Err(Error::ContentReplaced);
                };
                if !self.refetch().has_place(at) {
                    return Err(Error::SentBytesLost);
                }
                let share = self.reader.own_memory()?;
                let body = self.reader.upstream_from(0).await?;
                Passthrough::again(body, digest, at, Some(received), self.end, share)
            }
            None => Passthrough::range(self.reader.upstream_from(at).await?),
        };
        Ok(BodySource::Passthrough(Box::new(passthrough), "disk"))
    }

    fn refetch(&mut self) -> Arc<RefetchOfBody> {
        let (reader, size) = (&self.reader, self.end.filter(|_| self.to_end));
        Arc::clone(self.refetch.get_or_insert_with(|| Arc::new(RefetchOfBody::new(reader.clone(), size))))
    }

    /// What is asked for a range of a file that `check` checks, if the file does not give it any more.
    fn refetch_for(&mut self, check: Option<Arc<dyn IntegrityCheck>>) -> Arc<dyn Refetch> {
        // What a download has not verified may be wrong, and a right end behind it would make a wrong body complete:
        // only the very bytes that were received may take their place.
        match check.filter(|_| !self.is_whole() || self.is_unverified()) {
            Some(check) => Arc::new(RefetchOfPart::new(self.refetch(), check)),
            None => self.refetch(),
        }
    }

    /// Whether the client has, or is about to get, bytes that are not verified yet.
    fn is_unverified(&self) -> bool {
        match &self.source {
            BodySource::Following(progress, _) => progress.borrow().verified_size().is_none(),
            _ => self.sent.content().is_some(),
        }
    }

    fn is_whole(&self) -> bool {
        self.from_start && self.to_end
    }

    /// The hash of what the client of a whole body has, read back from where it was sent from; `None` if that cannot be
    /// read any more. A blob that was damaged further on was right up to here.
    async fn hash_of_sent(&self, growing: Option<FlightContent>) -> Option<Hasher> {
        if self.at == 0 {
            return Some(self.reader.digest.hasher());
        }
        if let Some(growing) = growing
            && let Ok(hasher) = growing.hash_until(self.at).await
        {
            return Some(hasher);
        }
        // Bytes of a later download are not those of the blob that was damaged.
        let lost = self.lost.as_ref().filter(|_| self.sent.content().is_none())?;
        lost.hash_until(self.at).await.ok()
    }

    /// A range far ahead of the readable offset, asked for by itself; `None` from a registry that does not answer
    /// ranges, which would send everything before it too, or that does not answer now: the fill gets there. A whole
    /// body goes on like that only if what its client has can be hashed, and then to its end.
    async fn jump(&self, progress: &watch::Receiver<Progress>) -> Option<BodySource> {
        let (at, digest) = (self.at, self.reader.digest);
        let sent = match self.is_whole() {
            true => Some((self.hash_of_sent(None).await?, self.reader.own_memory().ok()?)),
            false => None,
        };
        let body = match self.reader.upstream_from(at).await {
            Ok(body) if body.is_ranged() => body,
            Ok(_) => return None,
            Err(error) => {
                tracing::debug!(%digest, at, %error, "a range cannot be asked for by itself");
                return None;
            }
        };
        tracing::debug!(%digest, at, "a range far ahead is asked for by itself");
        Some(match sent {
            Some((hasher, share)) => {
                let rest = Passthrough::rest(body, hasher, digest, self.end, share);
                BodySource::Passthrough(Box::new(rest), "out_of_order")
            }
            None => BodySource::OutOfOrder(Box::new(body), progress.clone()),
        })
    }
}

/// What it means that a source ends at byte `at` of a body up to `end`: that of a blob of unknown size ends there too.
///
/// # Errors
/// Any other has ended short.
fn end_of(at: u64, end: Option<u64>) -> Result<Next, Error> {
    match end {
        None => Ok(Next::End),
        Some(end) => Err(Error::ShortBody { missing: end - at }),
    }
}

/// Whether what a client was sent of a flight may be right although that failed with `error` for its leader.
fn is_leaders_own(error: &Error) -> bool {
    concerns_leader_only(error, false) && !matches!(error, Error::Store(_))
}
