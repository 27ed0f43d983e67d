//! Rate limits: what each registry still grants to each principal, and which requests it answered 429.
//!
//! Promises: a request that was answered 429 is not repeated by the same principal before the time that the registry
//! named (or a few seconds, longer each time), and then by one request first, whose outcome others wait for; the limit
//! of one principal does not hold back another, and a 429 of a redirect target or token server holds back the question
//! that led there. What a response says of the limit (`ratelimit-limit`, `ratelimit-remaining`:
//! draft-ietf-httpapi-ratelimit-headers as Docker Hub has it) counts for ten minutes: the window may have moved on.
//!
//! Deliberately not here: what is done about it (`pull`), and outages (`health`): a registry that limits requests is
//! healthy.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, Method};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::too_many_requests::{Hold, Refusal};
use crate::reference::{Principal, Registry, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Clock, Timestamp};
use crate::support::rounded::rounded;
use crate::upstream::error::{Error, Failure, Party};
use crate::upstream::headers::header;
use crate::upstream::metrics::{Recorder, RequestKind};

/// What a response said counts for this long.
const RECENT: Duration = Duration::from_secs(600);
/// How long a request waits for the outcome of that one.
const TRIAL_WAIT: Duration = Duration::from_secs(6);
/// Below this fraction of the limit, one in so many, the budget is low.
const LOW_FRACTION: u64 = 10;
/// Accounts at most; a limit that is forgotten is learnt again from the next response.
const ACCOUNTS_MAX: usize = 4_096;

/// Registries count by what is requested and how: Docker Hub counts `GET`s of manifests and nothing else.
pub(crate) type RequestClass = (RequestKind, Method);

/// Whose limit it is: a registry counts what one principal requests from one endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) registry: &'a Registry,
    /// The URL of the endpoint.
    pub(crate) endpoint: &'a str,
    pub(crate) principal: Principal,
}

/// The rate limits of all accounts.
pub(crate) struct RateLimits {
    /// By the URL of the endpoint and the principal.
    budgets: Mutex<BoundedMap<(String, Principal), Budget>>,
    /// What a redirect target or token server answered 429: it limits that question, and not the endpoint's account.
    elsewhere: Mutex<BoundedMap<Elsewhere, Refusal>>,
    /// Records the outcome of every request.
    changed: Notify,
    recorder: Recorder,
    clock: Clock,
}

/// By the URL of the endpoint.
type Elsewhere = (String, Principal, Repository, RequestClass);

/// What one endpoint grants to one principal.
struct Budget {
    registry: Registry,
    limit: Option<u64>,
    remaining: Option<u64>,
    updated: Instant,
    /// Requests that were answered 429; at most one entry for each kind and method.
    refused: HashMap<RequestClass, Refusal>,
}

/// What is known of a limit, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// The registry that limits.
    pub registry: Registry,
    /// Whom it limits: the label of the principal's kind.
    pub principal: &'static str,
    /// Requests in a window.
    pub limit: Option<u64>,
    /// Requests that are left in the window.
    pub remaining: Option<u64>,
    /// For how long a request that was answered 429 is held back.
    pub retry_after: Option<Duration>,
}

impl RateLimits {
    pub(crate) fn new(recorder: Recorder, clock: Clock) -> Self {
        let budgets = Mutex::new(BoundedMap::new(ACCOUNTS_MAX));
        let elsewhere = Mutex::new(BoundedMap::new(ACCOUNTS_MAX));
        Self { budgets, elsewhere, changed: Notify::new(), recorder, clock }
    }

    /// Records what the headers of a response say of the limit; headers that say nothing change nothing.
    pub(crate) fn record_headers(&self, account: Account<'_>, headers: &HeaderMap) {
        let number = |name| header(headers, name).and_then(first_number);
        let limit = number("ratelimit-limit");
        let Some(remaining) = number("ratelimit-remaining") else { return };
        self.with_budget(account, |budget| {
            budget.limit = limit.or(budget.limit);
            budget.remaining = Some(remaining);
            budget.updated = Instant::now();
        });
        self.recorder.rate_limit(account.registry, account.principal, limit, remaining);
    }

    /// How long a request is held back; `None` if it may be sent now, which then is the one that finds out whether the
    /// limit is over.
    #[cfg(test)]
    pub(crate) fn held_back_for(
        &self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
    ) -> Option<Duration> {
        self.hold(account, repository, class).map(Hold::time)
    }

    /// The same, for a request that may wait: while another one finds out whether the limit is over, its outcome is
    /// waited for, at most [`TRIAL_WAIT`].
    pub(crate) async fn wait_until_held_back_for(
        &self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
    ) -> Option<Duration> {
        // Nearly always nothing is held back, and no outcome has to be waited for.
        if let Hold::For(time) = self.hold(account, repository, class)? {
            return Some(time);
        }
        let until = Instant::now() + TRIAL_WAIT;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the question, so that no outcome is missed.
            changed.as_mut().enable();
            match self.hold(account, repository, class)? {
                Hold::OnTrial(_) if Instant::now() < until => {
                    let _ = timeout_at(until, changed).await;
                }
                hold => return Some(hold.time()),
            }
        }
    }

    fn hold(&self, account: Account<'_>, repository: &Repository, class: &RequestClass) -> Option<Hold> {
        let now = Instant::now();
        let own = {
            let mut budgets = self.budgets.lock();
            let refusal = budgets.get_by(|| account.key()).and_then(|budget| budget.refused.get_mut(class));
            refusal.and_then(|refusal| refusal.hold(now))
        };
        let elsewhere = || {
            let mut elsewhere = self.elsewhere.lock();
            elsewhere.get_by(|| account.elsewhere(repository, class))?.hold(now)
        };
        own.or_else(elsewhere)
    }

    /// Records what a request says of the limit, and puts into a 429 for how long such requests are held back now.
    ///
    /// # Errors
    /// The failure in `result`.
    pub(crate) fn record_result<T>(
        &self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
        result: Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (host, retry_after, party) = match result {
            Err(Failure { is_recorded: true, .. }) => return result,
            Err(Failure { error: Error::RateLimited { host, retry_after }, party, .. }) => {
                (host, retry_after, party)
            }
            _ => {
                self.record_response(account, repository, class);
                self.changed.notify_waiters();
                return result;
            }
        };
        let wait = match party {
            Party::Endpoint => self.record_refusal(account, class.clone(), retry_after),
            Party::RedirectTarget | Party::TokenServer => {
                self.record_refusal_elsewhere(account, repository, class, retry_after)
            }
        };
        self.changed.notify_waiters();
        let error = Error::RateLimited { host, retry_after: Some(wait) };
        Err(Failure { error, party, is_recorded: true })
    }

    /// Records that a redirect target or token server answered 429 to this question; returns for how long such a
    /// question is held back.
    fn record_refusal_elsewhere(
        &self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
        retry_after: Option<Duration>,
    ) -> Duration {
        let (now, mut elsewhere) = (Instant::now(), self.elsewhere.lock());
        let key = account.elsewhere(repository, class);
        elsewhere.get_or_insert_with(key, || Refusal::new(now)).repeat(now, retry_after)
    }

    /// Records a 429; returns for how long such requests are held back.
    fn record_refusal(
        &self,
        account: Account<'_>,
        class: RequestClass,
        retry_after: Option<Duration>,
    ) -> Duration {
        let wait = self.with_budget(account, |budget| {
            let now = Instant::now();
            let refusal = budget.refused.entry(class).or_insert(Refusal::new(now));
            refusal.repeat(now, retry_after)
        });
        let Account { registry, endpoint, principal } = account;
        tracing::warn!(
            %registry, endpoint, principal = principal.kind.label(), wait = ?rounded(wait),
            "a rate limit is used up; requests are held back"
        );
        let until = self.clock.now().0.saturating_add(wait.as_secs());
        self.recorder.held_back_until(registry, principal, Timestamp(until));
        wait
    }

    /// Records any other response: such requests are not held back any more.
    fn record_response(&self, account: Account<'_>, repository: &Repository, class: &RequestClass) {
        self.elsewhere.lock().remove_by(|| account.elsewhere(repository, class));
        if let Some(budget) = self.budgets.lock().get_by(|| account.key()) {
            budget.refused.remove(class);
        }
    }

    /// Whether little or nothing is left for a principal at any endpoint of a registry.
    pub(crate) fn is_low(&self, registry: &Registry, principal: Principal) -> bool {
        let (now, budgets) = (Instant::now(), self.budgets.lock());
        budgets
            .iter()
            .filter(|((_, who), budget)| *who == principal && budget.registry == *registry)
            .any(|(_, budget)| budget.is_low(now))
    }

    /// All that is known, for an operator; of several callers the one with the least left.
    pub(crate) fn statuses(&self) -> Vec<RateLimitStatus> {
        let (now, budgets) = (Instant::now(), self.budgets.lock());
        let mut found: Vec<RateLimitStatus> = budgets
            .iter()
            .map(|((_, principal), budget)| RateLimitStatus {
                registry: budget.registry.clone(),
                principal: principal.kind.label(),
                limit: budget.limit.filter(|_| budget.is_recent(now)),
                remaining: budget.remaining.filter(|_| budget.is_recent(now)),
                retry_after: budget.held_back_for(now),
            })
            .filter(|status| status.remaining.is_some() || status.retry_after.is_some())
            .collect();
        drop(budgets);
        found.sort_by_key(|s| (s.registry.clone(), s.principal, s.remaining.unwrap_or(u64::MAX)));
        found.dedup_by_key(|s| (s.registry.clone(), s.principal));
        found
    }

    fn with_budget<T>(&self, account: Account<'_>, change: impl FnOnce(&mut Budget) -> T) -> T {
        let (mut budgets, now) = (self.budgets.lock(), Instant::now());
        let key = account.key();
        if budgets.len() >= ACCOUNTS_MAX && budgets.peek(&key).is_none() {
            // An account that is held back stays as long as another one can go: invented accounts must not make it
            // be asked before its time.
            let free = budgets.iter().filter(|(_, budget)| budget.held_back_for(now).is_none()).last();
            let free = free.map(|(key, _)| key.clone());
            free.and_then(|key| budgets.remove(&key));
        }
        change(budgets.get_or_insert_with(key, || Budget {
            registry: account.registry.clone(),
            limit: None,
            remaining: None,
            updated: now,
            refused: HashMap::new(),
        }))
    }
}

impl Account<'_> {
    fn key(self) -> (String, Principal) {
        (self.endpoint.to_owned(), self.principal)
    }

    fn elsewhere(self, repository: &Repository, class: &RequestClass) -> Elsewhere {
        (self.endpoint.to_owned(), self.principal, repository.clone(), class.clone())
    }
}

impl Budget {
    fn is_recent(&self, now: Instant) -> bool {
        now - self.updated < RECENT
    }

    fn held_back_for(&self, now: Instant) -> Option<Duration> {
        self.refused.values().filter(|refusal| refusal.until > now).map(|refusal| refusal.until - now).max()
    }

    /// What a 429 to another kind of question says nothing of: a registry that limits lists hands out manifests.
    fn is_low(&self, now: Instant) -> bool {
        let is_low = |left| left == 0 || left < self.limit.unwrap_or(100) / LOW_FRACTION;
        let is_content = |kind: &RequestKind| matches!(kind, RequestKind::Manifest | RequestKind::Blob);
        let mut refused = self.refused.iter().filter(|(_, refusal)| refusal.until > now);
        let content_refused = refused.any(|((kind, method), _)| method == Method::GET && is_content(kind));
        self.remaining.is_some_and(is_low) && self.is_recent(now) || content_refused
    }
}

/// The number in `100;w=21600`.
fn first_number(text: &str) -> Option<u64> {
    text.split([';', ',']).next()?.trim().parse().ok()
}

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod tests;
