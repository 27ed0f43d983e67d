//! What is remembered of an endpoint that fails: how often, since when, and when a request tries it again.
//!
//! Deliberately not here: which failures concern a request, and what is done with it (`health`).

use std::time::Duration;

use tokio::time::Instant;

use crate::reference::Registry;
use crate::upstream::endpoint::key::EndpointKey;
use crate::upstream::error::Error;
use crate::upstream::request::RequestGroup;

/// The first pause; then twice as long each time.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a registry that is back is used again within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// The first pause after a body that did not come, and the longest: finding out again costs a pull as long as a body
/// may stand still.
pub(super) const BODY_PAUSE: Duration = Duration::from_secs(60);
const BODY_PAUSE_MAX: Duration = Duration::from_secs(600);
/// The longest that a registry is left alone because it asks for it (`Retry-After`): pods wait meanwhile, and it may be
/// back.
pub(super) const ASKED_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A failure that took this long is not repeated for every caller.
pub(super) const SLOW_FAILURE: Duration = Duration::from_secs(1);
/// A failure that is longer ago says nothing of whether a host can be reached now.
pub(super) const RECENT: Duration = Duration::from_secs(30);
/// A retry is over after this long: every request is.
const RETRY_LASTS_MAX: Duration = Duration::from_secs(30);

/// How far an answer came, or did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// The head. A body may follow.
    Head,
    /// The body, after its head.
    Body,
}

impl Part {
    /// The first pause after it did not come, and the longest.
    fn pauses(self) -> (Duration, Duration) {
        match self {
            Self::Head => (PAUSE, PAUSE_MAX),
            Self::Body => (BODY_PAUSE, BODY_PAUSE_MAX),
        }
    }
}

/// What was asked, and where.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) group: RequestGroup,
    /// The endpoint.
    pub(super) key: EndpointKey,
    /// Its `host:port`.
    pub(super) host: String,
}

/// An endpoint that fails.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) registry: Registry,
    pub(super) host: String,
    pub(super) error: Error,
    pub(super) failures: u32,
    pub(super) first: Instant,
    /// The first failure since the last gap of more than [`RECENT`].
    pub(super) failing_since: Instant,
    pub(super) last: Instant,
    /// Whether the last failure took at least [`SLOW_FAILURE`].
    pub(super) slow: bool,
    /// What did not come. A body that did not come since one last did counts: a head is no sign that it does now.
    pub(super) fails: Part,
    pub(super) retry_at: Instant,
    /// Until when it asks to be left alone.
    pub(super) asked_until: Option<Instant>,
    /// Since when a request tries it again.
    pub(super) retrying_since: Option<Instant>,
    /// Requests that found it failing, in the second that began then.
    pub(super) requests: (Instant, u32),
}

impl Record {
    pub(super) fn after(
        before: Option<&Self>,
        asked: &Asked,
        error: &Error,
        took: Duration,
        part: Part,
    ) -> Self {
        let now = Instant::now();
        let fails = before.map_or(part, |record| record.fails.max(part));
        let failures = before.map_or(0, |record| record.failures).saturating_add(1);
        let registry = asked.group.repository.registry();
        if failures == 1 {
            tracing::warn!(endpoint = asked.key.url(), %registry, %error, "an endpoint fails");
        }
        // A little longer, so that the nodes of a cluster do not come back all at once.
        let asked_pause = error.retry_after().map(|wait| wait.min(ASKED_PAUSE_MAX));
        let asked_until = asked_pause.map(|wait| now + wait + wait.mul_f64(fastrand::f64() / 10.0));
        Self {
            registry: registry.clone(),
            host: asked.host.clone(),
            error: error.clone(),
            failures,
            first: before.map_or(now, |record| record.first),
            failing_since: before
                .filter(|record| record.last.elapsed() <= RECENT)
                .map_or(now, |record| record.failing_since),
            last: now,
            slow: took >= SLOW_FAILURE,
            fails,
            retry_at: (now + pause(failures, fails)).max(asked_until.unwrap_or(now)),
            asked_until,
            retrying_since: None,
            requests: before.map_or((now, 0), |record| record.requests),
        }
    }

    /// A retry whose outcome went to another record does not hold up the next one for ever.
    pub(super) fn is_being_retried(&self) -> bool {
        self.retrying_since.is_some_and(|since| since.elapsed() < RETRY_LASTS_MAX)
    }

    pub(super) fn retry_later(&mut self) {
        self.retrying_since = None;
        let now = Instant::now();
        self.retry_at = (now + pause(self.failures, self.fails)).max(self.asked_until.unwrap_or(now));
    }
}

fn pause(failures: u32, fails: Part) -> Duration {
    let (first, longest) = fails.pauses();
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest)
}
