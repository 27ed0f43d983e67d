//! A blob's body while it arrives.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout};

use crate::upstream::body::interrupted;
use crate::upstream::endpoint::select::EndpointId;
use crate::upstream::error::Error;
use crate::upstream::proof::Proof;

/// Over each such window a body must bring at least [`RATE_MIN`] bytes a second; slower counts as stalled.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Bytes a second.
const RATE_MIN: u64 = 1024;

/// The body of a blob, or of a range of it. Dropping it ends the transfer.
pub struct Download {
    /// Bytes of the whole blob, where the registry declared them.
    pub size: Option<u64>,
    /// Where in the blob this body begins: the requested offset, or 0 if the registry ignored the range.
    pub offset: u64,
    /// The right that the delivery proves, once the content was verified.
    pub proof: Proof,
    /// Whether the registry stated the digest of the blob: the right is proved before the content is here.
    pub has_digest: bool,
    /// The endpoint that delivers it; `None` where there is none, in tests.
    pub endpoint: Option<EndpointId>,
    body: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send + Sync>>,
    limits: Option<TransferLimits>,
    returned: Option<Bytes>,
}

/// What a body must not fall below.
struct TransferLimits {
    host: String,
    /// The longest wait for the next chunk.
    idle: Duration,
    window_start: Instant,
    window_bytes: u64,
}

impl Download {
    /// A download of the chunks that `body` yields, which are not bounded in time. The stream ends where the body
    /// properly ends.
    pub fn new(
        size: Option<u64>,
        offset: u64,
        proof: Proof,
        body: impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static,
    ) -> Self {
        let body = Box::pin(body);
        Self { size, offset, proof, has_digest: false, endpoint: None, body, limits: None, returned: None }
    }

    /// The same download, delivered by `endpoint`.
    #[must_use]
    pub fn delivered_by(self, endpoint: EndpointId) -> Self {
        Self { endpoint: Some(endpoint), ..self }
    }

    /// The same download, which fails with `host` in its error when no chunk comes within `idle`, or when the chunks
    /// come too slowly.
    pub(super) fn bounded(self, host: String, idle: Duration) -> Self {
        let limits = TransferLimits { host, idle, window_start: Instant::now(), window_bytes: 0 };
        Self { limits: Some(limits), ..self }
    }

    /// The next chunk; `None` at the proper end of the body.
    ///
    /// # Errors
    /// [`Error::Unreachable`] at [`super::ConnectStage::Body`] when the body stalls, is too slow or breaks off.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if let Some(bytes) = self.returned.take() {
            return Some(Ok(bytes));
        }
        let Some(limits) = &mut self.limits else { return self.body.next().await };
        match timeout(limits.idle, self.body.next()).await {
            Ok(Some(Ok(bytes))) => Some(limits.count(bytes.len()).map(|()| bytes)),
            Ok(end) => end,
            Err(_) => Some(Err(interrupted(&limits.host, format!("no data for {:?}", limits.idle)))),
        }
    }

    /// Gives a chunk back: [`Download::next`] returns it before the rest of the body.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.returned = Some(bytes);
    }
}

impl TransferLimits {
    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.window_bytes += bytes as u64;
        let elapsed = self.window_start.elapsed();
        if elapsed < RATE_WINDOW {
            return Ok(());
        }
        if self.window_bytes < RATE_MIN * elapsed.as_secs() {
            return Err(interrupted(&self.host, format!("slower than {RATE_MIN} bytes a second")));
        }
        (self.window_start, self.window_bytes) = (Instant::now(), 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn chunk(text: &'static str) -> Result<Bytes, Error> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_chunk_that_is_put_back_is_not_lost() {
        let mut download =
            Download::new(Some(6), 0, Proof::Public, stream::iter([chunk("abc"), chunk("def")]));
        let first = download.next().await.unwrap().unwrap();
        download.put_back(first.slice(1..));
        let mut rest = Vec::new();
        while let Some(bytes) = download.next().await {
            rest.extend_from_slice(&bytes.unwrap());
        }
        assert_eq!(rest, b"bcdef");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_or_crawls_does_not_hold_its_reader_for_ever() {
        let idle = Duration::from_secs(30);
        let stalled = stream::iter([chunk("abc")]).chain(stream::pending());
        let mut download =
            Download::new(None, 0, Proof::Public, stalled).bounded("reg.test:443".to_owned(), idle);
        assert_eq!(download.next().await.unwrap().unwrap(), "abc");
        let error = download.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("no data for 30s"), "{error}");

        let slow = stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            chunk("abc")
        });
        let mut download =
            Download::new(None, 0, Proof::Public, slow).bounded("reg.test:443".to_owned(), idle);
        let mut error = None;
        for _ in 0..4 {
            error = download.next().await.unwrap().err().or(error);
        }
        assert!(error.unwrap().to_string().contains("slower than 1024 bytes a second"));
    }
}
