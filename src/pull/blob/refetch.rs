//! Bytes that were handed to a connection as a range of a file, and that the file gives no more when they are sent: the
//! filesystem was shut down, or the file was changed.
//!
//! For a client that gets the whole blob, the whole is fetched again, past the disk, and its digest verified; then the bytes
//! go out in the place of the file's. For a client that gets a part of it, the bytes alone are fetched, in whole chunks, and
//! compared with the checksums that the file's had. Promises: no byte of a whole body whose content was not verified as a
//! whole; no more memory than [`KEPT_BYTES`] a body; no more bodies, bytes and time than [`super::refetch_places`] says,
//! beyond which the body ends short. One body fetches its blob once for all ranges that it had handed over.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::timeout;

use super::passthrough::Passthrough;
use super::reader::Reader;
use super::refetch_places::{REFETCH_WAIT_MAX, RefetchPlaces};
use crate::support::body_chunk::{IntegrityCheck, KnownBytes, Refetch, Refetched};

/// Bytes that are kept from the first that is missing on: what a connection holds of one body, in ranges of 256 KiB.
const KEPT_BYTES: usize = 1024 * 1024;

/// Fetches what the file of one body does not give.
pub(super) struct RefetchOfBody {
    reader: Reader,
    /// Bytes of the blob, where they are known.
    size: Option<u64>,
    /// That of the body, once it has fetched something again, until it ends.
    place: parking_lot::Mutex<Option<OwnedSemaphorePermit>>,
    /// What was fetched last, and its offset.
    kept: Mutex<Option<(u64, Bytes)>>,
}

impl RefetchOfBody {
    /// For a body that `reader` reads, of a blob of `size` bytes.
    pub(super) fn new(reader: Reader, size: Option<u64>) -> Self {
        Self { reader, size, place: parking_lot::Mutex::default(), kept: Mutex::default() }
    }

    /// Whether the body may fetch so many bytes again before its client gets any.
    pub(super) fn has_place(&self, bytes: u64) -> bool {
        let mut place = self.place.lock();
        if place.is_none() {
            *place = self.reader.refetches.take();
        }
        place.is_some() && RefetchPlaces::may_come_again(bytes)
    }

    async fn range(&self, offset: u64, len: usize) -> Option<Bytes> {
        let mut kept = self.kept.lock().await;
        if let Some(bytes) = kept.as_ref().and_then(|(start, bytes)| part(*start, bytes, offset, len)) {
            return Some(bytes);
        }
        if !self.may_begin(offset, self.size.unwrap_or(offset)) {
            return None;
        }
        let fetched = timeout(REFETCH_WAIT_MAX, self.fetch(offset)).await.ok()??;
        *kept = Some((offset, fetched.clone()));
        part(offset, &fetched, offset, len)
    }

    fn may_begin(&self, offset: u64, bytes: u64) -> bool {
        let (digest, has_place) = (self.reader.digest, self.has_place(bytes));
        if has_place {
            tracing::error!(%digest, offset, "what was about to be sent cannot be read any more; it is fetched again");
        } else {
            tracing::error!(%digest, offset, "what was about to be sent cannot be read any more; the body ends short");
        }
        has_place
    }

    /// The bytes at `offset`, [`KEPT_BYTES`] at most, once the whole was verified.
    async fn fetch(&self, offset: u64) -> Option<Bytes> {
        let digest = self.reader.digest;
        let body = self.reader.upstream_from(0).await.ok()?;
        let mut whole = Passthrough::rest(body, digest.hasher(), digest, None, self.reader.memory.share());
        let (mut kept, mut at) = (BytesMut::new(), 0);
        while let Some(next) = whole.next().await {
            let bytes = match next {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!(%digest, %error, "what was about to be sent cannot be fetched again");
                    return None;
                }
            };
            let from = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
            let until = (from + KEPT_BYTES - kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[from..until]);
            at += bytes.len() as u64;
        }
        self.count(kept.len());
        Some(kept.freeze())
    }

    /// The bytes at `offset`, out of the chunks that have them.
    async fn known(&self, known: KnownBytes, offset: u64, len: usize) -> Option<Bytes> {
        let KnownBytes { range, is_equal } = known;
        let (digest, all) = (self.reader.digest, usize::try_from(range.end - range.start).ok()?);
        let opened =
            self.reader.upstream.open(&self.reader.context, digest, range.start, Some(range.end)).await;
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
        self.reader.metrics.passthrough.with_label_values(&["disk"]).inc_by(bytes as u64);
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
            if !self.body.may_begin(offset, 0) {
                return None;
            }
            let (check, end) = (Arc::clone(&self.check), offset + len as u64);
            let known = tokio::task::spawn_blocking(move || check.known(offset, end)).await.ok()??;
            timeout(REFETCH_WAIT_MAX, self.body.known(known, offset, len)).await.ok()?
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
