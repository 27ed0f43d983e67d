//! How many blobs the index has counted, and their bytes, in all and by registry. Eviction decides by these numbers;
//! the gauges mirror them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::store::budget::share::OwnerId;
use crate::store::metrics::{Metrics, gauge_value};
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
    by_owner: Mutex<ByOwner>,
    metrics: Arc<Metrics>,
}

/// Limited registries that are remembered before those without blobs are forgotten for the first time.
const LIMITED_MIN: usize = 1_024;

/// The blobs by the registry that they were received from.
#[derive(Debug)]
struct ByOwner {
    /// An entry for each registry that has any.
    held: HashMap<OwnerId, Totals>,
    /// Limited registries that have asked for space since the start, unless they are not limited any more. Those
    /// without blobs are forgotten when there are as many as `limited_max`, twice as many as were left at the last
    /// time.
    limited: HashSet<OwnerId>,
    limited_max: usize,
    /// Bytes of all of these.
    limited_bytes: u64,
}

impl Default for ByOwner {
    fn default() -> Self {
        let (held, limited) = (HashMap::new(), HashSet::new());
        Self { held, limited, limited_max: LIMITED_MIN, limited_bytes: 0 }
    }
}

impl ByOwner {
    fn of(&self, owner: OwnerId) -> Totals {
        self.held.get(&owner).copied().unwrap_or_default()
    }

    fn limit(&mut self, owner: OwnerId) {
        if self.limited.contains(&owner) {
            return;
        }
        if self.limited.len() >= self.limited_max {
            let held = &self.held;
            self.limited.retain(|owner| held.contains_key(owner));
            self.limited_max = 2 * self.limited.len().max(LIMITED_MIN);
        }
        self.limited.insert(owner);
        self.limited_bytes = self.limited_bytes.saturating_add(self.of(owner).bytes);
    }

    fn lift_limit(&mut self, owner: OwnerId) {
        if self.limited.remove(&owner) {
            self.limited_bytes = self.limited_bytes.saturating_sub(self.of(owner).bytes);
        }
    }
}

impl SharedTotals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { totals: Mutex::default(), by_owner: Mutex::default(), metrics }
    }

    pub(crate) fn current(&self) -> Totals {
        *self.totals.lock()
    }

    /// The blobs of one registry.
    pub(crate) fn of(&self, owner: OwnerId) -> Totals {
        self.by_owner.lock().of(owner)
    }

    /// Bytes of the blobs of all limited registries, of which `owner` is one.
    pub(crate) fn limited_bytes(&self, owner: OwnerId) -> u64 {
        let mut by_owner = self.by_owner.lock();
        by_owner.limit(owner);
        by_owner.limited_bytes
    }

    /// The operator named a registry, which may not have been so before: its blobs do not count among those of limited
    /// ones.
    pub(crate) fn lift_limit(&self, owner: OwnerId) {
        self.by_owner.lock().lift_limit(owner);
    }

    /// A registry has a blob more.
    pub(crate) fn add(&self, owner: OwnerId, bytes: u64) {
        let mut by_owner = self.by_owner.lock();
        let held = by_owner.held.entry(owner).or_default();
        held.blobs += 1;
        held.bytes = held.bytes.saturating_add(bytes);
        if by_owner.limited.contains(&owner) {
            by_owner.limited_bytes = by_owner.limited_bytes.saturating_add(bytes);
        }
    }

    /// A registry has a blob less.
    pub(crate) fn subtract(&self, owner: OwnerId, bytes: u64) {
        let mut by_owner = self.by_owner.lock();
        if by_owner.limited.contains(&owner) {
            by_owner.limited_bytes = by_owner.limited_bytes.saturating_sub(bytes);
        }
        if let Some(held) = by_owner.held.get_mut(&owner) {
            held.blobs = held.blobs.saturating_sub(1);
            held.bytes = held.bytes.saturating_sub(bytes);
            if held.blobs == 0 {
                by_owner.held.remove(&owner);
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
        assert_eq!((totals.of(ours), totals.of(theirs)), (Totals { blobs: 1, bytes: 5 }, Totals::default()));
        assert_eq!(totals.by_owner.lock().held.len(), 1, "one without blobs takes no memory");
    }

    #[test]
    fn what_all_limited_registries_hold_is_counted_from_when_the_first_of_them_asks_on() {
        let totals = SharedTotals::new(Arc::new(Metrics::register(&Registry::new()).unwrap()));
        let (ours, first, second) = (OwnerId(1), OwnerId(2), OwnerId(3));
        totals.add(ours, 100);
        totals.add(first, 20);
        assert_eq!(totals.limited_bytes(first), 20);
        totals.add(first, 1);
        totals.add(second, 7);
        assert_eq!((totals.limited_bytes(first), totals.limited_bytes(second)), (21, 28));
        totals.subtract(first, 20);
        totals.subtract(ours, 100);
        assert_eq!(totals.limited_bytes(second), 8);
        for n in 0..3 * LIMITED_MIN as u64 {
            totals.limited_bytes(OwnerId(1_000 + n));
        }
        let by_owner = totals.by_owner.lock();
        assert!(by_owner.limited.len() <= 2 * LIMITED_MIN && by_owner.limited.contains(&first));
        assert_eq!(by_owner.limited_bytes, 8);
    }

    #[test]
    fn what_a_registry_holds_that_is_named_by_now_is_not_counted_among_the_unnamed_ones() {
        let totals = SharedTotals::new(Arc::new(Metrics::register(&Registry::new()).unwrap()));
        let (named, other) = (OwnerId(1), OwnerId(2));
        totals.add(named, 100);
        totals.add(other, 20);
        assert_eq!((totals.limited_bytes(named), totals.limited_bytes(other)), (100, 120));
        for _ in 0..2 {
            totals.lift_limit(named);
            assert_eq!(totals.limited_bytes(other), 20);
        }
        totals.add(named, 5);
        totals.subtract(named, 100);
        assert_eq!(totals.limited_bytes(other), 20);
        assert_eq!(totals.limited_bytes(named), 25, "its name was taken away again");
    }
}
