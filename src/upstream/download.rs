//! A blob's body while it arrives.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::Instant;

use crate::support::deadline::Deadline;
use crate::support::slowness::{RateFloor, Speed, Throughput};
use crate::upstream::body::interrupted;
use crate::upstream::endpoint::select::EndpointId;
use crate::upstream::endpoint::tracked::TrackedBody;
use crate::upstream::error::Error;
use crate::upstream::proved_right::ProvedRight;

/// Where there is no other endpoint: slower counts as stalled.
const FLOOR: RateFloor = RateFloor { period: Duration::from_secs(60), bytes_a_second: 1024 };
/// Where another endpoint is left: at this rate a layer of 100 MB takes hours. Not more, since several connections
/// share a slow link.
const FLOOR_WITH_ALTERNATIVE: RateFloor =
    RateFloor { period: Duration::from_secs(15), bytes_a_second: 8 * 1024 };

/// The body of a blob, or of a range of it. Dropping it ends the transfer.
pub struct Download {
    /// Bytes of the whole blob, where the registry declared them.
    pub size: Option<u64>,
    /// Where in the blob this body begins: the requested offset, or 0 if the registry ignored the range.
    pub offset: u64,
    /// The right that the delivery proves, once the content was verified.
    pub proof: ProvedRight,
    /// Whether the registry stated the digest of the blob: the right is proved before the content is here.
    pub has_digest: bool,
    /// Whether a `Content-Encoding` says that the bytes are not those of the blob. Object stores say so of what was put
    /// there like that: the digest, or the size of the whole, says so.
    pub is_encoded: bool,
    /// The endpoint that delivers it.
    pub endpoint: EndpointId,
    body: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send + Sync>>,
    limits: Option<TransferLimits>,
    returned: Option<Bytes>,
}

/// What a body must not fall below.
struct TransferLimits {
    host: String,
    /// The longest wait for the next chunk.
    idle: Duration,
    /// When the wait for it is over; `None` before the first.
    timer: Option<Deadline>,
    floor: RateFloor,
    /// In this period.
    waited: Throughput,
    tracked: Option<TrackedBody>,
    has_alternative: bool,
}

impl Download {
    /// A download of the chunks that `body` yields from `endpoint`, which are not bounded in time. The stream ends
    /// where the body properly ends.
    pub fn new(
        size: Option<u64>,
        offset: u64,
        proof: ProvedRight,
        endpoint: EndpointId,
        body: impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static,
    ) -> Self {
        let body = Box::pin(body);
        let (has_digest, is_encoded) = (false, false);
        let (limits, returned) = (None, None);
        Self { size, offset, proof, has_digest, is_encoded, endpoint, body, limits, returned }
    }

    /// The same download, which fails with `host` in its error when no chunk comes within `idle`, or when the chunks
    /// come too slowly, sooner if another endpoint is left. `tracked` records what becomes of it.
    pub(super) fn bounded(
        self,
        host: String,
        idle: Duration,
        tracked: Option<TrackedBody>,
        has_alternative: bool,
    ) -> Self {
        let floor = if has_alternative { FLOOR_WITH_ALTERNATIVE } else { FLOOR };
        let waited = Throughput::default();
        let limits = TransferLimits { host, idle, timer: None, floor, waited, tracked, has_alternative };
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
        let body = &mut self.body;
        // What is there already was not waited for.
        let mut waits_since = None;
        let next = poll_fn(|cx| match body.as_mut().poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => {
                let since = *waits_since.get_or_insert_with(Instant::now);
                limits.poll_idle(since, cx).map(|()| None)
            }
        });
        let next = next.await;
        let waited = waits_since.map_or(Duration::ZERO, |since| since.elapsed());
        match next {
            Some(Some(Ok(bytes))) => Some(limits.count(bytes.len(), waited).map(|()| bytes)),
            Some(Some(Err(error))) => Some(Err(error)),
            Some(None) => {
                limits.tracked.iter().for_each(TrackedBody::came);
                None
            }
            None => Some(Err(limits.stalled(format!("no data for {:?}", limits.idle)))),
        }
    }

    /// Gives a chunk back: [`Download::next`] returns it before the rest of the body.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.returned = Some(bytes);
    }
}

impl TransferLimits {
    /// Ready once it was waited too long since `since`.
    fn poll_idle(&mut self, since: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let ends_at = since + self.idle;
        let timer = self.timer.get_or_insert_with(|| Deadline::at(ends_at));
        timer.set(ends_at);
        timer.poll(cx)
    }

    fn count(&mut self, bytes: usize, waited: Duration) -> Result<(), Error> {
        self.waited.add(bytes as u64, waited);
        if self.waited.judge(&self.floor) == Speed::TooSlow {
            return Err(self.stalled(format!("slower than {} bytes a second", self.floor.bytes_a_second)));
        }
        Ok(())
    }

    fn stalled(&self, why: String) -> Error {
        let error = interrupted(&self.host, why);
        if self.has_alternative {
            self.tracked.iter().for_each(|tracked| tracked.stalled(&error));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn chunk(text: &'static str) -> Result<Bytes, Error> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    const IDLE: Duration = Duration::from_secs(30);

    fn bounded(body: impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static) -> Download {
        let endpoint = EndpointId::for_test("registry");
        let body = Download::new(None, 0, ProvedRight::Public, endpoint, body);
        body.bounded("reg.test:443".to_owned(), IDLE, None, false)
    }

    #[tokio::test]
    async fn a_chunk_that_is_put_back_is_not_lost() {
        let chunks = stream::iter([chunk("abc"), chunk("def")]);
        let mut download =
            Download::new(Some(6), 0, ProvedRight::Public, EndpointId::for_test("registry"), chunks);
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
        let stalled = stream::iter([chunk("abc")]).chain(stream::pending());
        let mut download = bounded(stalled);
        assert_eq!(download.next().await.unwrap().unwrap(), "abc");
        let error = download.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("no data for 30s"), "{error}");

        // The timer was set for a wait that is long over.
        let late = stream::iter([chunk("abc")]).chain(stream::once(async {
            tokio::time::sleep(Duration::from_secs(29)).await;
            chunk("def")
        }));
        let late = late.chain(stream::pending());
        let mut download = bounded(late);
        for expected in ["abc", "def"] {
            assert_eq!(download.next().await.unwrap().unwrap(), expected);
        }
        let begun = Instant::now();
        assert!(download.next().await.unwrap().is_err());
        assert_eq!(begun.elapsed(), IDLE, "each wait is timed by itself");

        let slow = stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            chunk("abc")
        });
        let mut download = bounded(slow);
        let mut error = None;
        for _ in 0..4 {
            error = download.next().await.unwrap().err().or(error);
        }
        assert!(error.unwrap().to_string().contains("slower than 1024 bytes a second"));
    }
}
