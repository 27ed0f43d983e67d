//! Bodies of registry responses: bounded in time, and those that are read whole also in size.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use super::error::{ConnectStage, Error};
use super::transport::connect::innermost;
use crate::support::metrics::IntCounter;

/// Over each such window a body must bring at least [`RATE_MIN`] bytes a second; slower counts as stalled.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Bytes a second.
const RATE_MIN: u64 = 1024;

/// The body of a blob, or of a range of it, while it arrives. Dropping it ends the transfer.
pub struct Download {
    /// Bytes of the whole blob, where the registry declared them.
    pub size: Option<u64>,
    /// Where in the blob this body begins: the requested offset, or 0 if the registry ignored the range.
    pub offset: u64,
    /// Whether the registry required no credential for it.
    pub public: bool,
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
    /// A download of the chunks that `body` yields; `None` of `body` is the proper end. The chunks are not bounded in
    /// time.
    pub fn new(
        size: Option<u64>,
        offset: u64,
        public: bool,
        body: impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static,
    ) -> Self {
        Self { size, offset, public, body: Box::pin(body), limits: None, returned: None }
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
    /// [`Error::Unreachable`] at [`ConnectStage::Body`] when the body stalls, is too slow or breaks off.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if let Some(bytes) = self.returned.take() {
            return Some(Ok(bytes));
        }
        let Some(limits) = &mut self.limits else { return self.body.next().await };
        match timeout(limits.idle, self.body.next()).await {
            Ok(Some(Ok(bytes))) => Some(limits.count(bytes.len()).map(|()| bytes)),
            Ok(end) => end,
            Err(_) => Some(Err(broke_off(&limits.host, format!("no data for {:?}", limits.idle)))),
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
            return Err(broke_off(&self.host, format!("slower than {RATE_MIN} bytes a second")));
        }
        (self.window_start, self.window_bytes) = (Instant::now(), 0);
        Ok(())
    }
}

/// The chunks of a response body, counted. Trailers are dropped: nothing in them is used.
pub(super) struct Chunks {
    pub(super) body: Incoming,
    pub(super) host: String,
    pub(super) received: IntCounter,
}

impl Stream for Chunks {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(broke_off(&self.host, innermost(&error)))));
                }
                Some(Ok(frame)) => frame,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            self.received.inc_by(bytes.len() as u64);
            return Poll::Ready(Some(Ok(bytes)));
        }
    }
}

fn broke_off(host: &str, why: String) -> Error {
    Error::Unreachable { host: host.to_owned(), stage: ConnectStage::Body, why }
}

/// All of a body of at most `limit` bytes.
pub(super) async fn whole(mut chunks: Chunks, limit: usize, idle: Duration) -> Result<Bytes, Error> {
    let mut all = BytesMut::new();
    loop {
        match timeout(idle, chunks.next()).await {
            Err(_) => return Err(broke_off(&chunks.host, format!("no data for {idle:?}"))),
            Ok(None) => return Ok(all.freeze()),
            Ok(Some(Err(error))) => return Err(error),
            Ok(Some(Ok(bytes))) => {
                if all.len() + bytes.len() > limit {
                    let why = format!("a body larger than {limit} bytes");
                    return Err(Error::Invalid { host: chunks.host, why });
                }
                all.extend_from_slice(&bytes);
            }
        }
    }
}

/// Reads the rest of a body that is of no use, so that its connection can be used again; gives up early.
pub(super) async fn drain(mut body: Incoming) {
    const BYTES_MAX: usize = 64 * 1024;
    const WAIT: Duration = Duration::from_millis(500);
    let mut read = 0;
    let _ = timeout(WAIT, async {
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > BYTES_MAX {
                break;
            }
        }
    })
    .await;
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
        let mut download = Download::new(Some(6), 0, true, stream::iter([chunk("abc"), chunk("def")]));
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
        let mut download = Download::new(None, 0, true, stalled).bounded("reg.test:443".to_owned(), idle);
        assert_eq!(download.next().await.unwrap().unwrap(), "abc");
        let error = download.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("no data for 30s"), "{error}");

        let slow = stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            chunk("abc")
        });
        let mut download = Download::new(None, 0, true, slow).bounded("reg.test:443".to_owned(), idle);
        let mut error = None;
        for _ in 0..4 {
            error = download.next().await.unwrap().err().or(error);
        }
        assert!(error.unwrap().to_string().contains("slower than 1024 bytes a second"));
    }
}
