//! The store's metrics. Each mirrors a state or an event of the component that owns it; none is ever read back.

use crate::support::metrics::{IntCounter, IntGauge, MetricsError, Registry};

/// The store's metrics.
pub struct Metrics {
    pub(super) blobs: IntGauge,
    pub(super) bytes: IntGauge,
    pub(super) capacity: IntGauge,
    pub(super) caching: IntGauge,
    pub(super) evicted: IntCounter,
    pub(super) evicted_bytes: IntCounter,
    pub(super) eviction_failures: IntCounter,
    pub(super) index_rebuilds: IntCounter,
    pub(super) quarantined: IntCounter,
    pub(super) quarantine_failures: IntCounter,
    pub(super) quarantine_bytes: IntGauge,
    pub(super) disk_failing: IntGauge,
    pub(super) disk_hanging: IntGauge,
    pub(super) scrubbed_bytes: IntCounter,
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
            capacity: registry.gauge(
                "store_capacity_bytes",
                "Bytes that the blobs may occupy now: the budget, or less if other files fill the filesystem.",
            )?,
            caching: registry.gauge(
                "store_caching",
                "1 while fetched content is stored; 0 after the disk failed, until content has been stored again.",
            )?,
            evicted: registry.counter("store_evicted_total", "Blobs evicted.")?,
            evicted_bytes: registry.counter("store_evicted_bytes_total", "Bytes of evicted blobs.")?,
            eviction_failures: registry.counter(
                "store_eviction_failures_total",
                "Times a blob could not be evicted because its file could not be removed.",
            )?,
            index_rebuilds: registry.counter(
                "store_index_rebuilds_total",
                "Times the index was set aside and rebuilt from the files.",
            )?,
            quarantined: registry
                .counter("store_quarantined_total", "Blobs moved to quarantine because their bytes failed a check.")?,
            quarantine_failures: registry.counter(
                "store_quarantine_failures_total",
                "Damaged blobs that could not be moved to quarantine; they are not used any more.",
            )?,
            quarantine_bytes: registry.gauge(
                "store_quarantine_bytes",
                "Bytes of damaged blobs in quarantine; they count towards the budget and are the first to go.",
            )?,
            disk_failing: registry.gauge(
                "store_disk_failing",
                "1 once one blob was damaged on disk three times: the disk does not hold what is written to it.",
            )?,
            disk_hanging: registry.gauge(
                "store_disk_hanging",
                "1 while the disk has not ended a call for 5 s: nothing is stored, and what it does not give comes from upstream.",
            )?,
            scrubbed_bytes: registry.counter(
                "store_scrubbed_bytes_total",
                "Bytes of blobs that the background scrub hashed again and found intact.",
            )?,
        })
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("store::Metrics")
    }
}

/// The value of a gauge; what does not fit into one becomes the largest.
pub(super) fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
