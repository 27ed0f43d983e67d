//! How many spans were delivered and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Spans since the start. Cheap to clone; clones share the numbers.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    delivered: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    /// Spans that a collector has taken.
    pub fn delivered(&self) -> u64 {
        self.0.delivered.load(Ordering::Relaxed)
    }

    /// Spans that were not queued, or that the collector did not take.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    #[cfg(feature = "otlp")]
    pub(super) fn deliver(&self, spans: u64) {
        self.0.delivered.fetch_add(spans, Ordering::Relaxed);
    }

    #[cfg(feature = "otlp")]
    pub(super) fn drop(&self, spans: u64) {
        self.0.dropped.fetch_add(spans, Ordering::Relaxed);
    }
}
