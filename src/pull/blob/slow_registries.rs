//! Registries that deliver a blob sooner than they confirm it: they are asked for the blob itself for a while.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::Registry;
use crate::support::bounded_map::BoundedMap;

/// How long a registry that delivers, and took longer than that to confirm, is not asked to.
const SLOW_FOR: Duration = Duration::from_secs(3_600);
/// Such registries that are remembered at most.
const SLOW_MAX: usize = 1_024;

/// The registries that take too long to confirm what they deliver. Cheap to clone.
#[derive(Clone)]
pub(super) struct SlowRegistries(Arc<Mutex<BoundedMap<Registry, Instant>>>);

impl Default for SlowRegistries {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(BoundedMap::new(SLOW_MAX))))
    }
}

impl SlowRegistries {
    pub(super) fn record(&self, registry: &Registry) {
        self.0.lock().insert(registry.clone(), Instant::now());
    }

    pub(super) fn has(&self, registry: &Registry) -> bool {
        self.0.lock().peek(registry).is_some_and(|at| at.elapsed() < SLOW_FOR)
    }
}
