//! Bytes that were handed to a connection as a range of a file, and that the file gives no more when they are sent: the
//! filesystem was shut down, or the file was changed.
//!
//! The whole blob is fetched again, past the disk, and its digest verified; then the bytes go out in the place of the
//! file's. Promises: no byte of content that was not verified as a whole; no more memory than [`KEPT_BYTES`] a body. One
//! body fetches its blob once for all ranges that it had handed over.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;

use super::passthrough::Passthrough;
use super::reader::Reader;
use crate::support::body_chunk::{Refetch, Refetched};

/// Bytes that are kept from the first that is missing on: what a connection holds of one body, in ranges of 256 KiB.
const KEPT_BYTES: usize = 1024 * 1024;
/// How long it may take, while the client waits: that of a large layer over a slow line.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Fetches what the file of one body does not give.
pub(super) struct RefetchOfBody {
    reader: Reader,
    /// What was fetched last, and its offset.
    kept: Mutex<Option<(u64, Bytes)>>,
}

impl RefetchOfBody {
    /// For a body that `reader` reads.
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, kept: Mutex::new(None) }
    }

    async fn range(&self, offset: u64, len: usize) -> Option<Bytes> {
        let mut kept = self.kept.lock().await;
        if let Some(bytes) = kept.as_ref().and_then(|(start, bytes)| part(*start, bytes, offset, len)) {
            return Some(bytes);
        }
        let digest = self.reader.digest;
        tracing::error!(%digest, offset, "what was about to be sent cannot be read any more; it is fetched again");
        let fetched = tokio::time::timeout(WAIT_MAX, self.fetch(offset)).await.ok()??;
        *kept = Some((offset, fetched.clone()));
        part(offset, &fetched, offset, len)
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
        self.reader.metrics.passthrough.with_label_values(&["disk"]).inc_by(kept.len() as u64);
        Some(kept.freeze())
    }
}

impl Refetch for RefetchOfBody {
    fn refetch(self: Arc<Self>, offset: u64, len: usize) -> Refetched {
        Box::pin(async move { self.range(offset, len).await })
    }
}

/// `len` bytes at `offset` of the blob, out of `bytes` at `start`.
fn part(start: u64, bytes: &Bytes, offset: u64, len: usize) -> Option<Bytes> {
    let from = usize::try_from(offset.checked_sub(start)?).ok()?;
    let until = from.checked_add(len)?;
    (until <= bytes.len()).then(|| bytes.slice(from..until))
}
