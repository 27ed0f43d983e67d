//! What the store counts.

use crate::support::metrics::{IntCounter, IntGauge, MetricsError, Registry};

/// The store's metrics.
pub struct Metrics {
    /// Committed blobs.
    pub blobs: IntGauge,
    /// Their bytes.
    pub bytes: IntGauge,
    /// Blobs set aside because they failed a check.
    pub quarantined: IntCounter,
    /// Bytes found intact by the background scrub.
    pub scrubbed: IntCounter,
    /// Blobs evicted.
    pub evicted: IntCounter,
    /// Their bytes.
    pub evicted_bytes: IntCounter,
    /// Whether what is fetched is stored.
    pub caching: IntGauge,
    /// Bytes that the blobs may occupy now.
    pub capacity: IntGauge,
    /// Times the index was set aside and made anew.
    pub index_rebuilds: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            blobs: registry.gauge("store_blobs", "Blobs in the store.")?,
            bytes: registry.gauge("store_bytes", "Bytes of all blobs in the store.")?,
            quarantined: registry
                .counter("store_quarantined_total", "Blobs set aside because their bytes failed a check.")?,
            scrubbed: registry.counter(
                "store_scrubbed_bytes_total",
                "Bytes of blobs that the background scrub hashed again and found intact.",
            )?,
            evicted: registry.counter("store_evicted_total", "Blobs evicted.")?,
            evicted_bytes: registry
                .counter("store_evicted_bytes_total", "Bytes of evicted blobs.")?,
            caching: registry.gauge(
                "store_caching",
                "1 while what is fetched is stored; 0 for a while after the disk failed.",
            )?,
            capacity: registry.gauge(
                "store_capacity_bytes",
                "Bytes that the blobs may occupy now: the budget, or less if other files fill the filesystem.",
            )?,
            index_rebuilds: registry.counter(
                "store_index_rebuilds_total",
                "Times the index was set aside and rebuilt from the files.",
            )?,
        })
    }

    /// A blob of `before` bytes became one of `after`; absent is absent.
    pub(super) fn replaced(&self, before: Option<u64>, after: Option<u64>) {
        self.blobs.add(i64::from(after.is_some()) - i64::from(before.is_some()));
        self.bytes.add(signed(after.unwrap_or(0)) - signed(before.unwrap_or(0)));
    }

    pub(super) fn reset(&self, blobs: usize, bytes: u64) {
        self.blobs.set(signed(blobs as u64));
        self.bytes.set(signed(bytes));
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("store::Metrics")
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
