//! Registries that deliver a blob sooner than they confirm it: they are asked for the blob itself for a while.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::Registry;
use crate::support::bounded_map::BoundedMap;

/// How long a registry that delivers, and took longer than that to confirm, is not asked to.
const SLOW_FOR: Duration = Duration::from_secs(600);
/// Answers in a row that took too long: one alone may be a token's, or a moment's.
const SLOW_AFTER: u32 = 2;
/// Such registries that are remembered at most.
const SLOW_MAX: usize = 1_024;

/// The registries that take too long to confirm what they deliver. Cheap to clone.
#[derive(Clone)]
pub(super) struct SlowRegistries(Arc<Mutex<BoundedMap<Registry, Slow>>>);

/// Answers that took too long.
#[derive(Clone, Copy)]
struct Slow {
    last: Instant,
    in_a_row: u32,
}

impl Default for SlowRegistries {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(BoundedMap::new(SLOW_MAX))))
    }
}

impl SlowRegistries {
    /// It took too long, and delivered.
    pub(super) fn record(&self, registry: &Registry) {
        let mut all = self.0.lock();
        let before = all.remove(registry).filter(|slow| slow.last.elapsed() < SLOW_FOR);
        let in_a_row = before.map_or(0, |slow| slow.in_a_row) + 1;
        all.insert(registry.clone(), Slow { last: Instant::now(), in_a_row });
    }

    /// It answered in time.
    pub(super) fn forget(&self, registry: &Registry) {
        self.0.lock().remove(registry);
    }

    /// Whether it is not asked now.
    pub(super) fn has(&self, registry: &Registry) -> bool {
        let is_slow = |slow: &Slow| slow.in_a_row >= SLOW_AFTER && slow.last.elapsed() < SLOW_FOR;
        self.0.lock().peek(registry).is_some_and(is_slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_slow_answer_takes_the_tier_from_no_registry() {
        let (slow, registry) = (SlowRegistries::default(), "reg.test".parse::<Registry>().unwrap());
        slow.record(&registry);
        assert!(!slow.has(&registry));
        slow.forget(&registry);
        slow.record(&registry);
        assert!(!slow.has(&registry), "it answered in between");
        slow.record(&registry);
        assert!(slow.has(&registry));
        tokio::time::advance(SLOW_FOR).await;
        assert!(!slow.has(&registry));
        slow.record(&registry);
        assert!(!slow.has(&registry), "long after");
    }
}
