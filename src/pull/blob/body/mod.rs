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
mod next;
mod out_of_order;
pub(super) mod reader;
mod refetch;
pub(super) mod refetch_places;
mod sent;

use std::sync::Arc;

use tokio::sync::watch;

use crate::pull::blob::body::follow::{Missing, ReceivedSoFar, Seen, follow, until_over};
use crate::pull::blob::body::next::{BodyState, Next};
use crate::pull::blob::body::out_of_order::{next_out_of_order, open_far_ahead};
use crate::pull::blob::body::reader::Reader;
use crate::pull::blob::body::refetch::{RefetchOfBody, RefetchOfPart};
use crate::pull::blob::body::sent::Sent;
use crate::pull::blob::download::{Followed, StoredOrFollowed};
use crate::pull::blob::flight::led_by::LedBy;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::blob::parts::partial::Partial;
use crate::pull::blob::parts::read::{PartRead, read_part};
use crate::pull::blob::past_the_disk::passthrough::Passthrough;
use crate::pull::blob::past_the_disk::window::Windowed;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::error::Error;
use crate::pull::metrics::PassedBytes;
use crate::reference::Hasher;
use crate::store::{self, Blob};
use crate::support::body_chunk::{BodyChunk, IntegrityCheck, Refetch};

/// Times that one answer is repaired: a disk that damages what was just written is not to be trusted further.
const REPAIRS_MAX: u32 = 3;

/// The body of an answer: a byte range of a blob, or all of it.
pub struct BlobBody {
    reader: Reader,
    state: BodyState,
    sent: Sent,
    /// Who leads the flight that it follows; itself if it follows none.
    led_by: LedBy,
    repairs: u32,
    /// Gets what was handed over as a range of a file and is not there any more when it is sent.
    refetch: Option<Arc<RefetchOfBody>>,
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl BlobBody {
    pub(crate) fn stored(reader: Reader, blob: Blob) -> Self {
        let size = Some(blob.size());
        Self::whole(reader, BodyState::Stored(blob), size)
    }

    /// The blob of a flight; `size` is what the head of the answer says.
    pub(crate) fn following(reader: Reader, followed: Followed, size: Option<u64>) -> Self {
        let Followed { led_by, progress } = followed;
        Self { led_by, ..Self::whole(reader, BodyState::following(progress), size) }
    }

    /// A part of a blob of `size` bytes that was fetched alone; the body is to be narrowed to it. One that turned out
    /// to be the whole is verified.
    ///
    /// # Errors
    /// Too many clients have to be verified by themselves.
    pub(crate) fn single_range(reader: Reader, body: SourceBody, size: u64) -> Result<Self, Error> {
        let passthrough = if body.begun_at() == 0 && body.is_to_end() {
            Passthrough::rest(body, reader.digest.hasher(), reader.digest, Some(size), reader.own_memory()?)
        } else {
            Passthrough::range(body)
        };
        let state = BodyState::Passthrough(Box::new(passthrough), PassedBytes::ByteRange);
        Ok(Self::whole(reader, state, Some(size)))
    }

    /// A blob of which parts are kept; the body is to be narrowed to a range.
    pub(crate) fn partial(reader: Reader, partial: Arc<Partial>) -> Self {
        let size = Some(partial.size);
        Self::whole(reader, BodyState::Partial(partial), size)
    }

    /// A blob of `size` bytes that is not stored and that there is no room for; the body is to be narrowed to a range.
    pub(crate) fn unstored(reader: Reader, size: u64) -> Self {
        Self::whole(reader, BodyState::Unopened, Some(size))
    }

    fn whole(reader: Reader, state: BodyState, size: Option<u64>) -> Self {
        Self { reader, state, sent: Sent::nothing(size), led_by: LedBy::Itself, repairs: 0, refetch: None }
    }

    /// Narrows the body to the bytes from `start` up to, not including, `end`.
    pub fn narrow(&mut self, start: u64, end: u64) {
        self.sent.narrow(start, end);
    }

    /// The next bytes; `None` when all have been returned.
    ///
    /// # Errors
    /// The rest cannot be had. What was returned before is right, or will never be completed.
    pub async fn next(&mut self) -> Option<Result<BodyChunk, Error>> {
        loop {
            if self.sent.is_over() {
                return None;
            }
            if let Some(refetch) = self.refetch.as_ref().filter(|refetch| refetch.has_lost())
                && !matches!(self.state, BodyState::Again(_))
            {
                self.state = BodyState::Again(Arc::clone(refetch));
            }
            match self.look().await {
                Ok(Next::Chunk(chunk)) if chunk.is_empty() => {}
                Ok(Next::Chunk(mut chunk)) => {
                    self.sent.advance(chunk.len());
                    if let BodyChunk::File(range) = &mut chunk {
                        range.refetch = Some(self.refetch_for(range.check.clone()));
                    }
                    if self.sent.is_over() {
                        self.refetch.iter().for_each(|refetch| refetch.note_end());
                    }
                    return Some(Ok(chunk));
                }
                Ok(Next::End) => {
                    self.refetch.iter().for_each(|refetch| refetch.note_end());
                    return None;
                }
                Ok(Next::ChangeTo(state)) => self.state = state,
                Err(error) => {
                    self.sent.cut_off();
                    return Some(Err(error));
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Next, Error> {
        let (at, end) = (self.sent.at(), self.sent.end());
        match &mut self.state {
            BodyState::Stored(blob) if at >= blob.size() => Next::end_of(at, end),
            BodyState::Stored(blob) => match blob.read(at, end.unwrap_or(blob.size())).await {
                Ok(chunk) => Ok(Next::Chunk(chunk)),
                Err(error) => {
                    let lost = blob.clone();
                    Box::pin(self.repair(lost, error)).await
                }
            },
            BodyState::Following { progress, may_jump } => {
                match follow(self.reader.digest, progress, &mut self.sent, *may_jump).await {
                    Ok(Seen::Chunk(chunk)) => Ok(Next::Chunk(chunk)),
                    seen => {
                        let progress = progress.clone();
                        Box::pin(self.no_chunk(seen, progress)).await
                    }
                }
            }
            BodyState::OutOfOrder(body, progress) => {
                let is_leaders = self.led_by.asks_the_same();
                let next = next_out_of_order(self.reader.digest, body, progress, at, is_leaders);
                Ok(match next.await? {
                    Some(bytes) => Next::Chunk(self.reader.pass(bytes, PassedBytes::OutOfOrder, at, end)),
                    None => Next::ChangeTo(BodyState::following(progress.clone())),
                })
            }
            BodyState::Partial(partial) => {
                let Reader { source, context, digest, .. } = &self.reader;
                let range = at..end.unwrap_or(partial.size);
                Ok(match Box::pin(read_part(source, context, *digest, partial, range)).await? {
                    PartRead::Kept(bytes) => Next::Chunk(bytes.into()),
                    PartRead::Past(passthrough) => {
                        Next::ChangeTo(BodyState::Passthrough(passthrough, PassedBytes::ByteRange))
                    }
                })
            }
            BodyState::Unopened => {
                Ok(Next::ChangeTo(Box::pin(self.go_on_past_the_disk(ReceivedSoFar::default())).await?))
            }
            BodyState::Shared(window) => match window.next().await {
                Ok(Windowed::Bytes(bytes)) => {
                    Ok(Next::Chunk(self.reader.pass(bytes, PassedBytes::NotStored, at, end)))
                }
                Ok(Windowed::End) => Next::end_of(at, end),
                Ok(Windowed::FellOut(hasher)) => Ok(Next::ChangeTo(Box::pin(self.by_itself(hasher)).await?)),
                Err(error) if self.led_by.goes_on_after(&error) => {
                    let hasher = window.so_far();
                    Ok(Next::ChangeTo(Box::pin(self.without_leader(&error, hasher)).await?))
                }
                Err(error) => Err(error),
            },
            BodyState::Again(again) => match again.next(at).await? {
                Some(bytes) => Ok(Next::Chunk(self.reader.pass(bytes, PassedBytes::NotStored, at, end))),
                None => Next::end_of(at, end),
            },
            BodyState::Passthrough(passthrough, reason) => match passthrough.next().await {
                Some(bytes) => Ok(Next::Chunk(self.reader.pass(bytes?, *reason, at, end))),
                None => Next::end_of(at, end),
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
            Ok(Seen::End) => Next::end_of(self.sent.at(), self.sent.end()),
            Ok(Seen::Shared(reader)) => Ok(Next::ChangeTo(BodyState::Shared(Box::new(reader)))),
            Ok(Seen::FarBehind) => {
                let jumped = self.jump(&progress).await;
                Ok(Next::ChangeTo(jumped.unwrap_or(BodyState::Following { progress, may_jump: false })))
            }
            Ok(Seen::NotOnDisk(missing)) => self.not_on_disk(*missing, progress).await,
            Err(error) if self.led_by.goes_on_after(&error) => {
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
        let Missing { received, error } = missing;
        if received.is_complete
            && let Some(state) = self.committed().await
        {
            return Ok(Next::ChangeTo(state));
        }
        let may_be_known_later = error.is_some() && received.start.is_none();
        Ok(Next::ChangeTo(match self.go_on_past_the_disk(received).await {
            Err(Error::ContentReplaced) if may_be_known_later => {
                BodyState::Following { progress: until_over(progress).await?, may_jump: false }
            }
            state => state?,
        }))
    }

    /// The rest of a flight that failed with `error`, which says nothing about this client: as the client itself asks.
    async fn without_leader(&mut self, error: &Error, hasher: Option<Hasher>) -> Result<BodyState, Error> {
        tracing::info!(digest = %self.reader.digest, at = self.sent.at(), %error, "a client goes on without the leader of its download");
        Ok(match self.by_itself(hasher).await? {
            BodyState::Passthrough(passthrough, _) => {
                BodyState::Passthrough(passthrough, PassedBytes::LeaderFailed)
            }
            state => state,
        })
    }

    /// The rest of a flight, without others. `hasher` is a window's hash of what the client has; without one it has
    /// taken nothing from a window.
    async fn by_itself(&mut self, hasher: Option<Hasher>) -> Result<BodyState, Error> {
        let start = hasher.map(|hasher| HashedStart::new(self.sent.at(), hasher));
        let growing = self.sent.content().cloned();
        self.go_on_past_the_disk(ReceivedSoFar { growing, start, is_complete: false }).await
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
        self.sent.lose(lost);
        self.repairs += 1;
        let anew = match self.repairs > REPAIRS_MAX {
            true => None,
            false => self.reader.download_anew(hangs, &reason, self.sent.at()).await?,
        };
        Ok(Next::ChangeTo(match anew {
            Some(StoredOrFollowed::Stored(stored)) => BodyState::Stored(stored.blob),
            Some(StoredOrFollowed::Following(followed)) => {
                self.led_by = followed.led_by;
                BodyState::following(followed.progress)
            }
            None => self.go_on_past_the_disk(ReceivedSoFar::default()).await?,
        }))
    }

    /// The blob of a complete download whose file is damaged, if it is in the store by now: it is repaired like any
    /// stored blob.
    async fn committed(&mut self) -> Option<BodyState> {
        self.repairs += 1;
        if self.repairs > REPAIRS_MAX {
            return None;
        }
        self.reader.stored.open(self.reader.digest).await.map(BodyState::Stored)
    }

    /// The rest from upstream, past the disk. That of a whole body is verified together with what the client has: by
    /// the hash of what a download received, if that is as far as this body is; else of what can be read back; else all
    /// of it is fetched again, and must begin with what the download received, unless that was verified.
    async fn go_on_past_the_disk(&mut self, received: ReceivedSoFar) -> Result<BodyState, Error> {
        let (at, end, digest) = (self.sent.at(), self.sent.end(), self.reader.digest);
        let ReceivedSoFar { growing, start, is_complete } = received;
        let hasher = match &start {
            Some(start) if start.len() == at && self.sent.is_to_end() => Some(start.hasher()),
            _ if self.sent.is_whole() => self.sent.hash(digest, growing.as_ref()).await,
            _ => None,
        };
        let passthrough = match hasher {
            Some(hasher) => {
                let share = self.reader.own_memory()?;
                let body = self.reader.source_from(at).await?;
                Passthrough::rest(body, hasher, digest, end, share)
            }
            // What was sent cannot be read back to be compared.
            None if self.sent.is_whole() => {
                if is_complete || self.sent.content().is_none() {
                    return Ok(BodyState::Again(self.refetch()));
                }
                let Some(start) = start.filter(|start| start.len() >= at) else {
                    return Err(Error::ContentReplaced);
                };
                if !self.refetch().take_place(at) {
                    return Err(Error::SentBytesLost);
                }
                let share = self.reader.own_memory()?;
                let body = self.reader.source_from(0).await?;
                Passthrough::again(body, digest, at, Some(start), end, share)
            }
            None => Passthrough::range(self.reader.source_from(at).await?),
        };
        Ok(BodyState::Passthrough(Box::new(passthrough), PassedBytes::NotStored))
    }

    fn refetch(&mut self) -> Arc<RefetchOfBody> {
        let (reader, size) = (&self.reader, self.sent.end().filter(|_| self.sent.is_to_end()));
        Arc::clone(self.refetch.get_or_insert_with(|| Arc::new(RefetchOfBody::new(reader.clone(), size))))
    }

    /// What is asked for a range of a file that `check` checks, if the file does not give it any more.
    fn refetch_for(&mut self, check: Option<Arc<dyn IntegrityCheck>>) -> Arc<dyn Refetch> {
        // What a download has not verified may be wrong, and a right end behind it would make a wrong body complete:
        // only the very bytes that were received may take their place.
        match check.filter(|_| !self.sent.is_whole() || self.is_unverified()) {
            Some(check) => Arc::new(RefetchOfPart::new(self.refetch(), check)),
            None => self.refetch(),
        }
    }

    /// Whether the client has, or is about to get, bytes that are not verified yet.
    fn is_unverified(&self) -> bool {
        match &self.state {
            BodyState::Following { progress, .. } => progress.borrow().verified_size().is_none(),
            _ => self.sent.content().is_some(),
        }
    }

    /// A range far ahead of the readable offset, asked for by itself; `None` if it is not to be had: the fill gets
    /// there. A whole body goes on like that only if what its client has can be hashed, and then to its end.
    async fn jump(&self, progress: &watch::Receiver<Progress>) -> Option<BodyState> {
        let digest = self.reader.digest;
        let sent = match self.sent.is_whole() {
            true => Some((self.sent.hash(digest, None).await?, self.reader.own_memory().ok()?)),
            false => None,
        };
        let body = open_far_ahead(&self.reader, self.sent.at()).await?;
        Some(match sent {
            Some((hasher, share)) => {
                let rest = Passthrough::rest(body, hasher, digest, self.sent.end(), share);
                BodyState::Passthrough(Box::new(rest), PassedBytes::OutOfOrder)
            }
            None => BodyState::OutOfOrder(Box::new(body), progress.clone()),
        })
    }
}
