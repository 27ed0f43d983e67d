//! Rate limits: what each registry still grants to each principal, and which requests it answered 429.
//!
//! Promises: a request that was answered 429 is not repeated by the same principal before the time that the registry
//! named (or a few seconds, longer each time), and then by one request first, whose outcome others wait for; the limit
//! of one principal does not hold back another, and a 429 of one repository no other repository, unless it is the
//! account's ([`super::account_limit`]). A 429 of a redirect target or token server holds back the request that led
//! there. What a response says of the limit (`ratelimit-limit`, `ratelimit-remaining`:
//! draft-ietf-httpapi-ratelimit-headers as Docker Hub has it) counts for ten minutes: the window may have moved on.
//!
//! Deliberately not here: what is done about it (`pull`), and outages (`health`): a registry that limits requests is
//! healthy.

use std::cmp::Reverse;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::limits::{Account, Known, is_content};
use super::too_many_requests::Hold;
use crate::reference::{Principal, Registry, Repository};
use crate::support::clock::{Clock, Timestamp};
use crate::support::rounded::rounded;
use crate::upstream::error::{Error, Failure, Party};
use crate::upstream::headers::header;
use crate::upstream::metrics::Recorder;
use crate::upstream::request::RequestClass;

/// How long a request waits for the outcome of that one.
const TRIAL_WAIT: Duration = Duration::from_secs(6);

/// The rate limits of all accounts.
pub(crate) struct RateLimits {
    known: Mutex<Known>,
    /// Records the outcome of every request.
    changed: Notify,
    recorder: Recorder,
    clock: Clock,
}

/// What is known of a limit, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// The registry that limits.
    pub registry: Registry,
    /// Whom it limits: the label of the principal's kind.
    pub principal: &'static str,
    /// The one repository for which it does; `None` if it is the limit of the account.
    pub repository: Option<Repository>,
    /// Requests in a window.
    pub limit: Option<u64>,
    /// Requests that are left in the window.
    pub remaining: Option<u64>,
    /// For how long a request that was answered 429 is held back.
    pub retry_after: Option<Duration>,
}

impl RateLimits {
    pub(crate) fn new(recorder: Recorder, clock: Clock) -> Self {
        Self { known: Mutex::default(), changed: Notify::new(), recorder, clock }
    }

    /// Records what the headers of a response say of the limit; headers that say nothing change nothing.
    pub(crate) fn record_headers(&self, account: Account<'_>, headers: &HeaderMap) {
        let number = |name| header(headers, name).and_then(first_number);
        let (limit, remaining) = (number("ratelimit-limit"), number("ratelimit-remaining"));
        if remaining.is_none() && !headers.contains_key("docker-ratelimit-source") {
            return;
        }
        let mut known = self.known.lock();
        let budget = known.budget(account);
        budget.is_stated = true;
        let Some(remaining) = remaining else { return };
        budget.limit = limit.or(budget.limit);
        budget.remaining = Some(remaining);
        budget.updated = Instant::now();
        drop(known);
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
        self.admit(account, repository, class).err().map(Hold::time)
    }

    /// Admits a request, which then may be the one that finds out whether the limit is over. While another one finds
    /// out, its outcome is waited for, and so is the time for which a limit is only suspected, at most [`TRIAL_WAIT`].
    ///
    /// # Errors
    /// How long the request is held back.
    pub(crate) async fn admit_in_time(
        &self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
    ) -> Result<(), Duration> {
        // Nearly always nothing is held back, and no outcome has to be waited for.
        match self.admit(account, repository, class) {
            Ok(()) => return Ok(()),
            Err(Hold::For(time)) => return Err(time),
            Err(Hold::OnTrial(_) | Hold::Suspected(_)) => {}
        }
        let until = Instant::now() + TRIAL_WAIT;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the question, so that no outcome is missed.
            changed.as_mut().enable();
            match self.admit(account, repository, class) {
                Ok(()) => return Ok(()),
                Err(Hold::OnTrial(_)) if Instant::now() < until => {
                    let _ = timeout_at(until, changed).await;
                }
                Err(Hold::Suspected(left)) if Instant::now() + left < until => {
                    let _ = timeout_at(Instant::now() + left, changed).await;
                }
                Err(hold) => return Err(hold.time()),
            }
        }
    }

    fn admit(&self, account: Account<'_>, repository: &Repository, class: &RequestClass) -> Result<(), Hold> {
        self.known.lock().admit(account, repository, class, Instant::now())
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
            Party::Endpoint => self.record_refusal(account, repository, class, retry_after),
            Party::RedirectTarget | Party::TokenServer => {
                self.record_refusal_elsewhere(account, repository, class, retry_after)
            }
        };
        self.changed.notify_waiters();
        let error = Error::RateLimited { host, retry_after: Some(wait) };
        Err(Failure { error, party, is_recorded: true })
    }

    /// Records that a redirect target or token server answered 429 to this request; returns for how long such a
    /// request is held back.
    fn record_refusal_elsewhere(
        &self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
        retry_after: Option<Duration>,
    ) -> Duration {
        let (now, mut known) = (Instant::now(), self.known.lock());
        known.refused(account.request(repository, class), now, false).repeat(now, retry_after)
    }

    /// Records a 429 of the endpoint; returns for how long such requests are held back.
    fn record_refusal(
        &self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
        retry_after: Option<Duration>,
    ) -> Duration {
        let (wait, is_stated) = self.known.lock().record(account, repository, class, retry_after);
        let Account { registry, endpoint, principal } = account;
        let whom = if is_stated { "account" } else { "repository" };
        tracing::warn!(
            %registry, %repository, endpoint, principal = principal.kind.label(), limits = whom, wait = ?rounded(wait),
            "a rate limit is used up; requests are held back"
        );
        let until = self.clock.now().0.saturating_add(wait.as_secs());
        self.recorder.held_back_until(registry, principal, Timestamp(until));
        wait
    }

    /// Records any other response: such requests are not held back any more.
    fn record_response(&self, account: Account<'_>, repository: &Repository, class: &RequestClass) {
        let mut known = self.known.lock();
        known.refused.remove_by(|| account.request(repository, class));
        if let Some(budget) = known.budgets.get_by(|| account.key()) {
            budget.limits.remove(class);
        }
    }

    /// Whether little or nothing is left for a principal at any endpoint of a registry, or of the repository's own
    /// limit. A limit of the account that is only suspected makes nothing low.
    pub(crate) fn is_low(&self, repository: &Repository, principal: Principal) -> bool {
        let (now, known) = (Instant::now(), self.known.lock());
        let is_refused = known
            .refused_by_endpoint(now)
            .map(|(request, _)| request)
            .any(|of| of.principal == principal && of.repository == *repository && is_content(&of.class));
        let mut budgets = known.budgets.iter().filter(|((_, who), _)| *who == principal);
        is_refused
            || budgets.any(|(_, budget)| budget.registry == *repository.registry() && budget.is_low(now))
    }

    /// All that is known, for an operator; of several callers the one with the least left.
    pub(crate) fn statuses(&self) -> Vec<RateLimitStatus> {
        let (now, known) = (Instant::now(), self.known.lock());
        let of_accounts = known.budgets.iter().map(|((_, principal), budget)| RateLimitStatus {
            registry: budget.registry.clone(),
            principal: principal.kind.label(),
            repository: None,
            limit: budget.limit.filter(|_| budget.is_recent(now)),
            remaining: budget.remaining.filter(|_| budget.is_recent(now)),
            retry_after: budget.held_back_for(now),
        });
        let of_repositories = known.refused_by_endpoint(now).map(|(request, left)| RateLimitStatus {
            registry: request.repository.registry().clone(),
            principal: request.principal.kind.label(),
            repository: Some(request.repository.clone()),
            limit: None,
            remaining: None,
            retry_after: Some(left),
        });
        let mut found: Vec<RateLimitStatus> = of_accounts
            .chain(of_repositories)
            .filter(|status| status.remaining.is_some() || status.retry_after.is_some())
            .collect();
        drop(known);
        let whom = |s: &RateLimitStatus| (s.registry.clone(), s.principal, s.repository.clone());
        found.sort_by_key(|s| (whom(s), s.remaining.unwrap_or(u64::MAX), Reverse(s.retry_after)));
        found.dedup_by_key(|s| whom(s));
        found
    }
}

/// The number in `100;w=21600`.
fn first_number(text: &str) -> Option<u64> {
    text.split([';', ',']).next()?.trim().parse().ok()
}

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod tests;
