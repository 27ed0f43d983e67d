//! Which registries cannot be asked, and since when.
//!
//! Promises: the start of an outage outlives a restart, so that `outage_grace` and `stale_if_error` are counted from
//! it; a registry that answered once since the start of the daemon has no older outage. Bounded: what is forgotten is
//! read again from the store.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pull::metrics::Metrics;
use crate::reference::Registry;
use crate::store::Records;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;
use crate::support::metrics::RegistryLabels;

/// Registries remembered at most.
const REGISTRIES_MAX: usize = 8_192;

/// What is known of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Answers,
    OutSince(Timestamp),
}

/// The registries that were asked since the start of the daemon.
pub(crate) struct Outages {
    records: Records,
    states: Mutex<BoundedMap<Registry, State>>,
    metrics: Arc<Metrics>,
    labels: Arc<RegistryLabels>,
}

impl Outages {
    pub(crate) fn new(records: Records, metrics: Arc<Metrics>, labels: Arc<RegistryLabels>) -> Self {
        Self { records, states: Mutex::new(BoundedMap::new(REGISTRIES_MAX)), metrics, labels }
    }

    /// Records that `registry` cannot be asked; returns how long that has lasted, restarts included.
    pub(crate) async fn record(&self, registry: &Registry) -> Duration {
        let now = self.records.clock().now();
        let known = self.states.lock().get(registry).copied();
        let since = match known {
            Some(State::OutSince(since)) => return since.age_at(now),
            Some(State::Answers) => now,
            // It was not asked since the start of the daemon: the outage may be older than that.
            None => self.records.outage(registry).await.filter(|since| *since <= now).unwrap_or(now),
        };
        self.states.lock().insert(registry.clone(), State::OutSince(since));
        if let Err(error) = self.records.set_outage(registry, Some(since)).await {
            tracing::debug!(%registry, %error, "the start of an outage could not be written to the store");
        }
        self.show(registry, i64::try_from(since.0).unwrap_or(i64::MAX));
        since.age_at(now)
    }

    /// Records that `registry` answered.
    pub(crate) async fn end(&self, registry: &Registry) {
        {
            let mut states = self.states.lock();
            if states.get(registry) == Some(&mut State::Answers) {
                return;
            }
            states.insert(registry.clone(), State::Answers);
        }
        self.show(registry, 0);
        if let Err(error) = self.records.set_outage(registry, None).await {
            tracing::debug!(%registry, %error, "the end of an outage could not be written to the store");
        }
    }

    /// The registries in outage, and since when.
    pub(crate) fn list(&self) -> Vec<(Registry, Timestamp)> {
        let out = |(registry, state): (&Registry, &State)| match state {
            State::OutSince(since) => Some((registry.clone(), *since)),
            State::Answers => None,
        };
        let mut all: Vec<_> = self.states.lock().iter().filter_map(out).collect();
        all.sort();
        all
    }

    fn show(&self, registry: &Registry, since: i64) {
        self.labels
            .with(registry.as_str(), |label| self.metrics.outage.with_label_values(&[label]).set(since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests;

    #[tokio::test]
    async fn an_outage_is_counted_from_its_start_and_ends_with_the_first_answer() {
        let (store, clock, _directory) = for_tests::store();
        let (metrics, labels) = for_tests::metrics();
        let outages = Outages::new(store.records().clone(), Arc::clone(&metrics), Arc::clone(&labels));
        let registry: Registry = "reg.test".parse().unwrap();
        for_tests::remember_blob(&store, "reg.test/app", b"x").await;

        assert_eq!(outages.record(&registry).await, Duration::ZERO);
        clock.advance(Duration::from_secs(60));
        assert_eq!(outages.record(&registry).await, Duration::from_secs(60));
        assert_eq!(outages.list().len(), 1);
        let restarted = Outages::new(store.records().clone(), metrics, labels);
        assert_eq!(restarted.record(&registry).await, Duration::from_secs(60), "forgotten by a restart");
        restarted.end(&registry).await;
        clock.advance(Duration::from_secs(60));
        assert_eq!(restarted.record(&registry).await, Duration::ZERO);
    }
}
