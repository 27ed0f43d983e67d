//! Which endpoints fail, and for what, so that not every request has to find out.
//!
//! Promises: a failure counts for what was asked. A host that cannot be connected to (name, address, TCP, TLS) fails for
//! every request. What fails above that fails for one repository and kind of question; where a second such question hangs,
//! the endpoint is asked after the others for that kind, and still asked where there is no other. An answer to a question
//! ends its failures; a probe of the version check ends those of the host alone.
//!
//! What fails is left alone for a moment, longer each time, while another endpoint of its registry is used; after that one
//! request tries it again and the others go on as before. Where there is no other endpoint, one that failed slowly a moment
//! ago is left alone too; one that failed quickly gets a few requests a second without retries: a failing registry must not
//! get more requests than a healthy one.
//!
//! Deliberately not here: rate limits, which are no failure, and token servers: what they answer concerns one credential.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) use super::failures::Question;
use super::failures::{Asked, Failing, RECENT, Record, SLOW_FAILURE, Scope};
use crate::reference::{Registry, Repository};
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{ConnectStage, Error, Failure, Party};
use crate::upstream::metrics::Recorder;

/// A slow failure keeps callers away for this long at most: longer than a pause and a retry that fails slowly too take
/// together, so that in an outage one request at a time waits; and no caller is refused for what was long ago.
const SLOW_FAILURE_COUNTS_FOR: Duration = Duration::from_secs(30);
/// Requests a second to a failing endpoint that has no alternative.
const REQUESTS_MAX: u32 = 10;
/// A request that was cancelled after this long was cancelled because of the endpoint; before that, its caller may have
/// had other reasons.
const HUNG: Duration = Duration::from_secs(10);
/// An endpoint that no request was sent to for this long is not reported as failing any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);
/// Questions that hung, of one kind and without an answer between them, after which an endpoint is asked last for the kind.
const HUNG_MAX: u32 = 2;

/// The failing endpoints of all registries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    failing: Mutex<Failing>,
    recorder: Recorder,
}

/// An endpoint that fails, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingEndpoint {
    /// The registry that it belongs to.
    pub registry: Registry,
    /// `host:port`.
    pub endpoint: String,
    /// The repository that it fails for; `None` if it fails for all.
    pub repository: Option<Repository>,
    /// Its last failure.
    pub error: Error,
    /// Failures in a row.
    pub failures: u32,
    /// Time since the first of them.
    pub failing_for: Duration,
    /// Time since the last request to it.
    pub last_request_ago: Duration,
}

/// What to do with an endpoint.
pub(crate) enum Availability {
    /// Not known to fail.
    Healthy,
    /// Failing, and due for a retry: by the holder of this, and by no other request meanwhile.
    RetryDue(Retry),
    /// Failing.
    Failing {
        /// Its last failure.
        error: Error,
        /// Whether no request should be sent even where there is no alternative: the last failure was slow, or there
        /// were enough requests in this second.
        skip: bool,
    },
}

/// A retry that is due.
pub(crate) struct Retry {
    pub(crate) tracked: TrackedRequest,
    /// Whether a connection is enough to end the failure; otherwise the question itself has to be answered.
    pub(crate) is_of_host: bool,
}

impl Health {
    pub(crate) fn new(recorder: Recorder) -> Self {
        let failing = Failing::default();
        Self(Arc::new(Inner { failing: Mutex::new(failing), recorder }))
    }

    /// All failing endpoints, by registry and host, each once; none that no request was sent to for an hour.
    pub(crate) fn failing_endpoints(&self) -> Vec<FailingEndpoint> {
        let report = |record: &Record, repository: Option<&Repository>| FailingEndpoint {
            registry: record.registry.clone(),
            endpoint: record.host.clone(),
            repository: repository.cloned(),
            error: record.error.clone(),
            failures: record.failures,
            failing_for: record.first.elapsed(),
            last_request_ago: record.last.elapsed(),
        };
        let mut failing = self.0.failing.lock();
        failing.hosts.retain(|_, record| record.last.elapsed() < FORGOTTEN_AFTER);
        failing.questions.retain(|_, record| record.last.elapsed() < FORGOTTEN_AFTER);
        let hosts = failing.hosts.iter().map(|(_, record)| report(record, None));
        let questions = failing.questions.iter().map(|((_, scope), record)| match scope {
            Scope::Question(question) => report(record, Some(&question.repository)),
            Scope::Host | Scope::Kind(_) => report(record, None),
        });
        let mut all: Vec<_> = hosts.chain(questions).collect();
        drop(failing);
        // What fails for all comes before what fails for one repository, and stands for it.
        all.sort_by(|a, b| {
            let key = |f: &FailingEndpoint| (f.registry.clone(), f.endpoint.clone(), f.repository.is_some());
            key(a).cmp(&key(b)).then(b.failures.cmp(&a.failures))
        });
        all.dedup_by(|a, b| a.registry == b.registry && a.endpoint == b.endpoint);
        all
    }

    /// For how long no connection to the endpoint could be opened, without a gap of more than [`RECENT`] between two
    /// failures; `None` if the last one could, or if the last failure is longer ago than that.
    pub(crate) fn unreachable_for(&self, endpoint: &Endpoint) -> Option<Duration> {
        let failing = self.0.failing.lock();
        let record = failing.hosts.peek(endpoint.base_url())?;
        // What failed long ago, and was not asked since, may be there.
        (record.last.elapsed() <= RECENT).then(|| record.unreachable_since.elapsed())
    }

    /// Whether the endpoint fails as a whole: it cannot be connected to, or several repositories fail and no question was
    /// answered since. One repository makes no outage.
    pub(crate) fn is_in_outage(&self, endpoint: &Endpoint) -> bool {
        let (url, failing) = (endpoint.base_url(), self.0.failing.lock());
        if failing.hosts.peek(url).is_some() {
            return true;
        }
        let answered = failing.answered.peek(url);
        let mut repositories = failing.questions.iter().filter_map(|((of, scope), record)| match scope {
            Scope::Question(question) if of == url && answered.is_none_or(|at| record.last > *at) => {
                Some(&question.repository)
            }
            _ => None,
        });
        let first = repositories.next();
        first.is_some() && repositories.any(|other| Some(other) != first)
    }

    /// The endpoint is not one of the registry's any more.
    pub(crate) fn forget(&self, registry: &Registry, endpoint: &Endpoint) {
        let mut failing = self.0.failing.lock();
        failing.hosts.remove(endpoint.base_url());
        failing.questions.retain(|(url, _), _| url != endpoint.base_url());
        failing.hung.retain(|(url, _), _| url != endpoint.base_url());
        drop(failing);
        self.0.recorder.endpoint_removed(registry, &endpoint.host_and_port());
    }

    /// Whether a question may be sent to `endpoint`.
    pub(crate) fn availability(&self, endpoint: &Endpoint, question: &Question) -> Availability {
        let (now, url) = (Instant::now(), endpoint.base_url().to_owned());
        let mut failing = self.0.failing.lock();
        let Some((scope, record)) = failing.first_of(&url, question) else { return Availability::Healthy };
        if !record.is_being_retried() && now >= record.retry_at {
            record.retrying_since = Some(now);
            let tracked = self.track(endpoint, question.clone());
            return Availability::RetryDue(Retry { tracked, is_of_host: scope == Scope::Host });
        }
        if now - record.requests.0 >= Duration::from_secs(1) {
            record.requests = (now, 0);
        }
        record.requests.1 = record.requests.1.saturating_add(1);
        let slow = record.slow && record.last.elapsed() < SLOW_FAILURE_COUNTS_FOR;
        // Other questions of a kind say where to ask first, and not that this one would fail.
        let skip = (slow || record.requests.1 > REQUESTS_MAX) && !matches!(scope, Scope::Kind(_));
        Availability::Failing { error: record.error.clone(), skip }
    }

    /// Follows a request to `endpoint`, whose outcome is to be recorded.
    pub(crate) fn track(&self, endpoint: &Endpoint, question: Question) -> TrackedRequest {
        TrackedRequest {
            health: self.clone(),
            question,
            url: endpoint.base_url().to_owned(),
            host: endpoint.host_and_port(),
            started: None,
            last_exchange: None,
            finished: false,
        }
    }

    fn record_response(&self, request: &TrackedRequest) {
        let before = self.0.failing.lock().end(&request.url, &request.question);
        self.0.recorder.endpoint_up(request.question.repository.registry(), &request.host, true);
        if let Some(failures) = before {
            tracing::info!(endpoint = request.url, failures, "an endpoint answers again");
        }
    }

    fn record_connection(&self, request: &TrackedRequest) {
        if self.0.failing.lock().hosts.remove(&request.url).is_some() {
            tracing::info!(endpoint = request.url, "an endpoint can be reached again");
        }
    }

    fn record_failure(&self, request: &TrackedRequest, error: &Error, of_host: bool) {
        let (registry, took) = (request.question.repository.registry(), request.last_exchange_took());
        self.0.recorder.endpoint_up(registry, &request.host, false);
        let mut failing = self.0.failing.lock();
        if of_host {
            let before = failing.hosts.peek(&request.url);
            let record = Record::after(before, request.asked(), error, took);
            failing.hosts.insert(request.url.clone(), record);
            return;
        }
        let mut scopes = vec![Scope::Question(request.question.clone())];
        if took >= SLOW_FAILURE {
            let key = (request.url.clone(), request.question.kind);
            let hung = failing.hung.get_or_insert_with(key, || 0);
            *hung = hung.saturating_add(1);
            if *hung >= HUNG_MAX {
                scopes.push(Scope::Kind(request.question.kind));
            }
        }
        for scope in scopes {
            let key = (request.url.clone(), scope);
            let record = Record::after(failing.questions.peek(&key), request.asked(), error, took);
            failing.questions.insert(key, record);
        }
        let of_kind = (request.url.clone(), Scope::Kind(request.question.kind));
        if let Some(record) = failing.questions.get(&of_kind) {
            record.retry_later();
        }
        // Whether a request that was cancelled had a connection is not known: another one may try.
        if let Some(record) = failing.hosts.get(&request.url) {
            record.retry_later();
        }
    }

    /// The outcome of a request is not known: another one may try.
    fn record_cancelled(&self, request: &TrackedRequest) {
        let mut failing = self.0.failing.lock();
        if let Some((_, record)) = failing.first_of(&request.url, &request.question) {
            record.retry_later();
        }
    }
}

/// A request that is sent to an endpoint, or about to be. Dropped before it has finished, it counts as cancelled.
pub(crate) struct TrackedRequest {
    health: Health,
    question: Question,
    url: String,
    host: String,
    started: Option<Instant>,
    /// When the last exchange of the request began: the request itself or its last repetition.
    last_exchange: Option<Instant>,
    finished: bool,
}

impl TrackedRequest {
    /// The request is sent now.
    pub(crate) fn start(&mut self) {
        self.started = Some(Instant::now());
        self.last_exchange = self.started;
    }

    /// The request failed, and is repeated now. How slow an endpoint is, says the last exchange alone.
    pub(crate) fn repeat(&mut self) {
        self.last_exchange = Some(Instant::now());
    }

    /// Records the outcome. A redirect target that fails concerns the question, and a token server nothing here.
    pub(crate) fn finish<T>(mut self, result: &Result<T, Failure>) {
        self.finished = true;
        let Err(Failure { error, party, .. }) = result else { return self.health.record_response(&self) };
        match (party, error) {
            // No request was sent, or none whose answer says something of the endpoint.
            (_, Error::Declined { .. } | Error::Overloaded { .. }) | (Party::TokenServer, _) => {
                self.health.record_cancelled(&self);
            }
            (Party::Endpoint, Error::Unreachable { stage, .. }) if stage.is_before_the_request() => {
                self.health.record_failure(&self, error, true);
            }
            // A store's answer for one signed URL says nothing of other blobs.
            (Party::RedirectTarget, Error::ServerError { status: 400..=407 | 410, .. }) => {
                self.health.record_connection(&self);
                self.health.record_cancelled(&self);
            }
            // Only over a connection can a request go unanswered.
            (_, Error::Unreachable { .. } | Error::ServerError { .. }) => {
                self.health.record_connection(&self);
                self.health.record_failure(&self, error, false);
            }
            _ => self.health.record_response(&self),
        }
    }

    /// Records the outcome of a request that only tests whether the endpoint answers at all.
    pub(crate) fn finish_probe<T>(mut self, result: &Result<T, Error>) {
        self.finished = true;
        match result {
            Err(error @ Error::Unreachable { .. }) => self.health.record_failure(&self, error, true),
            Err(Error::Overloaded { .. }) => self.health.record_cancelled(&self),
            _ => self.health.record_connection(&self),
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked { registry: self.question.repository.registry(), host: &self.host, url: &self.url }
    }

    fn last_exchange_took(&self) -> Duration {
        self.last_exchange.map_or(Duration::ZERO, |began| began.elapsed())
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
            self.health.record_failure(self, &error, false);
        } else {
            self.health.record_cancelled(self);
        }
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
