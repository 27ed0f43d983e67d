//! The request log: one line for each request, when its body ends, under the target `larder::access`.
//!
//! Promises: every request has its line, also one whose client left before the answer; what is no success is folded
//! ([`super::folds`]), so that no client fills the log with one refusal; a line holds no credential, no query of a URL,
//! and of what a client sent no more than a bounded part. A challenge and a 404 are information, what upstream or this
//! node failed at is a warning. The last pulls of each repository are remembered for `larder explain`
//! ([`super::recent`]).
//!
//! Deliberately not here: where lines are written, and what is done when that is slow (`cli/serve/log`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, RANGE};
use http::{HeaderMap, Method, Request, Response};
use parking_lot::Mutex;
use tracing::Span;

use super::folds::ClientFolds;
use super::recent::Recent;
use super::request_line::{Described, Details, End, Line, TARGET, bounded};
use super::span;
use crate::listener::{Body, BodyError, BodyWatch, DrainState, Peer};
use crate::pull::{PullContext, RequestId};
use crate::support::clock::Clock;
use crate::support::shutdown::Shutdown;

/// Equal refusals that are written in a minute.
const EQUAL_MAX: u32 = 3;
/// Refusals of one client, of whatever kind, that are written in a minute: a node that starts fifty pods with a wrong
/// credential has fewer.
const OF_CLIENT_MAX: u32 = 300;
/// How often what was folded is written.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Characters at most of what a client sent in one header.
const SENT_CHARS_MAX: usize = 128;

/// The reason of what a stop did not wait for.
const DRAINED: &str = "the daemon stopped: drain_wait was over";

/// The lines of all requests. Shared by all connections.
pub struct RequestLog {
    folding: Mutex<ClientFolds<Line>>,
    recent: Recent,
    clock: Clock,
}

impl RequestLog {
    /// No line yet.
    pub fn new(clock: Clock) -> Self {
        let folding = ClientFolds::new(EQUAL_MAX, OF_CLIENT_MAX, Line::key_of_client);
        Self { folding: Mutex::new(folding), recent: Recent::default(), clock }
    }

    /// The last pulls of each repository.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Writes what was folded, now and then, until the stop; what is left then [`Self::tell_all`] writes.
    pub async fn run(self: Arc<Self>, mut shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TELL_EVERY) => {}
                () = shutdown.requested() => return,
            }
            let due = self.folding.lock().due(Instant::now());
            due.into_iter().for_each(|(line, folded)| line.write(folded));
        }
    }

    /// Writes all that was folded.
    pub fn tell_all(&self) {
        let all = self.folding.lock().end();
        all.into_iter().for_each(|(line, folded)| line.write(folded));
    }

    /// A request that has come.
    pub(super) fn begin<B>(self: &Arc<Self>, request: &Request<B>, id: RequestId) -> Told {
        let absolute = request.uri().authority().map(|authority| host_of(authority.as_str()));
        Told {
            log: Arc::clone(self),
            span: span::of(request, id),
            since: Instant::now(),
            described: Described::default(),
            expected: None,
            drain: request.extensions().get::<DrainState>().cloned().unwrap_or_default(),
            line: Line {
                id,
                client: request.extensions().get::<Peer>().cloned().unwrap_or_default(),
                method: request.method().clone(),
                host: absolute.or_else(|| sent(request.headers(), &HOST).map(|host| host_of(&host))),
                range: sent(request.headers(), &RANGE).map(|range| bounded(&range, SENT_CHARS_MAX)),
                details: Details::default(),
                upstream: Vec::new(),
                download: None,
                status: None,
                end: End::ClientLeft,
                bytes: 0,
                first_byte: None,
                duration: Duration::ZERO,
            },
        }
    }

    fn tell(&self, line: Line) {
        let at = self.clock.now();
        if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
            return self.recent.add(line, at);
        }
        if line.is_success() {
            line.write(None);
            return self.recent.add(line, at);
        }
        self.recent.add(line.clone(), at);
        let told = self.folding.lock().judge(line.key_of_equal(), line, Instant::now());
        told.iter().for_each(|(line, folded)| line.write(*folded));
    }
}

/// One request until its body has ended: its line is written when this is dropped.
pub(super) struct Told {
    log: Arc<RequestLog>,
    span: Span,
    since: Instant,
    described: Described,
    /// Bytes of the body, where the head says so.
    expected: Option<u64>,
    /// Whether the listener closes what is left.
    drain: DrainState,
    line: Line,
}

impl Told {
    /// What is to be filled in while the request is answered.
    pub(super) fn described(&self) -> &Described {
        &self.described
    }

    /// What everything that is done for the request is within.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// When the request came.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// The response, whose body's end is the request's.
    pub(super) fn until_the_end_of(mut self, response: Response<Body>) -> Response<Body> {
        self.line.status = Some(response.status().as_u16());
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        self.expected = if self.line.method == Method::HEAD { Some(0) } else { length };
        if response.body().is_empty() {
            self.line.first_byte = Some(self.since.elapsed());
            self.line.end = End::Whole;
        }
        response.map(|body| body.watched(Box::new(self)))
    }
}

impl BodyWatch for Told {
    fn sent(&mut self, bytes: usize) {
        self.line.first_byte.get_or_insert_with(|| self.since.elapsed());
        self.line.bytes += bytes as u64;
        // The connection does not ask for more than the length.
        if self.expected.is_some_and(|expected| self.line.bytes >= expected) {
            self.line.end = End::Whole;
        }
    }

    fn ended(&mut self) {
        self.line.end = End::Whole;
    }

    fn failed(&mut self, error: &BodyError) {
        self.line.end = End::CutShort;
        self.described.because(&error.to_string());
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.line.end == End::ClientLeft && self.drain.is_over() {
            self.line.end = End::CutShort;
            self.described.because(DRAINED);
        }
        let mut details = self.described.take();
        // The line outlives the request, and the credential of its caller must not.
        let pull = details.pull.take();
        let (id, method, status) = (self.line.id, std::mem::take(&mut self.line.method), self.line.status);
        let mut line = Line {
            id,
            client: std::mem::take(&mut self.line.client),
            method,
            host: self.line.host.take(),
            range: self.line.range.take(),
            upstream: pull.as_ref().map(PullContext::asked_urls).unwrap_or_default(),
            download: pull.as_ref().and_then(PullContext::download),
            details,
            status,
            end: self.line.end,
            bytes: self.line.bytes,
            first_byte: self.line.first_byte,
            duration: self.since.elapsed(),
        };
        // An answer that has no body to wait for: the client's `HEAD`, or a body that hyper took as a whole.
        if line.method == Method::HEAD && line.status.is_some() {
            line.end = End::Whole;
            line.first_byte.get_or_insert(line.duration);
        }
        span::end(&self.span, &line);
        self.log.tell(line);
    }
}

fn sent(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
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

    #[test]
    fn a_password_that_a_client_put_before_the_host_is_in_no_line() {
        let log = Arc::new(RequestLog::new(Clock::system()));
        let host = |uri: &str, header: &str| {
            let request = Request::get(uri).header(HOST, header).body(()).unwrap();
            let told = log.begin(&request, RequestId::next());
            told.line.host.clone().unwrap()
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
            let told = log.begin(&request, RequestId::next());
            told.described().asks_for(RouteLabel::Manifest, &repository, Some("v1".to_owned()));
            let chunks = futures_util::stream::pending();
            let response = is_answered.then_some(Response::new(Body::stream(chunks)));
            let told = match response {
                Some(response) => Ok(told.until_the_end_of(response)),
                None => Err(told),
            };
            finish();
            drop(told);
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
