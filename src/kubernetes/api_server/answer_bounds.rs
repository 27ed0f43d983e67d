//! How much of an answer of the API server is taken: a broken server, or what answers in its place, costs no more
//! memory than is stated here.
//!
//! The client reads answers whole, and an event of a watch to the end of its line, without a limit of its own.
//! Promises: the body of an answer ends with [`TooLarge`] as soon as more has come than its question takes; of a
//! refusal only a `Status` is taken. What was read until then is in memory up to three times while it is turned into
//! text. An answer 429 becomes [`Busy`], with the wait that its head names: the client drops it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};

/// Bytes of one object at most, and of an event: the API server takes objects of 1.5 MiB (etcd's limit), which are
/// larger as JSON.
pub(super) const OBJECT_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a list at most, and of a page of one: twenty pods of 1.5 MiB, the largest that there may be, or a thousand
/// of 32 KiB, which is large for one.
pub(super) const PAGE_BYTES_MAX: u64 = 32 << 20;
/// Bytes of a refusal at most: a `Status` with its message.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;
/// How long an API server that is busy is left alone at most, whatever it says: pods are bound meanwhile.
pub(super) const BUSY_WAIT_MAX: Duration = Duration::from_secs(60);

/// How much of the answer to a question is taken; one of the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// So many bytes of the whole.
    Whole(u64),
    /// So many bytes between two line ends: a watch, whose answer has no end.
    Line(u64),
}

/// More has come than is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer of the API server is larger than {} KiB", .max_bytes >> 10)]
pub(super) struct TooLarge {
    max_bytes: u64,
}

/// The API server has too much to do (429).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API server has too much to do (429)")]
pub(super) struct Busy {
    /// How long it asks not to be asked again.
    pub(super) wait: Duration,
}

impl Busy {
    /// The wait that a head names in whole seconds, as an API server does; else that of an API server that names none.
    fn of(head: &HeaderMap) -> Self {
        let named = head.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Self::for_seconds(named.unwrap_or(1))
    }

    /// So many seconds, up to a bound.
    pub(super) fn for_seconds(seconds: u64) -> Self {
        Self { wait: Duration::from_secs(seconds).min(BUSY_WAIT_MAX) }
    }
}

/// The error of a kind that made another one, if one did.
pub(super) fn cause<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(own) = cause {
        if let Some(found) = own.downcast_ref() {
            return Some(found);
        }
        cause = own.source();
    }
    None
}

/// A client's service whose answers are bounded.
#[derive(Clone)]
pub(super) struct Bounded<S>(S);

/// Makes services [`Bounded`].
pub(super) struct BoundAnswers;

impl<S> tower::Layer<S> for BoundAnswers {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded(inner)
    }
}

impl<S, Q, B> tower::Service<Request<Q>> for Bounded<S>
where
    S: tower::Service<Request<Q>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<tower::BoxError>,
    B: Send,
{
    type Response = Response<BoundedBody<B>>;
    type Error = tower::BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, tower::BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), tower::BoxError>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let asked = request.extensions().get().copied().unwrap_or(Bound::Whole(OBJECT_BYTES_MAX));
        let answered = self.0.call(request);
        async move {
            let answer = answered.await.map_err(Into::into)?;
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                return Err(Busy::of(answer.headers()).into());
            }
            let bound = if answer.status().is_success() { asked } else { Bound::Whole(REFUSAL_BYTES_MAX) };
            Ok(answer.map(|inner| BoundedBody { inner, bound, counted: 0 }))
        }
        .boxed()
    }
}

/// A body that ends with an error where it is larger than its bound.
pub(super) struct BoundedBody<B> {
    inner: B,
    bound: Bound,
    /// Bytes that have come, or that have come since the last line end.
    counted: u64,
}

impl<B> BoundedBody<B> {
    fn count(&mut self, data: &[u8]) -> Result<(), TooLarge> {
        let (max_bytes, since) = match self.bound {
            Bound::Whole(max_bytes) => (max_bytes, None),
            Bound::Line(max_bytes) => (max_bytes, data.iter().rposition(|byte| *byte == b'\n')),
        };
        self.counted = match since {
            // What stands before it came in one piece with it.
            Some(line_end) => (data.len() - line_end - 1) as u64,
            None => self.counted.saturating_add(data.len() as u64),
        };
        if self.counted > max_bytes { Err(TooLarge { max_bytes }) } else { Ok(()) }
    }
}

impl<B> http_body::Body for BoundedBody<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<tower::BoxError>,
{
    type Data = Bytes;
    type Error = tower::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tower::BoxError>>> {
        let this = self.get_mut();
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let counted = frame.data_ref().map_or(Ok(()), |data| this.count(data));
        Poll::Ready(Some(counted.map(|()| frame).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bound: Bound, pieces: &[&[u8]]) -> Result<(), TooLarge> {
        let mut body = BoundedBody { inner: (), bound, counted: 0 };
        pieces.iter().try_for_each(|piece| body.count(piece))
    }

    #[test]
    fn the_wait_of_an_api_server_that_is_busy_is_read_and_bounded() {
        let wait = |text: Option<&'static str>| {
            let mut head = HeaderMap::new();
            head.extend(text.map(|text| (header::RETRY_AFTER, http::HeaderValue::from_static(text))));
            Busy::of(&head).wait.as_secs()
        };
        assert_eq!(wait(Some("7")), 7);
        assert_eq!((wait(None), wait(Some("soon"))), (1, 1));
        assert_eq!(wait(Some("86400")), BUSY_WAIT_MAX.as_secs());
    }

    #[test]
    fn an_answer_or_event_without_end_is_taken_up_to_its_bound_and_a_watch_goes_on_for_ever() {
        let endless = || std::iter::repeat_n(b"aaaa".as_slice(), 1_000).collect::<Vec<_>>();
        for bound in [Bound::Whole(100), Bound::Line(100)] {
            assert_eq!(taken(bound, &endless()), Err(TooLarge { max_bytes: 100 }), "{bound:?}");
            assert_eq!(taken(bound, &endless()[..25]), Ok(()), "{bound:?}");
        }
        let lines = || std::iter::repeat_n(b"aa\na".as_slice(), 1_000).collect::<Vec<_>>();
        assert_eq!(taken(Bound::Line(100), &lines()), Ok(()));
        assert!(taken(Bound::Whole(100), &lines()).is_err());
        let mut then_endless = lines();
        then_endless.extend(endless());
        assert!(taken(Bound::Line(100), &then_endless).is_err());
    }
}
