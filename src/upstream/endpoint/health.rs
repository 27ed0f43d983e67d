//! Which endpoints do not answer, so that not everybody has to find out by himself.
//!
//! An endpoint that cannot be reached or fails is left alone for a moment, longer each time, while another one of its
//! registry is asked instead; when the moment is over, one question tries it again and the others go on as before.
//! Where there is no other, an endpoint that kept us waiting is left alone too; one that failed quickly may be asked, a
//! few times a second and without repeating: a registry in trouble must not get more questions than a sound one.
//!
//! Deliberately not here: what counts as failing (`error`), and rate limits, which are no failure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::reference::Registry;
use crate::support::metrics::RegistryLabels;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{ConnectStage, Error};
use crate::upstream::metrics::Metrics;

/// The first pause; then twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest: a registry that is back is asked again within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A failure that took this long is not to be had by everybody.
const COSTLY: Duration = Duration::from_secs(1);
/// How often an only endpoint in trouble may be asked in a second.
const ASKED_MAX: u32 = 10;
/// A question that was given up after this long was given up because of the endpoint; before that, its asker may have
/// had reasons of his own.
const HUNG: Duration = Duration::from_secs(10);
/// An endpoint that nobody has asked for so long is not known to be in trouble any more.
const KEPT: Duration = Duration::from_secs(3_600);
/// Endpoints in trouble that are remembered; when there are more, it begins anew.
const ENDPOINTS_MAX: usize = 1_024;

/// The endpoints in trouble, by their `host:port` and path. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    troubles: Mutex<HashMap<String, Trouble>>,
    metrics: Arc<Metrics>,
    labels: Arc<RegistryLabels>,
}

/// An endpoint in trouble, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingEndpoint {
    /// Of which registry.
    pub registry: Registry,
    /// `host:port`.
    pub endpoint: String,
    /// How it failed last.
    pub error: Error,
    /// How often in a row.
    pub failures: u32,
    /// For how long it has been in trouble, as far as that is known.
    pub failing_for: Duration,
    /// How long ago it was last asked.
    pub last_request_ago: Duration,
}

#[derive(Debug, Clone)]
struct Trouble {
    registry: Registry,
    host: String,
    since: Instant,
    failed_at: Instant,
    failures: u32,
    until: Instant,
    tried_again: bool,
    costly: bool,
    error: Error,
    /// In the second that began then, it was asked so often.
    asked: (Instant, u32),
}

/// What to do with an endpoint.
pub(crate) enum Turn {
    /// Nothing is known against it.
    Ask,
    /// It is in trouble, and it is time to try it again: by whoever holds this, and nobody else meanwhile.
    Try(UnderWay),
    /// It is in trouble: how it failed, and whether finding that out again would take long, or was done often enough.
    Leave(Error, bool),
}

impl Health {
    pub(crate) fn new(metrics: Arc<Metrics>, labels: Arc<RegistryLabels>) -> Self {
        Self(Arc::new(Inner { troubles: Mutex::default(), metrics, labels }))
    }

    /// All that are in trouble, for an operator. Of what nobody asks any more nothing is known after a while.
    pub(crate) fn status(&self) -> Vec<FailingEndpoint> {
        let shown = |trouble: &Trouble| FailingEndpoint {
            registry: trouble.registry.clone(),
            endpoint: trouble.host.clone(),
            error: trouble.error.clone(),
            failures: trouble.failures,
            failing_for: trouble.since.elapsed(),
            last_request_ago: trouble.failed_at.elapsed(),
        };
        let mut troubles = self.lock();
        troubles.retain(|_, trouble| trouble.failed_at.elapsed() < KEPT);
        let mut all: Vec<_> = troubles.values().map(shown).collect();
        drop(troubles);
        all.sort_by(|a, b| (&a.registry, &a.endpoint).cmp(&(&b.registry, &b.endpoint)));
        all
    }

    /// `endpoint` is none of the registry's any more.
    pub(crate) fn forget(&self, registry: &Registry, endpoint: &Endpoint) {
        self.lock().remove(endpoint.name());
        // An endpoint that was never asked has no metric.
        let _ = self.0.metrics.endpoint_up.remove_label_values(&[registry.as_str(), &endpoint.host()]);
    }

    /// Whose turn it is.
    pub(crate) fn turn(&self, endpoint: &Endpoint) -> Turn {
        let mut all = self.lock();
        let Some(trouble) = all.get_mut(endpoint.name()) else { return Turn::Ask };
        if !trouble.tried_again && Instant::now() >= trouble.until {
            trouble.tried_again = true;
            return Turn::Try(self.under_way(endpoint, &trouble.registry));
        }
        let now = Instant::now();
        if now - trouble.asked.0 >= Duration::from_secs(1) {
            trouble.asked = (now, 0);
        }
        trouble.asked.1 = trouble.asked.1.saturating_add(1);
        Turn::Leave(trouble.error.clone(), trouble.costly || trouble.asked.1 > ASKED_MAX)
    }

    /// A question to `endpoint`, whose end is to be noted.
    pub(crate) fn under_way(&self, endpoint: &Endpoint, registry: &Registry) -> UnderWay {
        let (name, host, registry) = (endpoint.name().to_owned(), endpoint.host(), registry.clone());
        UnderWay { health: self.clone(), registry, name, host, begun: None, ended: false }
    }

    /// It answered, whatever it said.
    fn answered(&self, registry: &Registry, endpoint: &str, host: &str) {
        let was = self.lock().remove(endpoint);
        self.show(registry, host, true);
        if let Some(trouble) = was {
            tracing::info!(endpoint, failures = trouble.failures, "an endpoint answers again");
        }
    }

    /// It failed after so long.
    fn failed(&self, under_way: &UnderWay, error: &Error, took: Duration) {
        let UnderWay { registry, name: endpoint, host, .. } = under_way;
        self.show(registry, host, false);
        let mut all = self.lock();
        if all.len() >= ENDPOINTS_MAX && !all.contains_key(endpoint) {
            all.clear();
        }
        let before = all.get(endpoint);
        let failures = before.map_or(0, |trouble| trouble.failures).saturating_add(1);
        let since = before.map_or_else(Instant::now, |trouble| trouble.since);
        let asked = before.map_or_else(|| (Instant::now(), 0), |trouble| trouble.asked);
        if failures == 1 {
            tracing::warn!(endpoint, %error, "an endpoint is in trouble");
        }
        let now = Instant::now();
        let trouble = Trouble {
            registry: registry.clone(),
            host: host.clone(),
            since,
            failed_at: now,
            failures,
            until: now + pause(failures),
            tried_again: false,
            costly: took >= COSTLY,
            error: error.clone(),
            asked,
        };
        all.insert(endpoint.clone(), trouble);
    }

    /// Nobody waited for how it would end.
    fn given_up(&self, endpoint: &str) {
        if let Some(trouble) = self.lock().get_mut(endpoint) {
            trouble.tried_again = false;
            trouble.until = Instant::now() + pause(trouble.failures);
        }
    }

    /// Of registries that are known by name only, so that strangers' inventions do not grow the metrics.
    fn show(&self, registry: &Registry, host: &str, up: bool) {
        self.0.labels.with(registry.as_str(), |label| {
            if label == registry.as_str() {
                self.0.metrics.endpoint_up.with_label_values(&[label, host]).set(i64::from(up));
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Trouble>> {
        self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(PAUSE_MAX)
}

/// A question that is under way, or about to be; if it is dropped, somebody else's may try.
pub(crate) struct UnderWay {
    health: Health,
    registry: Registry,
    name: String,
    host: String,
    begun: Option<Instant>,
    ended: bool,
}

impl UnderWay {
    /// It is asked now.
    pub(crate) fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// How it ended. Whoever it was redirected to, and its token server, are not the endpoint.
    pub(crate) fn end<T>(mut self, said: &Result<T, Error>) {
        self.ended = true;
        match said {
            Err(error @ (Error::Unreachable { host, .. } | Error::ServerError { host, .. }))
                if *host == self.host =>
            {
                self.health.failed(&self, error, self.lasted());
            }
            // Not asked at all.
            Err(Error::Declined { .. }) => self.health.given_up(&self.name),
            _ => self.health.answered(&self.registry, &self.name, &self.host),
        }
    }

    fn lasted(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let lasted = self.lasted();
        if lasted >= HUNG {
            // Whoever was waiting has had enough: that is what an endpoint that hangs looks like from here.
            let why = format!("no answer within {lasted:.1?}");
            let error = Error::Unreachable { host: self.host.clone(), stage: ConnectStage::Timeout, why };
            self.health.failed(self, &error, lasted);
        } else {
            self.health.given_up(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        let metrics = Metrics::register(&crate::support::metrics::Registry::new()).unwrap();
        Health::new(Arc::new(metrics), Arc::default())
    }

    fn registry() -> Registry {
        "reg.test".parse().unwrap()
    }

    fn at() -> Endpoint {
        Endpoint::for_test("https://reg.test")
    }

    fn down_at(host: &str) -> Error {
        Error::Unreachable { host: host.into(), stage: ConnectStage::Connect, why: String::new() }
    }

    fn down() -> Error {
        down_at("reg.test:443")
    }

    async fn fail(health: &Health, after: Duration) {
        let mut asked = health.under_way(&at(), &registry());
        asked.begin();
        tokio::time::advance(after).await;
        asked.end(&Err::<(), _>(down()));
    }

    fn left(health: &Health) -> Option<(Error, bool)> {
        match health.turn(&at()) {
            Turn::Leave(error, costly) => Some((error, costly)),
            Turn::Ask | Turn::Try(_) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_is_left_alone_longer_each_time_and_tried_by_one() {
        let health = health();
        assert!(matches!(health.turn(&at()), Turn::Ask));
        for seconds in [1, 2, 4, 8, 8] {
            fail(&health, Duration::ZERO).await;
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert_eq!(left(&health), Some((down(), false)), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            let Turn::Try(_held) = health.turn(&at()) else { panic!("it is time") };
            assert_eq!(left(&health), Some((down(), false)), "one tries");
        }
        let said = Err::<(), _>(Error::MethodNotAllowed { host: String::new() });
        health.under_way(&at(), &registry()).end(&said);
        assert!(matches!(health.turn(&at()), Turn::Ask), "an answer is an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_never_made_or_given_up_is_somebody_elses() {
        let health = health();
        fail(&health, Duration::from_secs(15)).await;
        assert_eq!(left(&health), Some((down(), true)), "to find out took long");
        tokio::time::advance(PAUSE).await;
        let Turn::Try(never_made) = health.turn(&at()) else { panic!("it is time") };
        tokio::time::advance(2 * HUNG).await;
        drop(never_made);
        assert_eq!(left(&health), Some((down(), true)), "nothing new is known");
        tokio::time::advance(PAUSE).await;
        let Turn::Try(mut asked) = health.turn(&at()) else { panic!("it is time") };
        asked.begin();
        tokio::time::advance(Duration::from_secs(20)).await;
        drop(asked);
        let Some((error, true)) = left(&health) else { panic!("it hung") };
        assert!(error.to_string().contains("no answer within 20"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_asked_any_more_is_not_in_trouble_for_ever() {
        let health = health();
        fail(&health, Duration::ZERO).await;
        tokio::time::advance(KEPT / 2).await;
        fail(&health, Duration::ZERO).await;
        tokio::time::advance(KEPT - PAUSE).await;
        let [status] = &health.status()[..] else { panic!("an hour has not passed") };
        assert_eq!((status.last_request_ago, status.failing_for), (KEPT - PAUSE, KEPT + KEPT / 2 - PAUSE));
        tokio::time::advance(PAUSE).await;
        assert!(health.status().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_it_redirects_to_is_not_the_endpoint() {
        let health = health();
        health.under_way(&at(), &registry()).end(&Err::<(), _>(down_at("cdn.test:443")));
        assert!(matches!(health.turn(&at()), Turn::Ask));
    }
}
