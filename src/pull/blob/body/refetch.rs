//! Bytes that were handed to a connection as a range of a file, and that the file gives no more when they are sent: the
//! filesystem was shut down, or the file was changed.
//!
//! For a client that gets the whole blob, the whole is fetched again, past the disk: once for all ranges that were
//! handed over and for what follows them, and verified like every whole body, its end withheld until then. Where the
//! end was handed over already, nothing is given before all of it is verified. For a client that gets a part of it, or
//! follows a download that is not verified yet, the bytes alone are fetched, in whole chunks, and compared with the
//! checksums that the file's had. Promises: no whole body that is wrong is complete; no more memory than [`KEPT_BYTES`]
//! a body; no more bodies, bytes and time than [`super::refetch_places`] says, beyond which the body ends short.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::timeout;

use super::reader::Reader;
use super::refetch_places::{REFETCH_WAIT_MAX, RefetchPlaces};
use crate::pull::blob::past_the_disk::passthrough::Passthrough;
use crate::pull::error::Error;
use crate::pull::metrics::PassedBytes;
use crate::support::body_chunk::{IntegrityCheck, KnownBytes, Refetch, Refetched};

/// Bytes that are kept from the first that is missing on: what a connection holds of one body, in ranges of 512 KiB.
const KEPT_BYTES: usize = 1024 * 1024;

/// Fetches what the file of one body does not give.
pub(super) struct RefetchOfBody {
    reader: Reader,
    /// Bytes of the blob, where they are known.
    size: Option<u64>,
    /// That of the body, once it has fetched something again, until it ends.
    place: parking_lot::Mutex<Option<OwnedSemaphorePermit>>,
    /// Whether a range was lost that had been handed over: what follows comes from `coming`, not from a file.
    has_lost: AtomicBool,
    /// Whether the end of the body was handed over.
    has_ended: AtomicBool,
    /// The whole, once some of it was asked for.
    coming: Mutex<Option<RefetchedBlob>>,
}

/// A blob on its way in the place of a file.
struct RefetchedBlob {
    body: Passthrough,
    /// The last bytes that came, and the offset of the first of them: what was handed over and is asked for again, and
    /// what follows, come in any order.
    kept: BytesMut,
    start: u64,
}

impl RefetchedBlob {
    fn end(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    /// Has the bytes before `end` come, if there are so many.
    async fn fetch_until(&mut self, end: u64) -> Result<(), Error> {
        while self.end() < end
            && let Some(bytes) = self.body.next().await
        {
            self.kept.extend_from_slice(&bytes?);
            let excess = self.kept.len().saturating_sub(KEPT_BYTES);
            drop(self.kept.split_to(excess));
            self.start += excess as u64;
        }
        Ok(())
    }

    /// `len` bytes at `offset`, if they are kept.
    fn part(&self, offset: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        Some(Bytes::copy_from_slice(self.kept.get(from..from.checked_add(len)?)?))
    }
}

impl RefetchOfBody {
    /// For a body that `reader` reads, of a blob of `size` bytes.
    pub(super) fn new(reader: Reader, size: Option<u64>) -> Self {
        Self {
            reader,
            size,
            place: parking_lot::Mutex::default(),
            has_lost: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            coming: Mutex::default(),
        }
    }

    /// Whether what follows has to come from here: bytes came that only the digest of the whole can verify.
    pub(super) fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Acquire)
    }

    /// The last bytes of the body were handed over: they cannot be withheld any more.
    pub(super) fn note_end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    /// Takes a place for the body, unless it has one; `false` if there is none, or for so many bytes before its client
    /// gets any.
    pub(super) fn take_place(&self, bytes: u64) -> bool {
        if !RefetchPlaces::may_come_again(bytes) {
            return false;
        }
        let mut place = self.place.lock();
        if place.is_none() {
            *place = self.reader.refetches.take();
        }
        place.is_some()
    }

    async fn range(&self, offset: u64, len: usize) -> Option<Bytes> {
        let (digest, end) = (self.reader.digest, offset + len as u64);
        // The body is asked for its next bytes by the connection that sends this range: not at the same time.
        self.has_lost.store(true, Ordering::Release);
        let until = if self.has_ended.load(Ordering::Acquire) { u64::MAX } else { end };
        let fetch = async {
            let mut coming = self.coming.lock().await;
            let coming = self.begun(&mut coming, offset).await?;
            coming.fetch_until(until).await?;
            Ok::<_, Error>(coming.part(offset, len))
        };
        match timeout(REFETCH_WAIT_MAX, fetch).await {
            Ok(Ok(bytes)) => {
                self.count(len);
                bytes
            }
            Ok(Err(error)) => {
                tracing::warn!(%digest, offset, %error, "what was about to be sent cannot be fetched again");
                None
            }
            Err(_) => None,
        }
    }

    /// The next bytes from `at` on, which no file has for this body; `None` at the end.
    ///
    /// # Errors
    /// Upstream; content that is not what the digest says; no place.
    pub(super) async fn next(&self, at: u64) -> Result<Option<Bytes>, Error> {
        let mut coming = self.coming.lock().await;
        let coming = self.begun(&mut coming, at).await?;
        coming.fetch_until(at + 1).await?;
        let len = usize::try_from(coming.end().saturating_sub(at)).unwrap_or(0);
        Ok(coming.part(at, len).filter(|bytes| !bytes.is_empty()))
    }

    /// The whole blob from upstream, for a client that has the bytes before `at`; begun here if it is not yet.
    async fn begun<'a>(
        &self,
        coming: &'a mut Option<RefetchedBlob>,
        at: u64,
    ) -> Result<&'a mut RefetchedBlob, Error> {
        let begun = match coming.take() {
            Some(begun) => begun,
            None => {
                let has_place = self.take_place(at);
                self.log_loss(at, has_place);
                if !has_place {
                    return Err(Error::SentBytesLost);
                }
                let (digest, share) = (self.reader.digest, self.reader.own_memory()?);
                let body = self.reader.source_from(0).await?;
                let body = Passthrough::again(body, digest, at, None, self.size, share);
                RefetchedBlob { body, kept: BytesMut::new(), start: at }
            }
        };
        Ok(coming.insert(begun))
    }

    /// Logs that what was handed over at `offset` is not there any more, and what becomes of the body.
    fn log_loss(&self, offset: u64, is_fetched_again: bool) {
        let digest = self.reader.digest;
        if is_fetched_again {
            tracing::error!(%digest, offset, "what was about to be sent cannot be read any more; it is fetched again");
        } else {
            tracing::error!(%digest, offset, "what was about to be sent cannot be read any more; the body ends short");
        }
    }

    /// The bytes at `offset`, out of the chunks that have them.
    async fn known(&self, known: KnownBytes, offset: u64, len: usize) -> Option<Bytes> {
        let KnownBytes { range, is_equal } = known;
        let (digest, all) = (self.reader.digest, usize::try_from(range.end - range.start).ok()?);
        let opened =
            self.reader.source.open(&self.reader.context, digest, range.start, Some(range.end)).await;
        // A registry that does not answer ranges would send everything before it.
        let mut body = opened.ok().filter(|body| body.is_ranged())?;
        let mut bytes = BytesMut::with_capacity(all);
        while bytes.len() < all {
            bytes.extend_from_slice(&body.next().await?.ok()?);
        }
        bytes.truncate(all);
        body.finish().await;
        if !is_equal(&bytes) {
            tracing::warn!(%digest, offset, "upstream sends other bytes than those that were about to be sent");
            return None;
        }
        self.count(len);
        part(range.start, &bytes.freeze(), offset, len)
    }

    fn count(&self, bytes: usize) {
        self.reader.metrics.passthrough.add(PassedBytes::NotStored, bytes as u64);
    }
}

impl Refetch for RefetchOfBody {
    fn refetch(self: Arc<Self>, offset: u64, len: usize) -> Refetched {
        Box::pin(async move { self.range(offset, len).await })
    }
}

/// Fetches what a file does not give of a body that is a part of its blob.
pub(super) struct RefetchOfPart {
    body: Arc<RefetchOfBody>,
    check: Arc<dyn IntegrityCheck>,
}

impl RefetchOfPart {
    /// For `body`, and the file that `check` checks.
    pub(super) fn new(body: Arc<RefetchOfBody>, check: Arc<dyn IntegrityCheck>) -> Self {
        Self { body, check }
    }
}

impl Refetch for RefetchOfPart {
    fn refetch(self: Arc<Self>, offset: u64, len: usize) -> Refetched {
        Box::pin(async move {
            // Until the bytes are here: none of them is kept.
            let place = self.body.reader.refetches.take();
            self.body.log_loss(offset, place.is_some());
            let place = place?;
            let (check, end) = (Arc::clone(&self.check), offset + len as u64);
            let fetched = async { self.body.known(check.known(offset, end).await?, offset, len).await };
            let fetched = timeout(REFETCH_WAIT_MAX, fetched).await.ok()?;
            drop(place);
            fetched
        })
    }
}

/// `len` bytes at `offset` of the blob, out of `bytes` at `start`.
fn part(start: u64, bytes: &Bytes, offset: u64, len: usize) -> Option<Bytes> {
    let from = usize::try_from(offset.checked_sub(start)?).ok()?;
    let until = from.checked_add(len)?;
    (until <= bytes.len()).then(|| bytes.slice(from..until))
}

#[cfg(test)]
#[path = "refetch_tests.rs"]
mod tests;
