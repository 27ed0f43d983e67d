//! How many blobs the index has counted, and their bytes. Eviction decides by these numbers; the gauges mirror them.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::metrics::{Metrics, gauge_value};

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

    /// Counts everything anew.
    pub(crate) fn recount(&self, totals: Totals) {
        self.update(|current| *current = totals);
    }

    /// A blob of `before` bytes became one of `after` bytes; `None` is no blob.
    pub(crate) fn replace(&self, before: Option<u64>, after: Option<u64>) {
        self.update(|current| {
            let blobs = current.blobs + u64::from(after.is_some());
            let bytes = current.bytes.saturating_add(after.unwrap_or(0));
            current.blobs = blobs.saturating_sub(u64::from(before.is_some()));
            current.bytes = bytes.saturating_sub(before.unwrap_or(0));
        });
    }

    fn update(&self, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.totals.lock();
        change(&mut totals);
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
        totals.recount(Totals { blobs: 2, bytes: 30 });
        for (before, after, expected) in [
            (None, Some(5), (3, 35)),
            (Some(5), Some(7), (3, 37)),
            (Some(7), None, (2, 30)),
            (None, None, (2, 30)),
        ] {
            totals.replace(before, after);
            let Totals { blobs, bytes } = totals.current();
            assert_eq!((blobs, bytes), expected);
            assert_eq!((metrics.blobs.get(), metrics.bytes.get()), (expected.0 as i64, expected.1 as i64));
        }
    }
}
