//! Bodies of responses: their chunks counted, small ones read whole under a limit, useless ones drained.
//!
//! Deliberately not here: a blob's body, which is bounded by its rate (`download`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use tokio::time::{Instant, timeout, timeout_at};

use crate::reference::Registry;
use crate::support::byte_budget::{ByteBudget, Reserved};
use crate::support::size;
use crate::upstream::error::{BoxError, ConnectStage, Error, NodeLimit, root_cause};
use crate::upstream::received::ReceivedCounter;

/// The body of a response, from a connection or from a test.
pub(crate) type ResponseBody = BoxBody<Bytes, BoxError>;

/// The chunks of a response body, counted. Trailers are dropped: nothing in them is used.
pub(super) struct Chunks {
    pub(super) body: ResponseBody,
    /// `host:port` of the sender, for errors.
    pub(super) host: String,
    pub(super) received: ReceivedCounter,
}

impl Stream for Chunks {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(interrupted(&self.host, root_cause(&*error)))));
                }
                Some(Ok(frame)) => frame,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            self.received.add(bytes.len());
            return Poll::Ready(Some(Ok(bytes)));
        }
    }
}

/// The error of a body of `host` that did not come to its proper end.
pub(super) fn interrupted(host: &str, why: String) -> Error {
    Error::Unreachable { host: host.to_owned(), stage: ConnectStage::Body, why }
}

/// How long a body is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyWait {
    /// For its next chunk, and for memory.
    pub(super) idle: Duration,
    /// For all of it, if it is read whole.
    pub(super) whole: Duration,
}

/// The memory that large bodies of a registry are read into.
pub(super) struct Memory<'a> {
    /// By the domains of those who own registries: one has as many names as it likes.
    pub(super) budget: &'a ByteBudget<String>,
    pub(super) registry: &'a Registry,
    /// Bytes of the body, where the registry declares them.
    pub(super) declared: Option<u64>,
}

impl Memory<'_> {
    /// How large a body of at most `bytes_max` may become of which `here` have come.
    fn size_of(&self, here: usize, bytes_max: usize) -> usize {
        let declared = self.declared.and_then(|size| usize::try_from(size).ok());
        declared.unwrap_or(bytes_max).clamp(here, bytes_max)
    }
}

/// Why a body was not read whole.
#[derive(Debug)]
pub(super) struct NotWhole {
    pub(super) error: Error,
    pub(super) took_too_long: bool,
}

impl From<Error> for NotWhole {
    fn from(error: Error) -> Self {
        Self { error, took_too_long: false }
    }
}

/// All of a body of at most `bytes_max` bytes, when it takes no longer than `wait`.
///
/// # Errors
/// [`Error::Invalid`] for a larger body, or a large one that is longer than declared; [`Error::Unreachable`] for one
/// that stalls or breaks off; [`Error::Overloaded`] without memory for it.
pub(super) async fn read_whole(
    mut chunks: Chunks,
    bytes_max: usize,
    wait: BodyWait,
    memory: &Memory<'_>,
) -> Result<Bytes, NotWhole> {
    let (mut whole, end) = (BytesMut::new(), Instant::now() + wait.whole);
    let mut reserved = Reserved::default();
    loop {
        let next = (Instant::now() + wait.idle).min(end);
        match timeout_at(next, chunks.next()).await {
            Err(_) => {
                let why = if next == end {
                    format!("not all of a body within {:?}", wait.whole)
                } else {
                    format!("no data for {:?}", wait.idle)
                };
                return Err(NotWhole { error: interrupted(&chunks.host, why), took_too_long: true });
            }
            Ok(None) => {
                reserved.shrink(whole.len());
                return Ok(reserved.hold(whole.freeze()));
            }
            Ok(Some(Err(error))) => return Err(error.into()),
            Ok(Some(Ok(bytes))) => {
                let here = whole.len() + bytes.len();
                if here > bytes_max {
                    let why = format!("a body larger than {}", size::shown(bytes_max as u64));
                    return Err(Error::Invalid { host: chunks.host, why }.into());
                }
                if !reserved.covers(here) {
                    // Of two headers that frame a body, HTTP follows `Transfer-Encoding`.
                    if !reserved.is_nothing() {
                        let why = "a body longer than its Content-Length".to_owned();
                        return Err(Error::Invalid { host: chunks.host, why }.into());
                    }
                    let size = memory.size_of(here, bytes_max);
                    let owner = || memory.registry.owner_domain();
                    let overloaded = |_| Error::Overloaded {
                        limit: NodeLimit::ManifestMemory,
                        host: chunks.host.clone(),
                        why: "the memory for large manifests is used up".to_owned(),
                    };
                    let reserving = memory.budget.reserve_if_large(owner, size, wait.idle);
                    reserved = reserving.await.map_err(overloaded)?;
                    whole.reserve(size.saturating_sub(whole.len()));
                }
                whole.extend_from_slice(&bytes);
            }
        }
    }
}

/// All of a body of at most `bytes_max` bytes; the caller bounds the time.
///
/// # Errors
/// Why there is none.
pub(crate) async fn read_small(mut body: ResponseBody, bytes_max: usize) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| root_cause(&*error))?;
        let Ok(bytes) = frame.into_data() else { continue };
        if whole.len() + bytes.len() > bytes_max {
            return Err(format!("a body larger than {}", size::shown(bytes_max as u64)));
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

/// Whether a body brings its first `bytes`, or its proper end, within `wait`.
pub(super) async fn brings(mut body: ResponseBody, bytes: usize, wait: Duration) -> bool {
    let mut read = 0;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read >= bytes {
                break;
            }
        }
        true
    };
    timeout(wait, reading).await.unwrap_or(false)
}

/// Reads the rest of a body that is of no use, so that its connection can be used again; gives up after 64 KiB or half
/// a second, when a new connection is cheaper.
pub(super) async fn drain(mut body: ResponseBody) {
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
    use std::io;

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;
    use crate::upstream::metrics::Recorder;
    use crate::upstream::received::ReceivedBytes;

    const WAIT: BodyWait = BodyWait { idle: Duration::from_secs(1), whole: Duration::from_secs(3) };

    fn chunks(body: ResponseBody) -> (Chunks, ReceivedBytes) {
        let received = ReceivedBytes::new(Recorder::for_test());
        let counter = received.counter_for(&"reg.test".parse().unwrap(), None);
        (Chunks { body, host: "reg.test:443".to_owned(), received: counter }, received)
    }

    fn full(text: &'static str) -> ResponseBody {
        Full::from(text).map_err(|never| match never {}).boxed()
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_an_error_and_what_came_is_counted() {
        let (budget, registry) = (ByteBudget::new(1024, 1024), "reg.test".parse().unwrap());
        let memory = Memory { budget: &budget, registry: &registry, declared: None };
        let (wait, (body, received)) = (WAIT, chunks(full("12345")));
        assert_eq!(read_whole(body, 5, wait, &memory).await.unwrap(), "12345");
        assert_eq!(received.total(), 5);
        let NotWhole { error, .. } =
            read_whole(chunks(full("123456")).0, 5, wait, &memory).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_broken_body_is_not_taken_for_a_short_one() {
        let (budget, registry) = (ByteBudget::new(1024, 1024), "reg.test".parse().unwrap());
        let memory = Memory { budget: &budget, registry: &registry, declared: None };
        let frames = [Ok(Frame::data(Bytes::from_static(b"12"))), Err(io::Error::other("reset").into())];
        let body = BodyExt::boxed(StreamBody::new(stream::iter(frames)));
        let NotWhole { error, took_too_long } =
            read_whole(chunks(body).0, 5, WAIT, &memory).await.unwrap_err();
        assert!(error.to_string().contains("reset") && !took_too_long, "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_hardly_comes_is_not_read_for_ever() {
        let (budget, registry) = (ByteBudget::new(1024, 1024), "reg.test".parse().unwrap());
        let memory = Memory { budget: &budget, registry: &registry, declared: None };
        let slow = stream::repeat(()).then(|()| async {
            tokio::time::sleep(WAIT.idle / 2).await;
            Ok(Frame::data(Bytes::from_static(b"1")))
        });
        let body = BodyExt::boxed(StreamBody::new(slow));
        let NotWhole { error, took_too_long } =
            read_whole(chunks(body).0, 100, WAIT, &memory).await.unwrap_err();
        assert!(error.to_string().contains("within 3s") && took_too_long, "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_names_of_one_owner_together_leave_others_their_memory() {
        let budget = ByteBudget::new(2 << 20, 1 << 20);
        let _held = budget.reserve(&"evil.test".to_owned(), 1 << 20).await;
        let large = || Full::from(vec![b' '; 300_000]).map_err(|never| match never {}).boxed();
        for (name, is_read) in [("b.evil.test", false), ("c.evil.test:5000", false), ("other.test", true)] {
            let registry = name.parse().unwrap();
            let memory = Memory { budget: &budget, registry: &registry, declared: Some(300_000) };
            let read = read_whole(chunks(large()).0, 1 << 20, WAIT, &memory).await;
            let is_limit = |NotWhole { error, .. }: &NotWhole| {
                matches!(error, Error::Overloaded { limit: NodeLimit::ManifestMemory, .. })
            };
            assert_eq!((read.is_ok(), read.as_ref().is_err_and(is_limit)), (is_read, !is_read), "{name}");
        }
    }

    #[tokio::test]
    async fn a_body_takes_no_more_memory_than_its_registry_declared() {
        let (budget, registry) = (ByteBudget::new(300_000, 300_000), "reg.test".parse().unwrap());
        for (declared, bytes, is_read) in
            [(262_145, 1 << 20, false), (100, 1 << 20, false), (290_000, 290_000, true), (100, 1_000, true)]
        {
            let memory = Memory { budget: &budget, registry: &registry, declared: Some(declared) };
            let frames = vec![0; bytes];
            let frames: Vec<_> =
                frames.chunks(8_192).map(Bytes::copy_from_slice).map(Frame::data).map(Ok).collect();
            let body = BodyExt::boxed(StreamBody::new(stream::iter(frames)));
            let read = read_whole(chunks(body).0, 1 << 24, WAIT, &memory).await;
            let is_invalid = matches!(read, Err(NotWhole { error: Error::Invalid { .. }, .. }));
            assert_eq!((read.is_ok(), is_invalid), (is_read, !is_read), "{bytes} for {declared}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn draining_an_endless_body_ends() {
        let frames = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 1024]))));
        drain(BodyExt::boxed(StreamBody::new(frames))).await;
        drain(BodyExt::boxed(StreamBody::new(stream::pending()))).await;
    }
}
