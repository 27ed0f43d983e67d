//! Rate limits: what each registry says that it will still give to each credential, and when it wants to be left alone.
//!
//! Promises: whoever answered 429 is not asked the same way by the same principal before the time that it named (or a
//! few seconds, longer each time), and then by one question first; a limit of one credential is nobody else's. What an
//! answer tells (`ratelimit-limit`, `ratelimit-remaining`: draft-ietf-httpapi-ratelimit-headers as Docker Hub has it)
//! is kept for ten minutes: the window may have moved on.
//!
//! Deliberately not here: what is done about it (`pull`), and outages (`health`): a registry that limits us is well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::Instant;

use crate::reference::{Principal, Registry};
use crate::support::clock::Clock;
use crate::support::metrics::RegistryLabels;
use crate::upstream::headers::header;
use crate::upstream::metrics::{Kind, Metrics};

/// What was told is forgotten after this.
const KEPT: Duration = Duration::from_secs(600);
/// How long a 429 without `Retry-After` counts at first; then twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest of those: four questions a minute are no storm.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// The longest that a `Retry-After` is obeyed: the budget may be back earlier, and somebody may have typed a day.
const OBEYED_MAX: Duration = Duration::from_secs(300);
/// A question that finds out whether the limit is over may take so long before another one is let through.
const TRIAL: Duration = Duration::from_secs(5);
/// Below this part of the limit it is low.
const LOW_PART: u64 = 10;
/// Accounts remembered at most.
const ACCOUNTS_MAX: usize = 4_096;

/// Registries limit by what is asked for and how: Docker Hub counts `GET`s of manifests and nothing else.
type Class = (Kind, Method);

/// Whose limit, and where: an endpoint's name and a principal.
type Key = (String, Principal);

/// All that registries have told.
pub(crate) struct Limits {
    accounts: Mutex<HashMap<Key, Account>>,
    metrics: Arc<Metrics>,
    labels: Arc<RegistryLabels>,
    clock: Clock,
}

/// What one endpoint has told one principal.
struct Account {
    registry: Registry,
    limit: Option<u64>,
    remaining: Option<u64>,
    told: Instant,
    closed: HashMap<Class, Closed>,
}

/// A 429 that still counts.
struct Closed {
    until: Instant,
    times: u32,
}

/// What is known of a limit, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// Of which registry.
    pub registry: Registry,
    /// Whose: the label of the principal's kind.
    pub principal: &'static str,
    /// Requests in a window.
    pub limit: Option<u64>,
    /// What is left of them.
    pub remaining: Option<u64>,
    /// For how long it is left alone, after a 429.
    pub retry_after: Option<Duration>,
}

impl Limits {
    pub(crate) fn new(metrics: Arc<Metrics>, labels: Arc<RegistryLabels>, clock: Clock) -> Self {
        Self { accounts: Mutex::default(), metrics, labels, clock }
    }

    /// Takes note of what an answer tells about the limit of whoever asked.
    pub(crate) fn note(&self, registry: &Registry, endpoint: &str, principal: Principal, told: &HeaderMap) {
        let number = |name| header(told, name).and_then(first_number);
        let (limit, remaining) = (number("ratelimit-limit"), number("ratelimit-remaining"));
        // An answer that says nothing changes nothing.
        let Some(left) = remaining else { return };
        self.with(registry, endpoint, principal, |account| {
            account.limit = limit.or(account.limit);
            account.remaining = remaining;
            account.told = Instant::now();
        });
        self.labels.with(registry.as_str(), |label| {
            let of = [label, principal.kind.label()];
            let shown = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            self.metrics.remaining.with_label_values(&of).set(shown(left));
            if let Some(limit) = limit {
                self.metrics.limit.with_label_values(&of).set(shown(limit));
            }
        });
    }

    /// How long the same question of the same principal has to wait; `None` if it may be asked now.
    pub(crate) fn wait(&self, endpoint: &str, principal: Principal, class: &Class) -> Option<Duration> {
        let mut all = self.lock();
        let closed = all.get_mut(&(endpoint.to_owned(), principal))?.closed.get_mut(class)?;
        let now = Instant::now();
        if closed.until > now {
            return Some(closed.until - now);
        }
        // This one finds out; the others wait for it.
        closed.until = now + TRIAL;
        None
    }

    /// It answered 429; returns for how long it is left alone.
    pub(crate) fn refused(
        &self,
        registry: &Registry,
        endpoint: &str,
        principal: Principal,
        class: Class,
        retry_after: Option<Duration>,
    ) -> Duration {
        let wait = self.with(registry, endpoint, principal, |account| {
            let closed = account.closed.entry(class).or_insert(Closed { until: Instant::now(), times: 0 });
            let wait = pause(closed.times, retry_after);
            *closed = Closed { until: Instant::now() + wait, times: closed.times.saturating_add(1) };
            wait
        });
        tracing::warn!(
            %registry, endpoint, principal = principal.kind.label(), wait = ?wait,
            "a rate limit is used up; the registry is left alone for a while"
        );
        self.labels.with(registry.as_str(), |label| {
            let at = i64::try_from(self.clock.now().0.saturating_add(wait.as_secs())).unwrap_or(i64::MAX);
            self.metrics.retry_at.with_label_values(&[label, principal.kind.label()]).set(at);
        });
        wait
    }

    /// It answered something else.
    pub(crate) fn answered(&self, endpoint: &str, principal: Principal, class: &Class) {
        if let Some(account) = self.lock().get_mut(&(endpoint.to_owned(), principal)) {
            account.closed.remove(class);
        }
    }

    /// Whether little is left for a principal at any endpoint of a registry, or nothing.
    pub(crate) fn is_low(&self, registry: &Registry, principal: Principal) -> bool {
        let all = self.lock();
        let mut told =
            all.iter().filter(|((_, who), account)| *who == principal && account.registry == *registry);
        told.any(|(_, account)| account.is_low(Instant::now()))
    }

    /// All that is known, for an operator; of several callers the one with the least left.
    pub(crate) fn status(&self) -> Vec<RateLimitStatus> {
        let (now, all) = (Instant::now(), self.lock());
        let mut found: Vec<RateLimitStatus> = all
            .iter()
            .map(|((_, principal), account)| RateLimitStatus {
                registry: account.registry.clone(),
                principal: principal.kind.label(),
                limit: account.limit.filter(|_| account.is_recent(now)),
                remaining: account.remaining.filter(|_| account.is_recent(now)),
                retry_after: account.closed_for(now),
            })
            .filter(|status| status.remaining.is_some() || status.retry_after.is_some())
            .collect();
        found.sort_by_key(|s| (s.registry.clone(), s.principal, s.remaining.unwrap_or(u64::MAX)));
        found.dedup_by_key(|s| (s.registry.clone(), s.principal));
        found
    }

    fn with<T>(
        &self,
        registry: &Registry,
        endpoint: &str,
        principal: Principal,
        change: impl FnOnce(&mut Account) -> T,
    ) -> T {
        let (mut all, now) = (self.lock(), Instant::now());
        let key = (endpoint.to_owned(), principal);
        if all.len() >= ACCOUNTS_MAX && !all.contains_key(&key) {
            all.retain(|_, account| account.closed_for(now).is_some());
        }
        if all.len() >= ACCOUNTS_MAX && !all.contains_key(&key) {
            all.clear();
        }
        change(all.entry(key).or_insert_with(|| Account {
            registry: registry.clone(),
            limit: None,
            remaining: None,
            told: now,
            closed: HashMap::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn is_recent(&self, now: Instant) -> bool {
        now - self.told < KEPT
    }

    fn closed_for(&self, now: Instant) -> Option<Duration> {
        self.closed.values().filter(|closed| closed.until > now).map(|closed| closed.until - now).max()
    }

    fn is_low(&self, now: Instant) -> bool {
        let low = self.remaining.is_some_and(|left| left == 0 || left < self.limit.unwrap_or(100) / LOW_PART);
        low && self.is_recent(now) || self.closed_for(now).is_some()
    }
}

/// How long a 429 counts: what it says, within bounds; a little longer, so that the nodes of a cluster do not come back
/// all at once.
fn pause(times: u32, retry_after: Option<Duration>) -> Duration {
    let wait = match retry_after {
        Some(said) => said.clamp(PAUSE, OBEYED_MAX),
        None => PAUSE.saturating_mul(2_u32.saturating_pow(times)).min(PAUSE_MAX),
    };
    wait + wait.mul_f64(fastrand::f64() / 10.0)
}

/// `100;w=21600`.
fn first_number(text: &str) -> Option<u64> {
    text.split([';', ',']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::PrincipalKind;

    const AT: &str = "https://registry-1.docker.io/v2";

    fn limits() -> Limits {
        let registry = crate::support::metrics::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        Limits::new(metrics, Arc::default(), Clock::system())
    }

    fn principal(kind: PrincipalKind) -> Principal {
        Principal::new(kind, [7; 16])
    }

    fn get() -> Class {
        (Kind::Manifest, Method::GET)
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_low_when_the_registry_says_so_and_only_as_long() {
        let (limits, hub) = (limits(), Registry::docker_hub());
        let (nobody, node) = (principal(PrincipalKind::Anonymous), principal(PrincipalKind::Node));
        let note = |left: Option<&str>| {
            let mut told = HeaderMap::new();
            told.insert("ratelimit-limit", "100;w=21600".parse().unwrap());
            if let Some(left) = left {
                told.insert("ratelimit-remaining", left.parse().unwrap());
            }
            limits.note(&hub, AT, nobody, &told);
            limits.is_low(&hub, nobody)
        };
        assert!(!note(Some("76;w=21600")));
        assert!(note(Some("9;w=21600")));
        assert!(note(None), "an answer that says nothing changes nothing");
        assert!(!limits.is_low(&hub, node), "another's budget is another one");
        assert!(!limits.is_low(&"quay.io".parse().unwrap(), nobody));
        assert!(!note(Some("99")));
        assert!(note(Some("0")));
        let status = limits.status();
        assert_eq!(
            (status[0].limit, status[0].remaining, status[0].principal),
            (Some(100), Some(0), "anonymous")
        );
        tokio::time::advance(KEPT).await;
        assert!(!limits.is_low(&hub, nobody));
        assert_eq!(limits.status(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_429_is_left_alone_and_then_asked_by_one() {
        let (limits, hub) = (limits(), Registry::docker_hub());
        let nobody = principal(PrincipalKind::Anonymous);
        for (said, least) in
            [(None, 1), (None, 2), (None, 4), (None, 8), (None, 15), (Some(0), 1), (Some(86_400), 300)]
        {
            let wait = limits.refused(&hub, AT, nobody, get(), said.map(Duration::from_secs));
            let least = Duration::from_secs(least);
            assert!(wait >= least && wait <= least.mul_f64(1.1), "{said:?} {wait:?}");
            assert_eq!(limits.wait(AT, nobody, &get()), Some(wait));
            assert_eq!(limits.wait(AT, nobody, &(Kind::Manifest, Method::HEAD)), None, "another question");
            assert_eq!(limits.wait(AT, principal(PrincipalKind::Node), &get()), None, "somebody else");
            assert!(limits.is_low(&hub, nobody));
            tokio::time::advance(wait).await;
            assert_eq!(limits.wait(AT, nobody, &get()), None, "one finds out");
            assert_eq!(limits.wait(AT, nobody, &get()), Some(TRIAL), "and the others wait for it");
        }
        limits.answered(AT, nobody, &get());
        assert_eq!(limits.wait(AT, nobody, &get()), None);
        assert!(!limits.is_low(&hub, nobody));
        let wait = limits.refused(&hub, AT, nobody, get(), None);
        assert!(wait < 2 * PAUSE, "it begins anew: {wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn ever_new_accounts_do_not_grow_it() {
        let limits = limits();
        for n in 0..3 * ACCOUNTS_MAX as u64 {
            let mut fingerprint = [0; 16];
            fingerprint[..8].copy_from_slice(&n.to_be_bytes());
            let who = Principal::new(PrincipalKind::Caller, fingerprint);
            limits.refused(&Registry::docker_hub(), AT, who, get(), None);
        }
        assert!(limits.lock().len() <= ACCOUNTS_MAX);
    }
}
