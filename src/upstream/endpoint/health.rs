//! Which endpoints fail, and for what, so that not every request has to find out.
//!
//! Promises: a failure counts for what was asked. A host that cannot be connected to (name, address, TCP, TLS) fails
//! for every request. What fails above that fails for one repository and kind of request; where a second such group
//! hangs, the endpoint is asked after the others for that kind, and still asked where there is no other. An answer to a
//! group ends its failures; a probe of the version check ends those of the host alone. An endpoint is its URL and
//! how it is connected to (`key`).
//!
//! What fails is left alone for a moment, longer each time, while another endpoint of its registry is used; after that
//! one request tries it again and the others go on as before. Where there is no other endpoint, one that failed slowly
//! a moment ago is left alone too; one that failed quickly gets a few requests a second without retries: a failing
//! registry must not get more requests than a healthy one. One that asks to be left alone (`Retry-After`) is, for up to
//! a minute.
//!
//! An endpoint that answers and then does not bring the body fails for that group too, in a way that no head ends:
//! it is asked after the others for minutes, and still asked where there is no other. That is no outage.
//!
//! Deliberately not here: rate limits, which are no failure, and token servers: what they answer concerns one
//! credential. What the outcome of a request is, [`super::tracked`] says.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::{Registry, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::upstream::endpoint::failure_record::{Asked, Part, RECENT, Record, SLOW_FAILURE};
use crate::upstream::endpoint::key::EndpointKey;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::Error;
use crate::upstream::metrics::{Recorder, RequestKind};
use crate::upstream::request::RequestGroup;

/// A slow failure keeps callers away for this long at most: longer than a pause and a retry that fails slowly too take
/// together, so that in an outage one request at a time waits; and no caller is refused for what was long ago.
const SLOW_FAILURE_COUNTS_FOR: Duration = Duration::from_secs(30);
/// Requests a second to a failing endpoint that has no alternative.
const REQUESTS_MAX: u32 = 10;
/// An endpoint that no request was sent to for this long is not reported as failing any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);
/// Requests that hung, of one kind and without an answer between them, after which an endpoint is asked last for the
/// kind.
const HUNG_MAX: u32 = 2;
/// Failing hosts at most; one that is forgotten counts as healthy until it fails again.
const HOSTS_MAX: usize = 1_024;
/// Failing groups at most, in a map of their own, so that a registry with many does not push out failing hosts.
const GROUPS_MAX: usize = 4_096;

/// What a failure is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    /// Every request: no connection.
    Host,
    /// Requests of one kind for one repository.
    Group(RequestGroup),
    /// Requests of one kind for any repository.
    Kind(RequestKind),
}

/// The failing endpoints of all registries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    failing: Mutex<Failing>,
    recorder: Recorder,
}

struct Failing {
    hosts: BoundedMap<EndpointKey, Record>,
    /// Never [`Scope::Host`].
    groups: BoundedMap<(EndpointKey, Scope), Record>,
    /// Requests that hung since the last answer to one of the kind, and those whose bodies did.
    hung: BoundedMap<(EndpointKey, RequestKind, Part), u32>,
    /// When a request was answered last.
    answered: BoundedMap<EndpointKey, Instant>,
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

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not known to fail.
    Healthy,
    /// Failing, and due for a retry by the request that learns this; if a connection is enough to end the failure,
    /// `is_of_host`.
    RetryDue { is_of_host: bool },
    /// Failing; see [`super::tracked::Availability`].
    Failing { error: Error, skip: bool },
}

impl Health {
    pub(crate) fn new(recorder: Recorder) -> Self {
        let failing = Failing {
            hosts: BoundedMap::new(HOSTS_MAX),
            groups: BoundedMap::new(GROUPS_MAX),
            hung: BoundedMap::new(HOSTS_MAX),
            answered: BoundedMap::new(HOSTS_MAX),
        };
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
        failing.groups.retain(|_, record| record.last.elapsed() < FORGOTTEN_AFTER);
        let hosts = failing.hosts.iter().map(|(_, record)| report(record, None));
        let groups = failing.groups.iter().map(|((_, scope), record)| match scope {
            Scope::Group(group) => report(record, Some(&group.repository)),
            Scope::Host | Scope::Kind(_) => report(record, None),
        });
        let mut all: Vec<_> = hosts.chain(groups).collect();
        drop(failing);
        // What fails for all comes before what fails for one repository, and stands for it.
        all.sort_by(|a, b| {
            let key = |f: &FailingEndpoint| (f.registry.clone(), f.endpoint.clone(), f.repository.is_some());
            key(a).cmp(&key(b)).then(b.failures.cmp(&a.failures))
        });
        all.dedup_by(|a, b| a.registry == b.registry && a.endpoint == b.endpoint);
        all
    }

    /// For how long no connection to the endpoint could be opened, or requests of this group have failed there, without
    /// a gap of more than [`RECENT`] between two failures; `None` if the last one could, or if the last failure is
    /// longer ago than that.
    pub(crate) fn failing_for(&self, endpoint: &Endpoint, group: &RequestGroup) -> Option<Duration> {
        let (key, failing) = (endpoint.key(), self.0.failing.lock());
        let of_group = || failing.groups.peek(&(key.clone(), Scope::Group(group.clone())));
        let record = failing.hosts.peek(key).or_else(of_group)?;
        // What failed long ago, and was not asked since, may be there.
        (record.last.elapsed() <= RECENT).then(|| record.failing_since.elapsed())
    }

    /// Whether the endpoint fails as a whole: it cannot be connected to, or several repositories fail and no request
    /// was answered since. One repository makes no outage, nor do bodies that do not come.
    pub(crate) fn is_in_outage(&self, endpoint: &Endpoint) -> bool {
        let (key, failing) = (endpoint.key(), self.0.failing.lock());
        if failing.hosts.peek(key).is_some() {
            return true;
        }
        let answered = failing.answered.peek(key);
        let mut repositories = failing.groups.iter().filter_map(|((of, scope), record)| match scope {
            Scope::Group(group)
                if of == key && record.fails == Part::Head && answered.is_none_or(|at| record.last > *at) =>
            {
                Some(&group.repository)
            }
            _ => None,
        });
        let first = repositories.next();
        first.is_some() && repositories.any(|other| Some(other) != first)
    }

    /// The endpoint is not asked any more, or not in this way.
    pub(crate) fn forget(&self, endpoint: &Endpoint) {
        let mut failing = self.0.failing.lock();
        failing.hosts.remove(endpoint.key());
        failing.groups.retain(|(key, _), _| key != endpoint.key());
        failing.hung.retain(|(key, ..), _| key != endpoint.key());
    }

    /// Takes note of a request of this group that is about to be sent; returns how `endpoint` is for it. The one that
    /// learns that a retry is due makes it, or says that it was cancelled.
    pub(super) fn note_request(&self, endpoint: &Endpoint, group: &RequestGroup) -> State {
        let now = Instant::now();
        let mut failing = self.0.failing.lock();
        let found = failing.first_of(endpoint.key(), group);
        let Some((scope, record)) = found else { return State::Healthy };
        if !record.is_being_retried() && now >= record.retry_at {
            record.retrying_since = Some(now);
            return State::RetryDue { is_of_host: scope == Scope::Host };
        }
        if now - record.requests.0 >= Duration::from_secs(1) {
            record.requests = (now, 0);
        }
        record.requests.1 = record.requests.1.saturating_add(1);
        let slow = record.slow && record.last.elapsed() < SLOW_FAILURE_COUNTS_FOR;
        // Other requests of a kind, and other bodies, say where to ask first, and not that this one would fail.
        let only_last = record.fails == Part::Body || matches!(scope, Scope::Kind(_));
        let asks_for_it = record.asked_until.is_some_and(|until| now < until);
        let skip = (slow || asks_for_it || record.requests.1 > REQUESTS_MAX) && !only_last;
        State::Failing { error: record.error.clone(), skip }
    }

    /// The endpoint answered, as far as `came` says.
    pub(super) fn record_response(&self, asked: &Asked, came: Part) {
        let before = self.0.failing.lock().end(&asked.key, &asked.group, came);
        self.0.recorder.endpoint_up(asked.group.repository.registry(), &asked.host, true);
        if let Some(failures) = before {
            tracing::info!(endpoint = asked.key.url(), failures, "an endpoint answers again");
        }
    }

    pub(super) fn record_connection(&self, asked: &Asked) {
        if self.0.failing.lock().hosts.remove(&asked.key).is_some() {
            tracing::info!(endpoint = asked.key.url(), "an endpoint can be reached again");
        }
    }

    /// The host failed, after `took`.
    pub(super) fn record_host_failure(&self, asked: &Asked, error: &Error, took: Duration) {
        self.0.recorder.endpoint_up(asked.group.repository.registry(), &asked.host, false);
        let mut failing = self.0.failing.lock();
        let before = failing.hosts.peek(&asked.key);
        let record = Record::after(before, asked, error, took, Part::Head);
        failing.hosts.insert(asked.key.clone(), record);
    }

    /// A request failed, after `took`.
    pub(super) fn record_failure(&self, asked: &Asked, error: &Error, took: Duration, part: Part) {
        self.0.recorder.endpoint_up(asked.group.repository.registry(), &asked.host, false);
        let mut failing = self.0.failing.lock();
        let mut scopes = vec![Scope::Group(asked.group.clone())];
        if took >= SLOW_FAILURE {
            let key = (asked.key.clone(), asked.group.kind, part);
            let hung = failing.hung.get_or_insert_with(key, || 0);
            *hung = hung.saturating_add(1);
            if *hung >= HUNG_MAX {
                scopes.push(Scope::Kind(asked.group.kind));
            }
        }
        for scope in scopes {
            let key = (asked.key.clone(), scope);
            let record = Record::after(failing.groups.peek(&key), asked, error, took, part);
            failing.groups.insert(key, record);
        }
        let of_kind = (asked.key.clone(), Scope::Kind(asked.group.kind));
        if let Some(record) = failing.groups.get(&of_kind) {
            record.retry_later();
        }
        // Whether a request that was cancelled had a connection is not known: another one may try.
        if let Some(record) = failing.hosts.get(&asked.key) {
            record.retry_later();
        }
    }

    /// The outcome of a request is not known: another one may try.
    pub(super) fn record_cancelled(&self, asked: &Asked) {
        let mut failing = self.0.failing.lock();
        if let Some((_, record)) = failing.first_of(&asked.key, &asked.group) {
            record.retry_later();
        }
    }
}

impl Failing {
    /// The failure that concerns a request most: of the host, of its group, of its kind.
    fn first_of(&mut self, of: &EndpointKey, group: &RequestGroup) -> Option<(Scope, &mut Record)> {
        if self.hosts.peek(of).is_some() {
            return self.hosts.get(of).map(|record| (Scope::Host, record));
        }
        if self.groups.is_empty() {
            return None;
        }
        let of_group = (of.clone(), Scope::Group(group.clone()));
        let of_kind = (of.clone(), Scope::Kind(group.kind));
        let key = if self.groups.peek(&of_group).is_some() { of_group } else { of_kind };
        let scope = key.1.clone();
        self.groups.get(&key).map(|record| (scope, record))
    }

    /// A request was answered: neither the host nor its group nor its kind fails, except for bodies that do not
    /// come, if this one has not come either. Returns how often the group had failed.
    fn end(&mut self, of: &EndpointKey, group: &RequestGroup, came: Part) -> Option<u32> {
        // Nearly always nothing fails, and when the last answer came concerns only what failed before it.
        if self.hosts.is_empty() && self.groups.is_empty() && self.hung.is_empty() {
            return None;
        }
        let of_host = self.hosts.remove(of).map(|record| record.failures);
        let of_group = self.end_scope(of, Scope::Group(group.clone()), came);
        self.end_scope(of, Scope::Kind(group.kind), came);
        self.hung.remove(&(of.clone(), group.kind, Part::Head));
        if came == Part::Body {
            self.hung.remove(&(of.clone(), group.kind, Part::Body));
        }
        self.answered.insert(of.clone(), Instant::now());
        of_host.or(of_group)
    }

    fn end_scope(&mut self, of: &EndpointKey, scope: Scope, came: Part) -> Option<u32> {
        let key = (of.clone(), scope);
        match self.groups.get(&key) {
            Some(record) if record.fails > came => {
                record.retry_later();
                None
            }
            _ => self.groups.remove(&key).map(|record| record.failures),
        }
    }
}

#[cfg(test)]
#[path = "shared_url_tests.rs"]
mod shared_url_tests;
#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
