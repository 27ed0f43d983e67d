//! Which endpoints fail, so that not every request has to find out.
//!
//! An endpoint that cannot be reached or answers 5xx is left alone for a moment, longer each time, while another endpoint
//! of its registry is used; after that one request tries it again and the others go on as before. Where there is no other
//! endpoint, one that failed slowly is left alone too; one that failed quickly gets a few requests a second without
//! retries: a failing registry must not get more requests than a healthy one.
//!
//! Deliberately not here: which errors count as failing beyond their kind (`error`), and rate limits, which are no failure.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::Registry;
use crate::support::bounded_map::BoundedMap;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{ConnectStage, Error};
use crate::upstream::metrics::Recorder;

/// The first pause; then twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a registry that is back is used again within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A failure that took this long is not repeated for every caller.
const SLOW_FAILURE: Duration = Duration::from_secs(1);
/// Requests a second to a failing endpoint that has no alternative.
const REQUESTS_MAX: u32 = 10;
/// A request that was cancelled after this long was cancelled because of the endpoint; before that, its caller may have
/// had other reasons.
const HUNG: Duration = Duration::from_secs(10);
/// An endpoint that no request was sent to for this long is not reported as failing any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);
/// Failing endpoints at most; one that is forgotten counts as healthy until it fails again.
const ENDPOINTS_MAX: usize = 1_024;

/// The failing endpoints of all registries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    /// By the URL of the endpoint.
    failing: Mutex<BoundedMap<String, Failure>>,
    recorder: Recorder,
}

/// An endpoint that fails, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingEndpoint {
    /// The registry that it belongs to.
    pub registry: Registry,
    /// `host:port`.
    pub endpoint: String,
    /// Its last failure.
    pub error: Error,
    /// Failures in a row.
    pub failures: u32,
    /// Time since the first of them.
    pub failing_for: Duration,
    /// Time since the last request to it.
    pub last_request_ago: Duration,
}

#[derive(Debug, Clone)]
struct Failure {
    registry: Registry,
    host: String,
    error: Error,
    failures: u32,
    first: Instant,
    last: Instant,
    /// Whether the last failure took at least [`SLOW_FAILURE`].
    slow: bool,
    retry_at: Instant,
    /// Whether a request tries it again already.
    retrying: bool,
    /// Requests that found it failing, in the second that began then.
    requests: (Instant, u32),
}

/// What to do with an endpoint.
pub(crate) enum Availability {
    /// Not known to fail.
    Healthy,
    /// Failing, and due for a retry: by the holder of this, and by no other request meanwhile.
    RetryDue(TrackedRequest),
    /// Failing.
    Failing {
        /// Its last failure.
        error: Error,
        /// Whether no request should be sent even where there is no alternative: the last failure was slow, or there
        /// were enough requests in this second.
        skip: bool,
    },
}

impl Health {
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self(Arc::new(Inner { failing: Mutex::new(BoundedMap::new(ENDPOINTS_MAX)), recorder }))
    }

    /// All failing endpoints, by registry and host; none that no request was sent to for an hour.
    pub(crate) fn failing_endpoints(&self) -> Vec<FailingEndpoint> {
        let report = |failure: &Failure| FailingEndpoint {
            registry: failure.registry.clone(),
            endpoint: failure.host.clone(),
            error: failure.error.clone(),
            failures: failure.failures,
            failing_for: failure.first.elapsed(),
            last_request_ago: failure.last.elapsed(),
        };
        let mut failing = self.0.failing.lock();
        failing.retain(|_, failure| failure.last.elapsed() < FORGOTTEN_AFTER);
        let mut all: Vec<_> = failing.iter().map(|(_, failure)| report(failure)).collect();
        drop(failing);
        all.sort_by(|a, b| (&a.registry, &a.endpoint).cmp(&(&b.registry, &b.endpoint)));
        all
    }

    /// The endpoint is not one of the registry's any more.
    pub(crate) fn forget(&self, registry: &Registry, endpoint: &Endpoint) {
        self.0.failing.lock().remove(endpoint.base_url());
        self.0.recorder.endpoint_removed(registry, &endpoint.host_and_port());
    }

    /// Whether a request may be sent to `endpoint`.
    pub(crate) fn availability(&self, endpoint: &Endpoint) -> Availability {
        let (now, mut failing) = (Instant::now(), self.0.failing.lock());
        let Some(failure) = failing.get(endpoint.base_url()) else { return Availability::Healthy };
        if !failure.retrying && now >= failure.retry_at {
            failure.retrying = true;
            return Availability::RetryDue(self.track(endpoint, &failure.registry));
        }
        if now - failure.requests.0 >= Duration::from_secs(1) {
            failure.requests = (now, 0);
        }
        failure.requests.1 = failure.requests.1.saturating_add(1);
        let skip = failure.slow || failure.requests.1 > REQUESTS_MAX;
        Availability::Failing { error: failure.error.clone(), skip }
    }

    /// Follows a request to `endpoint`, whose outcome is to be recorded.
    pub(crate) fn track(&self, endpoint: &Endpoint, registry: &Registry) -> TrackedRequest {
        TrackedRequest {
            health: self.clone(),
            registry: registry.clone(),
            url: endpoint.base_url().to_owned(),
            host: endpoint.host_and_port(),
            started: None,
            finished: false,
        }
    }

    fn record_response(&self, request: &TrackedRequest) {
        let before = self.0.failing.lock().remove(&request.url);
        self.0.recorder.endpoint_up(&request.registry, &request.host, true);
        if let Some(failure) = before {
            tracing::info!(endpoint = request.url, failures = failure.failures, "an endpoint answers again");
        }
    }

    fn record_failure(&self, request: &TrackedRequest, error: &Error, took: Duration) {
        self.0.recorder.endpoint_up(&request.registry, &request.host, false);
        let (now, mut failing) = (Instant::now(), self.0.failing.lock());
        let before = failing.peek(&request.url);
        let failures = before.map_or(0, |failure| failure.failures).saturating_add(1);
        if failures == 1 {
            tracing::warn!(endpoint = request.url, %error, "an endpoint fails");
        }
        let failure = Failure {
            registry: request.registry.clone(),
            host: request.host.clone(),
            error: error.clone(),
            failures,
            first: before.map_or(now, |failure| failure.first),
            last: now,
            slow: took >= SLOW_FAILURE,
            retry_at: now + pause(failures),
            retrying: false,
            requests: before.map_or((now, 0), |failure| failure.requests),
        };
        failing.insert(request.url.clone(), failure);
    }

    /// The outcome of a request is not known: another one may try.
    fn record_cancelled(&self, request: &TrackedRequest) {
        if let Some(failure) = self.0.failing.lock().get(&request.url) {
            failure.retrying = false;
            failure.retry_at = Instant::now() + pause(failure.failures);
        }
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(PAUSE_MAX)
}

/// A request that is sent to an endpoint, or about to be. Dropped before it has finished, it counts as cancelled.
pub(crate) struct TrackedRequest {
    health: Health,
    registry: Registry,
    url: String,
    host: String,
    started: Option<Instant>,
    finished: bool,
}

impl TrackedRequest {
    /// The request is sent now.
    pub(crate) fn start(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Records the outcome. A failing redirect target or token server is not a failing endpoint.
    pub(crate) fn finish<T>(mut self, result: &Result<T, Error>) {
        self.finished = true;
        match result {
            Err(error @ (Error::Unreachable { host, .. } | Error::ServerError { host, .. }))
                if *host == self.host =>
            {
                self.health.record_failure(&self, error, self.running_for());
            }
            // No request was sent.
            Err(Error::Declined { .. }) => self.health.record_cancelled(&self),
            _ => self.health.record_response(&self),
        }
    }

    fn running_for(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |started| started.elapsed())
    }
}

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let elapsed = self.running_for();
        if elapsed >= HUNG {
            // The caller ran out of time: from here, an endpoint that hangs looks like that.
            let why = format!("no answer within {elapsed:.1?}");
            let error = Error::Unreachable { host: self.host.clone(), stage: ConnectStage::Timeout, why };
            self.health.record_failure(self, &error, elapsed);
        } else {
            self.health.record_cancelled(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(Recorder::for_test())
    }

    fn registry() -> Registry {
        "reg.test".parse().unwrap()
    }

    fn endpoint() -> Endpoint {
        Endpoint::for_test("https://reg.test")
    }

    fn down_at(host: &str) -> Error {
        Error::Unreachable { host: host.into(), stage: ConnectStage::Connect, why: String::new() }
    }

    fn down() -> Error {
        down_at("reg.test:443")
    }

    async fn fail(health: &Health, after: Duration) {
        let mut request = health.track(&endpoint(), &registry());
        request.start();
        tokio::time::advance(after).await;
        request.finish(&Err::<(), _>(down()));
    }

    fn failing(health: &Health) -> Option<(Error, bool)> {
        match health.availability(&endpoint()) {
            Availability::Failing { error, skip } => Some((error, skip)),
            Availability::Healthy | Availability::RetryDue(_) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_endpoint_is_left_alone_longer_each_time_and_retried_by_one_request() {
        let health = health();
        assert!(matches!(health.availability(&endpoint()), Availability::Healthy));
        for seconds in [1, 2, 4, 8, 8] {
            fail(&health, Duration::ZERO).await;
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert_eq!(failing(&health), Some((down(), false)), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            let Availability::RetryDue(_held) = health.availability(&endpoint()) else {
                panic!("it is time")
            };
            assert_eq!(failing(&health), Some((down(), false)), "one tries");
        }
        let result = Err::<(), _>(Error::MethodNotAllowed { host: String::new() });
        health.track(&endpoint(), &registry()).finish(&result);
        assert!(matches!(health.availability(&endpoint()), Availability::Healthy), "an answer is an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_that_is_never_sent_or_cancelled_does_not_block_the_next_one() {
        let health = health();
        fail(&health, Duration::from_secs(15)).await;
        assert_eq!(failing(&health), Some((down(), true)), "the failure was slow");
        tokio::time::advance(PAUSE).await;
        let Availability::RetryDue(never_sent) = health.availability(&endpoint()) else {
            panic!("it is time")
        };
        tokio::time::advance(2 * HUNG).await;
        drop(never_sent);
        assert_eq!(failing(&health), Some((down(), true)), "nothing new is known");
        tokio::time::advance(PAUSE).await;
        let Availability::RetryDue(mut request) = health.availability(&endpoint()) else {
            panic!("it is time")
        };
        request.start();
        tokio::time::advance(Duration::from_secs(20)).await;
        drop(request);
        let Some((error, true)) = failing(&health) else { panic!("it hung") };
        assert!(error.to_string().contains("no answer within 20"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_gets_no_requests_is_not_reported_as_failing_for_ever() {
        let health = health();
        fail(&health, Duration::ZERO).await;
        tokio::time::advance(FORGOTTEN_AFTER / 2).await;
        fail(&health, Duration::ZERO).await;
        tokio::time::advance(FORGOTTEN_AFTER - PAUSE).await;
        let [status] = &health.failing_endpoints()[..] else { panic!("an hour has not passed") };
        assert_eq!(
            (status.last_request_ago, status.failing_for),
            (FORGOTTEN_AFTER - PAUSE, FORGOTTEN_AFTER + FORGOTTEN_AFTER / 2 - PAUSE)
        );
        tokio::time::advance(PAUSE).await;
        assert!(health.failing_endpoints().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_redirect_target_is_not_a_failing_endpoint() {
        let health = health();
        health.track(&endpoint(), &registry()).finish(&Err::<(), _>(down_at("cdn.test:443")));
        assert!(matches!(health.availability(&endpoint()), Availability::Healthy));
    }
}
