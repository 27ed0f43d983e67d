//! How many blobs the index has counted, and their bytes. Eviction decides by these numbers; the gauges mirror them.

use std::sync::Arc;

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
    metrics: Arc<Metrics>,
}

impl SharedTotals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { totals: Mutex::default(), metrics }
    }

    pub(crate) fn current(&self) -> Totals {
        *self.totals.lock()
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
}
