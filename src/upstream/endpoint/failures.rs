//! What is remembered of the endpoints that fail: for what, since when, and when they are tried again.
//!
//! Bounded. Deliberately not here: which outcome of a request is a failure, and of what ([`super::health`]).

use std::time::Duration;

use tokio::time::Instant;

use crate::reference::{Registry, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::upstream::error::Error;
use crate::upstream::metrics::RequestKind;

/// The first pause; then twice as long each time.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a registry that is back is used again within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A failure that took this long is not repeated for every caller.
pub(crate) const SLOW_FAILURE: Duration = Duration::from_secs(1);
/// A failure that is longer ago says nothing of whether a host can be reached now.
pub(crate) const RECENT: Duration = Duration::from_secs(30);
/// A retry is over after this long: every request is.
const RETRY_LASTS_MAX: Duration = Duration::from_secs(30);
/// Failing hosts at most; one that is forgotten counts as healthy until it fails again.
const HOSTS_MAX: usize = 1_024;
/// Failing questions at most, in a map of their own, so that a registry with many does not push out failing hosts.
pub(crate) const QUESTIONS_MAX: usize = 4_096;

/// What is asked of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) repository: Repository,
    pub(crate) kind: RequestKind,
}

/// What a failure is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Every request: no connection.
    Host,
    /// One question.
    Question(Question),
    /// Questions of one kind.
    Kind(RequestKind),
}

/// The endpoint that was asked, and for which registry.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) registry: &'a Registry,
    /// `host:port`.
    pub(crate) host: &'a str,
    pub(crate) url: &'a str,
}

/// What fails, by the URL of the endpoint.
pub(crate) struct Failing {
    pub(crate) hosts: BoundedMap<String, Record>,
    /// Never [`Scope::Host`].
    pub(crate) questions: BoundedMap<(String, Scope), Record>,
    /// Questions that hung since the last answer to one of the kind.
    pub(crate) hung: BoundedMap<(String, RequestKind), u32>,
    /// When a question was answered last.
    pub(crate) answered: BoundedMap<String, Instant>,
}

/// What is remembered of one failure.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) registry: Registry,
    pub(crate) host: String,
    pub(crate) error: Error,
    pub(crate) failures: u32,
    pub(crate) first: Instant,
    /// The first failure since the last gap of more than [`RECENT`].
    pub(crate) unreachable_since: Instant,
    pub(crate) last: Instant,
    /// Whether the last failure took at least [`SLOW_FAILURE`].
    pub(crate) slow: bool,
    pub(crate) retry_at: Instant,
    /// Since when a request tries it again.
    pub(crate) retrying_since: Option<Instant>,
    /// Requests that found it failing, in the second that began then.
    pub(crate) requests: (Instant, u32),
}

impl Default for Failing {
    fn default() -> Self {
        Self {
            hosts: BoundedMap::new(HOSTS_MAX),
            questions: BoundedMap::new(QUESTIONS_MAX),
            hung: BoundedMap::new(HOSTS_MAX),
            answered: BoundedMap::new(HOSTS_MAX),
        }
    }
}

impl Failing {
    /// The failure that concerns a question most: of the host, of the question itself, of its kind.
    pub(crate) fn first_of(&mut self, url: &str, question: &Question) -> Option<(Scope, &mut Record)> {
        if self.hosts.peek(url).is_some() {
            return self.hosts.get(url).map(|record| (Scope::Host, record));
        }
        let of_question = (url.to_owned(), Scope::Question(question.clone()));
        let of_kind = (url.to_owned(), Scope::Kind(question.kind));
        let key = if self.questions.peek(&of_question).is_some() { of_question } else { of_kind };
        let scope = key.1.clone();
        self.questions.get(&key).map(|record| (scope, record))
    }

    /// The question was answered: neither the host nor the question nor its kind fails. Returns how often the question
    /// had failed.
    pub(crate) fn end(&mut self, url: &str, question: &Question) -> Option<u32> {
        let of_host = self.hosts.remove(url);
        let of_question = self.questions.remove(&(url.to_owned(), Scope::Question(question.clone())));
        self.questions.remove(&(url.to_owned(), Scope::Kind(question.kind)));
        self.hung.remove(&(url.to_owned(), question.kind));
        self.answered.insert(url.to_owned(), Instant::now());
        of_host.or(of_question).map(|record| record.failures)
    }
}

impl Record {
    /// After one more failure of `asked`, which took so long; `before` is what was recorded.
    pub(crate) fn after(before: Option<&Self>, asked: Asked<'_>, error: &Error, took: Duration) -> Self {
        let now = Instant::now();
        let failures = before.map_or(0, |record| record.failures).saturating_add(1);
        let Asked { registry, host, url } = asked;
        if failures == 1 {
            tracing::warn!(endpoint = url, %registry, %error, "an endpoint fails");
        }
        Self {
            registry: registry.clone(),
            host: host.to_owned(),
            error: error.clone(),
            failures,
            first: before.map_or(now, |record| record.first),
            unreachable_since: before
                .filter(|record| record.last.elapsed() <= RECENT)
                .map_or(now, |record| record.unreachable_since),
            last: now,
            slow: took >= SLOW_FAILURE,
            retry_at: now + pause(failures),
            retrying_since: None,
            requests: before.map_or((now, 0), |record| record.requests),
        }
    }
}

impl Record {
    /// A retry whose outcome went to another record does not hold up the next one for ever.
    pub(crate) fn is_being_retried(&self) -> bool {
        self.retrying_since.is_some_and(|since| since.elapsed() < RETRY_LASTS_MAX)
    }

    pub(crate) fn retry_later(&mut self) {
        self.retrying_since = None;
        self.retry_at = Instant::now() + pause(self.failures);
    }
}

pub(crate) fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(PAUSE_MAX)
}
