//! How many blobs the index has counted, and their bytes, in all and by registry. Eviction decides by these numbers; the
//! gauges mirror them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::metrics::{Metrics, gauge_value};
use crate::store::share::OwnerId;
use crate::support::sync::Mutex;

/// What the blobs occupy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Committed blobs.
    pub blobs: u64,
    /// Bytes of all committed blobs.
    pub bytes: u64,
}

/// The totals that the thread of the index counts and others read.
#[derive(Debug)]
pub(crate) struct SharedTotals {
    totals: Mutex<Totals>,
    /// Bytes by the registry that they were received from: an entry for each registry that has blobs.
    by_owner: Mutex<HashMap<OwnerId, u64>>,
    metrics: Arc<Metrics>,
}

impl SharedTotals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { totals: Mutex::default(), by_owner: Mutex::default(), metrics }
    }

    pub(crate) fn current(&self) -> Totals {
        *self.totals.lock()
    }

    /// Bytes of the blobs of one registry.
    pub(crate) fn of(&self, owner: OwnerId) -> u64 {
        self.by_owner.lock().get(&owner).copied().unwrap_or(0)
    }

    /// A registry has a blob more.
    pub(crate) fn add(&self, owner: OwnerId, bytes: u64) {
        *self.by_owner.lock().entry(owner).or_default() += bytes;
    }

    /// A registry has a blob less.
    pub(crate) fn subtract(&self, owner: OwnerId, bytes: u64) {
        let mut by_owner = self.by_owner.lock();
        if let Some(held) = by_owner.get_mut(&owner) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                by_owner.remove(&owner);
            }
        }
    }

    /// What the blobs occupy from now on.
    pub(crate) fn set(&self, totals: Totals) {
        let mut current = self.totals.lock();
        *current = totals;
        self.metrics.blobs.set(gauge_value(totals.blobs));
        self.metrics.bytes.set(gauge_value(totals.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::metrics::Registry;

    #[test]
    fn the_gauges_mirror_the_totals() {
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let totals = SharedTotals::new(Arc::clone(&metrics));
        totals.set(Totals { blobs: 2, bytes: 30 });
        assert_eq!(totals.current(), Totals { blobs: 2, bytes: 30 });
        assert_eq!((metrics.blobs.get(), metrics.bytes.get()), (2, 30));
    }

    #[test]
    fn each_registry_has_the_bytes_of_its_own_blobs() {
        let totals = SharedTotals::new(Arc::new(Metrics::register(&Registry::new()).unwrap()));
        let (ours, theirs) = (OwnerId(1), OwnerId(2));
        totals.add(ours, 10);
        totals.add(theirs, 20);
        totals.add(ours, 5);
        totals.subtract(theirs, 20);
        totals.subtract(ours, 10);
        assert_eq!((totals.of(ours), totals.of(theirs)), (5, 0));
        assert_eq!(totals.by_owner.lock().len(), 1, "one without blobs takes no memory");
    }
}
