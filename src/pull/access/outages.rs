//! Which registries cannot be asked, and since when.
//!
//! Promises: the start of an outage outlives a restart, so that `outage_grace` and `stale_if_error` are counted from
//! it; a registry that answered once since the start of the daemon has no older outage. Shown as away is only what the
//! operator named or what answered before, and only while it is asked: what a client mistyped is no outage.
//! Bounded: what is forgotten is read again from the store.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pull::config::Config;
use crate::reference::Registry;
use crate::store::{HANGS_AFTER, Records};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Moment, Timestamp};
use crate::support::live::Live;

/// Registries remembered at most.
const REGISTRIES_MAX: usize = 8_192;
/// How long a registry is shown as away after a request to it failed last: kubelet asks for an image again every five
/// minutes at the latest.
const SHOWN_FOR: Duration = Duration::from_secs(3_600);

/// What is known of a registry.
#[derive(Debug, Clone, Copy)]
struct Known {
    state: State,
    write: Write,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Answers,
    Out(Outage),
}

#[derive(Debug, Clone, Copy)]
struct Outage {
    since: Timestamp,
    /// When a request failed last.
    last: Moment,
    /// Whether the registry ever answered, as far as this process and the store know.
    has_answered: bool,
}

/// What the store knows of the state: an end that the disk did not take is found by the next start as an outage, and a
/// start that it did not take begins with the next start anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    /// The disk did not take it.
    Failed,
    /// One task writes it, whatever it is by then: what is written last is what holds.
    UnderWay,
    Done,
}

impl State {
    /// Since when the registry is away.
    fn since(&self) -> Option<Timestamp> {
        match self {
            Self::Answers => None,
            Self::Out(outage) => Some(outage.since),
        }
    }
}

/// The registries that were asked since the start of the daemon. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outages {
    records: Records,
    config: Live<Config>,
    known: Arc<Mutex<BoundedMap<Registry, Known>>>,
}

impl Outages {
    pub(crate) fn new(records: Records, config: Live<Config>) -> Self {
        Self { records, config, known: Arc::new(Mutex::new(BoundedMap::new(REGISTRIES_MAX))) }
    }

    /// Records that `registry` cannot be asked; returns how long that has lasted, restarts included.
    pub(crate) async fn record(&self, registry: &Registry) -> Duration {
        let now = self.records.clock().now();
        let last = Moment::recorded(now);
        let is_known = {
            let mut known = self.known.lock();
            if let Some(Known { state: State::Out(outage), write: Write::UnderWay | Write::Done }) =
                known.get(registry)
            {
                outage.last = last;
                return outage.since.age_at(now);
            }
            known.peek(registry).is_some()
        };
        let mut begun = Outage { since: now, last, has_answered: true };
        if !is_known {
            // It was not asked since the start of the daemon: the outage may be older than that.
            let since = self.records.outage(registry).await.filter(|since| *since <= now);
            begun.since = since.unwrap_or(now);
            begun.has_answered = self.records.has_delivered(registry).await;
        }
        // While the disk was asked, another question may have begun the outage, or been answered.
        let outage = |before: Option<State>| match before {
            Some(State::Out(outage)) => Outage { last, ..outage },
            Some(State::Answers) => Outage { since: now, last, has_answered: true },
            None => begun,
        };
        let state = self.set(registry, |before| State::Out(outage(before))).await;
        state.since().unwrap_or(now).age_at(now)
    }

    /// Records that `registry` answered.
    pub(crate) async fn end(&self, registry: &Registry) {
        if let Some(Known { state: State::Answers, write: Write::UnderWay | Write::Done }) =
            self.known.lock().get(registry)
        {
            return;
        }
        self.set(registry, |_| State::Answers).await;
    }

    /// Records the state that follows, and has it written, unless that is under way; returns it. A task writes, so that
    /// no client that leaves ends a write half-way. What takes longer than a disk that works goes on without the
    /// caller.
    async fn set(&self, registry: &Registry, next: impl FnOnce(Option<State>) -> State) -> State {
        let (before, state) = {
            let mut known = self.known.lock();
            let before = known.get(registry).copied();
            let state = next(before.map(|known| known.state));
            known.insert(registry.clone(), Known { state, write: Write::UnderWay });
            (before, state)
        };
        if before.is_some_and(|known| known.write == Write::UnderWay) {
            return state;
        }
        let (this, registry) = (self.clone(), registry.clone());
        let writing = tokio::spawn(async move { while !this.write(&registry).await {} });
        let _ = tokio::time::timeout(HANGS_AFTER, writing).await;
        state
    }

    /// Writes the state of a registry; returns whether that is still its state.
    async fn write(&self, registry: &Registry) -> bool {
        let Some(since) = self.known.lock().peek(registry).map(|known| known.state.since()) else {
            return true;
        };
        let result = self.records.set_outage(registry, since).await;
        if let Err(error) = &result {
            tracing::debug!(%registry, %error, "the start or the end of an outage could not be written to the store");
        }
        let mut known = self.known.lock();
        match known.get(registry) {
            Some(known) if known.state.since() == since => {
                known.write = if result.is_ok() { Write::Done } else { Write::Failed };
                true
            }
            known => known.is_none(),
        }
    }

    /// The registries that are shown as away, and since when.
    pub(crate) fn list(&self) -> Vec<(Registry, Timestamp)> {
        let (config, now) = (self.config.current(), self.records.clock().now());
        let out = |(registry, known): (&Registry, &Known)| match known.state {
            State::Out(outage)
                if (outage.has_answered || is_named(&config, registry))
                    && outage.last.age_at(now) < SHOWN_FOR =>
            {
                Some((registry.clone(), outage.since))
            }
            State::Out(_) | State::Answers => None,
        };
        let mut all: Vec<_> = self.known.lock().iter().filter_map(out).collect();
        all.sort();
        all
    }

    /// Whether the operator named `registry`, or it answered since the start or before the outage that it is in.
    pub(crate) fn is_known(&self, registry: &Registry) -> bool {
        is_named(&self.config.current(), registry)
            || match self.known.lock().peek(registry).map(|known| known.state) {
                Some(State::Answers) => true,
                Some(State::Out(outage)) => outage.has_answered,
                None => false,
            }
    }
}

/// Docker Hub is what a name without a registry means, and needs no section.
fn is_named(config: &Config, registry: &Registry) -> bool {
    config.is_named(registry) || *registry == Registry::docker_hub()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests;

    fn outages(store: &crate::store::Store) -> Outages {
        Outages::new(store.records().clone(), Live::new(Config::default()))
    }

    #[tokio::test]
    async fn an_outage_is_counted_from_its_start_and_ends_with_the_first_answer() {
        let (store, clock, _directory) = for_tests::store();
        let first = outages(&store);
        let registry: Registry = "reg.test".parse().unwrap();
        for_tests::remember_blob(&store, "reg.test/app", b"x").await;

        assert_eq!(first.record(&registry).await, Duration::ZERO);
        clock.advance(Duration::from_secs(60));
        assert_eq!(first.record(&registry).await, Duration::from_secs(60));
        assert_eq!(first.list().len(), 1);
        let restarted = outages(&store);
        assert_eq!(restarted.record(&registry).await, Duration::from_secs(60), "forgotten by a restart");
        restarted.end(&registry).await;
        clock.advance(Duration::from_secs(60));
        assert_eq!(restarted.record(&registry).await, Duration::ZERO);
    }

    #[tokio::test]
    async fn an_end_that_the_disk_did_not_take_is_written_with_the_next_answer() {
        let (store, clock, directory) = for_tests::store();
        let registry: Registry = "reg.test".parse().unwrap();
        for_tests::remember_blob(&store, "reg.test/app", b"x").await;
        let first = outages(&store);
        first.record(&registry).await;
        // A file that cannot be removed.
        let file = directory.path().join("store/refs/reg.test/_outage");
        let content = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        first.end(&registry).await;
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, content).unwrap();
        first.end(&registry).await;
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(outages(&store).record(&registry).await, Duration::ZERO, "the outage of then goes on");
    }

    #[tokio::test]
    async fn a_start_that_the_disk_did_not_take_is_written_with_the_next_failure() {
        let (store, clock, directory) = for_tests::store();
        let registry: Registry = "reg.test".parse().unwrap();
        for_tests::remember_blob(&store, "reg.test/app", b"x").await;
        let first = outages(&store);
        // Where everything is written first.
        let ingest = directory.path().join("store/ingest");
        std::fs::remove_dir_all(&ingest).unwrap();
        std::fs::write(&ingest, "in the way").unwrap();
        first.record(&registry).await;
        std::fs::remove_file(&ingest).unwrap();
        std::fs::create_dir(&ingest).unwrap();
        clock.advance(Duration::from_secs(60));
        assert_eq!(first.record(&registry).await, Duration::from_secs(60));
        clock.advance(Duration::from_secs(60));
        assert_eq!(
            outages(&store).record(&registry).await,
            Duration::from_secs(120),
            "forgotten by a restart"
        );
    }

    #[tokio::test]
    async fn an_outage_that_ends_while_its_start_is_written_does_not_go_on_after_a_restart() {
        for _ in 0..20 {
            let (store, clock, _directory) = for_tests::store();
            let registry: Registry = "reg.test".parse().unwrap();
            for_tests::remember_blob(&store, "reg.test/app", b"x").await;
            let (first, of) = (outages(&store), registry.clone());
            first.end(&registry).await;
            let recording = first.clone();
            let recorded = tokio::spawn(async move { recording.record(&of).await });
            // The write is under way then.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(first.list().len(), 1);
            first.end(&registry).await;
            recorded.await.unwrap();
            clock.advance(Duration::from_secs(3_600));
            assert_eq!(outages(&store).record(&registry).await, Duration::ZERO);
        }
    }

    #[tokio::test]
    async fn a_registry_that_a_client_mistyped_is_never_away() {
        let (store, clock, _directory) = for_tests::store();
        let named: Registry = "named.test".parse().unwrap();
        let config = Config { named: [named.clone()].into(), ..Config::default() };
        let outages = Outages::new(store.records().clone(), Live::new(config));
        let [mistyped, answered] = ["mistyped.test", "answered.test"].map(|name| name.parse().unwrap());
        outages.end(&answered).await;
        for registry in [&mistyped, &answered, &named, &Registry::docker_hub()] {
            outages.record(registry).await;
        }
        let away =
            || outages.list().into_iter().map(|(registry, _)| registry.to_string()).collect::<Vec<_>>();
        assert_eq!(away(), ["answered.test", "docker.io", "named.test"]);
        assert!(!outages.is_known(&mistyped) && outages.is_known(&answered) && outages.is_known(&named));
        // An entry that is not asked about any more ends by itself; the outage does not.
        clock.advance(SHOWN_FOR);
        assert_eq!(outages.record(&answered).await, SHOWN_FOR);
        assert_eq!(away(), ["answered.test"]);
    }
}
