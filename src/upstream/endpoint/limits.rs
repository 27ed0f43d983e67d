//! What is known of the limits of all accounts: decisions, without waiting and without metrics.
//!
//! Promises: what is held back is the request that was answered 429, or all of an account where that is the account's
//! limit ([`super::account_limit`]); once its time is over one request finds out. Bounded: invented accounts and
//! repositories do not make one that is held back be asked before its time, as long as others can go.
//!
//! Deliberately not here: what a response says (`rate_limit`).

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::account_limit::AccountLimit;
use super::too_many_requests::{Hold, Refusal};
use crate::reference::{Principal, Registry, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::upstream::metrics::RequestKind;
use crate::upstream::request::RequestClass;

/// What a response said counts for this long.
pub(super) const RECENT: Duration = Duration::from_secs(600);
/// Below this fraction of the limit, one in so many, the budget is low.
const LOW_FRACTION: u64 = 10;
/// Accounts at most; a limit that is forgotten is learnt again from the next response.
pub(super) const ACCOUNTS_MAX: usize = 4_096;
/// Requests at most that were answered 429; one that is forgotten is sent once more.
const REFUSED_MAX: usize = 4_096;

/// Whose limit it is: a registry counts what one principal requests from one endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) registry: &'a Registry,
    /// The URL of the endpoint.
    pub(crate) endpoint: &'a str,
    pub(crate) principal: Principal,
}

/// All that is known.
pub(super) struct Known {
    /// By the URL of the endpoint and the principal.
    pub(super) budgets: BoundedMap<(String, Principal), Budget>,
    /// What was answered 429.
    pub(super) refused: BoundedMap<LimitedRequest, Refused>,
}

/// A request as limits tell it from others: of one account, for one repository, of one class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LimitedRequest {
    /// The URL of the endpoint.
    endpoint: String,
    pub(super) principal: Principal,
    pub(super) repository: Repository,
    pub(super) class: RequestClass,
}

/// A request that was answered 429.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    /// Whether the endpoint answered, and not a redirect target or token server, whose limits are their own.
    pub(super) by_endpoint: bool,
}

/// What one endpoint grants to one principal.
pub(super) struct Budget {
    pub(super) registry: Registry,
    pub(super) limit: Option<u64>,
    pub(super) remaining: Option<u64>,
    pub(super) updated: Instant,
    /// Whether the registry ever said what is left for the account, or whom it counts: its 429s are then the account's.
    pub(super) is_stated: bool,
    /// At most one entry for each kind and method.
    pub(super) limits: HashMap<RequestClass, AccountLimit>,
}

impl Default for Known {
    fn default() -> Self {
        Self { budgets: BoundedMap::new(ACCOUNTS_MAX), refused: BoundedMap::new(REFUSED_MAX) }
    }
}

impl Known {
    /// Admits a request, which then finds out for the others, where there is something to find out.
    ///
    /// # Errors
    /// Why it is held back.
    pub(super) fn admit(
        &mut self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
        now: Instant,
    ) -> Result<(), Hold> {
        let mut refused = self.refused.get_by(|| account.request(repository, class));
        let was_refused = refused.as_ref().is_some_and(|refused| refused.by_endpoint);
        let limit = self.budgets.get_by(|| account.key()).and_then(|budget| budget.limits.get_mut(class));
        let own = refused.as_ref().and_then(|refused| refused.refusal.hold(now));
        let of_account = limit.as_ref().and_then(|limit| limit.hold(now, was_refused));
        // The longer one decides.
        if let Some(hold) = [own, of_account].into_iter().flatten().max_by_key(|hold| hold.time()) {
            return Err(hold);
        }
        if let Some(refused) = &mut refused {
            refused.refusal.begin_trial(now);
        }
        if let Some(limit) = limit {
            limit.begin_trial(now, was_refused);
        }
        Ok(())
    }

    /// Records a 429 of the endpoint; returns for how long such requests are held back, and whether those of all
    /// repositories are, as the registry says.
    pub(super) fn record(
        &mut self,
        account: Account<'_>,
        repository: &Repository,
        class: &RequestClass,
        retry_after: Option<Duration>,
    ) -> (Duration, bool) {
        let now = Instant::now();
        let budget = self.budget(account);
        if budget.is_stated {
            let limit = budget.limits.entry(class.clone()).or_default();
            return (limit.record_stated(now, retry_after), true);
        }
        let request = account.request(repository, class);
        let was_refused = self.refused.peek(&request).is_some_and(|refused| refused.by_endpoint);
        let wait = self.refused(request, now, true).repeat(now, retry_after);
        let limit = self.budget(account).limits.entry(class.clone()).or_default();
        limit.record(repository, now, now + wait, was_refused);
        (wait, false)
    }

    pub(super) fn refused(
        &mut self,
        request: LimitedRequest,
        now: Instant,
        by_endpoint: bool,
    ) -> &mut Refusal {
        // As with accounts.
        make_room(&mut self.refused, REFUSED_MAX, &request, |refused| refused.refusal.hold(now).is_none());
        let make = || Refused { refusal: Refusal::new(now), by_endpoint };
        let refused = self.refused.get_or_insert_with(request, make);
        refused.by_endpoint = by_endpoint;
        &mut refused.refusal
    }

    /// The requests that endpoints answered 429 and that are held back, each for how long.
    pub(super) fn refused_by_endpoint(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (&LimitedRequest, Duration)> {
        self.refused.iter().filter(|(_, refused)| refused.by_endpoint).filter_map(
            move |(request, refused)| refused.refusal.hold(now).map(|hold| (request, hold.time())),
        )
    }

    pub(super) fn budget(&mut self, account: Account<'_>) -> &mut Budget {
        let (now, key) = (Instant::now(), account.key());
        // An account that is held back stays as long as another one can go: invented accounts must not make it be
        // asked before its time.
        make_room(&mut self.budgets, ACCOUNTS_MAX, &key, |budget| budget.held_back_for(now).is_none());
        self.budgets.get_or_insert_with(key, || Budget {
            registry: account.registry.clone(),
            limit: None,
            remaining: None,
            updated: now,
            is_stated: false,
            limits: HashMap::new(),
        })
    }
}

/// Removes of a full map the entry that was used longest ago of those that may go, if `key` is a new one.
fn make_room<K: Hash + Eq + Clone, V>(
    map: &mut BoundedMap<K, V>,
    entries_max: usize,
    key: &K,
    may_go: impl Fn(&V) -> bool,
) {
    if map.len() >= entries_max && map.peek(key).is_none() {
        let free = map.iter().filter(|(_, value)| may_go(value)).last();
        let free = free.map(|(key, _)| key.clone());
        free.and_then(|key| map.remove(&key));
    }
}

impl Account<'_> {
    pub(super) fn key(self) -> (String, Principal) {
        (self.endpoint.to_owned(), self.principal)
    }

    pub(super) fn request(self, repository: &Repository, class: &RequestClass) -> LimitedRequest {
        LimitedRequest {
            endpoint: self.endpoint.to_owned(),
            principal: self.principal,
            repository: repository.clone(),
            class: class.clone(),
        }
    }
}

impl Budget {
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        now - self.updated < RECENT
    }

    pub(super) fn held_back_for(&self, now: Instant) -> Option<Duration> {
        self.limits.values().filter_map(|limit| limit.held_back_for(now)).max()
    }

    pub(super) fn is_low(&self, now: Instant) -> bool {
        let is_low = |left| left == 0 || left < self.limit.unwrap_or(100) / LOW_FRACTION;
        let mut refused = self.limits.iter().filter(|(_, limit)| limit.stated_for(now).is_some());
        self.remaining.is_some_and(is_low) && self.is_recent(now)
            || refused.any(|(class, _)| is_content(class))
    }
}

/// A 429 to another kind of request says nothing of content: a registry that limits lists hands out manifests.
pub(super) fn is_content(RequestClass { kind, method }: &RequestClass) -> bool {
    method == Method::GET && matches!(kind, RequestKind::Manifest | RequestKind::Blob)
}
