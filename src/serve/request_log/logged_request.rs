//! A request until the body of its answer has ended: what is known of it, and the line that is written then.
//!
//! Promises: the line is written once, when this is dropped, whatever became of the request; the credential of the
//! caller ends with the request.
//!
//! Deliberately not here: what a line says (`line`), and which lines are folded (`folds`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HOST, RANGE};
use http::{HeaderMap, HeaderName, Method, Request, Response};
use tracing::Span;

use super::line::{Described, End, Line, bounded};
use super::{RequestLog, span};
use crate::listener::{Body, BodyError, BodyWatch, DrainState, Peer};
use crate::pull::{PullContext, RequestId};

/// Characters at most of what a client sent in one header.
const SENT_CHARS_MAX: usize = 128;

/// The reason of what a stop did not wait for.
const DRAINED: &str = "the daemon stopped: drain_wait was over";

/// One request until its body has ended: its line is written when this is dropped.
pub(in crate::serve) struct LoggedRequest {
    log: Arc<RequestLog>,
    span: Span,
    since: Instant,
    described: Described,
    head: Head,
    sent: Sent,
    /// Whether the listener closes what is left.
    drain: DrainState,
}

/// What the head of the request said.
struct Head {
    id: RequestId,
    client: Peer,
    method: Method,
    host: Option<String>,
    range: Option<String>,
}

/// What was sent of the answer so far.
struct Sent {
    /// Absent as long as there is no answer.
    status: Option<u16>,
    /// Bytes of the body, where the head of the answer says so.
    expected: Option<u64>,
    bytes: u64,
    first_byte: Option<Duration>,
    end: End,
}

impl LoggedRequest {
    pub(super) fn new<B>(request: &Request<B>, id: RequestId, log: Arc<RequestLog>) -> Self {
        let absolute = request.uri().authority().map(|authority| host_of(authority.as_str()));
        let client = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let host = absolute.or_else(|| header(request.headers(), &HOST).map(|host| host_of(&host)));
        let range = header(request.headers(), &RANGE).map(|range| bounded(&range, SENT_CHARS_MAX));
        Self {
            log,
            span: span::of(request, id),
            since: Instant::now(),
            described: Described::default(),
            head: Head { id, client, method: request.method().clone(), host, range },
            sent: Sent { status: None, expected: None, bytes: 0, first_byte: None, end: End::ClientLeft },
            drain: request.extensions().get::<DrainState>().cloned().unwrap_or_default(),
        }
    }

    /// What is to be filled in while the request is answered.
    pub(in crate::serve) fn described(&self) -> &Described {
        &self.described
    }

    /// What everything that is done for the request is within.
    pub(in crate::serve) fn span(&self) -> &Span {
        &self.span
    }

    /// When the request came.
    pub(in crate::serve) fn since(&self) -> Instant {
        self.since
    }

    /// The response, whose body's end is the request's.
    pub(in crate::serve) fn until_the_end_of(mut self, response: Response<Body>) -> Response<Body> {
        let length = response.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        self.sent.status = Some(response.status().as_u16());
        self.sent.expected = if self.head.method == Method::HEAD { Some(0) } else { length };
        if response.body().is_empty() {
            self.sent.first_byte = Some(self.since.elapsed());
            self.sent.end = End::Whole;
        }
        response.map(|body| body.watched(Box::new(self)))
    }

    /// The line of the request, at its end.
    fn line(&mut self) -> Line {
        let Sent { status, bytes, mut first_byte, mut end, .. } = self.sent;
        let duration = self.since.elapsed();
        // An answer that has no body to wait for: the client's `HEAD`, or a body that hyper took as a whole.
        if self.head.method == Method::HEAD && status.is_some() {
            end = End::Whole;
            first_byte.get_or_insert(duration);
        }
        let mut details = self.described.take();
        // The line outlives the request, and the credential of its caller must not.
        let pull = details.pull.take();
        Line {
            id: self.head.id,
            client: std::mem::take(&mut self.head.client),
            method: std::mem::take(&mut self.head.method),
            host: self.head.host.take(),
            range: self.head.range.take(),
            upstream: pull.as_ref().map(PullContext::asked_urls).unwrap_or_default(),
            download: pull.as_ref().and_then(PullContext::download),
            details,
            status,
            end,
            bytes,
            first_byte,
            duration,
        }
    }
}

impl BodyWatch for LoggedRequest {
    fn sent(&mut self, bytes: usize) {
        self.sent.first_byte.get_or_insert_with(|| self.since.elapsed());
        self.sent.bytes += bytes as u64;
        // The connection does not ask for more than the length.
        if self.sent.expected.is_some_and(|expected| self.sent.bytes >= expected) {
            self.sent.end = End::Whole;
        }
    }

    fn ended(&mut self) {
        self.sent.end = End::Whole;
    }

    fn failed(&mut self, error: &BodyError) {
        self.sent.end = End::CutShort;
        self.described.because(&error.to_string());
    }
}

impl Drop for LoggedRequest {
    fn drop(&mut self) {
        if self.sent.end == End::ClientLeft && self.drain.is_over() {
            self.sent.end = End::CutShort;
            self.described.because(DRAINED);
        }
        let line = self.line();
        span::end(&self.span, &line);
        self.log.end(line);
    }
}

/// What a client sent in a header.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The host that a client addressed, without the user name and password that a client may put before it.
fn host_of(authority: &str) -> String {
    // Before it is cut off: the last '@' may be behind the cut.
    bounded(authority.rsplit('@').next().unwrap_or_default(), SENT_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Repository;
    use crate::serve::metrics::RouteLabel;
    use crate::support::clock::Clock;

    #[test]
    fn a_password_that_a_client_put_before_the_host_is_in_no_line() {
        let log = Arc::new(RequestLog::new(Clock::system()));
        let host = |uri: &str, header: &str| {
            let request = Request::get(uri).header(HOST, header).body(()).unwrap();
            let logged = log.begin(&request, RequestId::next());
            logged.head.host.clone().unwrap()
        };
        assert_eq!(host("http://u:secret@cache.test/v2/", "cache.test"), "cache.test");
        assert_eq!(host("/v2/", "u:se@cret@cache.test:5050"), "cache.test:5050");
        assert_eq!(host("/v2/", &format!("u:{}@cache.test", "secret".repeat(100))), "cache.test");
        assert_eq!(host("/v2/", "[::1]:5050"), "[::1]:5050");
    }

    #[test]
    fn what_a_stop_cuts_off_is_not_said_to_be_the_clients_doing() {
        let log = Arc::new(RequestLog::new(Clock::system()));
        let repository: Repository = "reg.test/a".parse().unwrap();
        let drain = DrainState::default();
        let ended = |is_answered: bool, finish: &dyn Fn()| {
            let mut request = Request::get("/v2/a/manifests/v1?ns=reg.test").body(()).unwrap();
            request.extensions_mut().insert(drain.clone());
            let logged = log.begin(&request, RequestId::next());
            logged.described().asks_for(RouteLabel::Manifest, &repository, Some("v1".to_owned()));
            let chunks = futures_util::stream::pending();
            let response = is_answered.then_some(Response::new(Body::stream(chunks)));
            let logged = match response {
                Some(response) => Ok(logged.until_the_end_of(response)),
                None => Err(logged),
            };
            finish();
            drop(logged);
            let last = log.recent().requests_for(&repository).into_iter().next().unwrap();
            (last.ended, last.reason)
        };
        for is_answered in [true, false] {
            assert_eq!(ended(is_answered, &|| ()), ("client left".to_owned(), None), "{is_answered}");
        }
        for is_answered in [true, false] {
            let (said, reason) = ended(is_answered, &|| drain.end());
            assert_eq!((said.as_str(), reason.as_deref()), ("cut short", Some(DRAINED)), "{is_answered}");
        }
    }
}
