//! The metrics of the shared tier. They mirror state and are read by nothing but `/metrics`.

use crate::support::metrics::{HistogramVec, IntCounter, IntCounterVec, MetricsError, Registry};

/// The metrics of the shared tier. All stay zero without one.
#[derive(Clone)]
pub struct Metrics {
    /// Looks for content, by what came of them.
    pub(super) reads: IntCounterVec,
    pub(super) read_bytes: IntCounter,
    pub(super) writes: IntCounterVec,
    pub(super) written_bytes: IntCounter,
    pub(super) seconds: HistogramVec,
    pub(super) errors: IntCounterVec,
    pub(super) bad_objects: IntCounter,
    leases: IntCounterVec,
    pub(super) wait_seconds: HistogramVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is registered already.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            reads: registry.counters(
                "tier_reads_total",
                "Looks for content in the shared tier: hit, miss, error, left_alone while the tier fails or is slower, unconfirmed where the registry does not confirm content in time, or broken_off in the middle of a body.",
                &["result"],
            )?,
            read_bytes: registry.counter("tier_read_bytes_total", "Body bytes read from the shared tier.")?,
            writes: registry.counters(
                "tier_writes_total",
                "Content for the shared tier: written, present already, aborted because the download failed, failed, or skipped because parts of others were before it for too long.",
                &["result"],
            )?,
            written_bytes: registry
                .counter("tier_written_bytes_total", "Body bytes written to the shared tier.")?,
            seconds: registry.latencies(
                "tier_request_seconds",
                "From a request to the shared tier to the head of its answer.",
                &["operation"],
            )?,
            errors: registry.counters(
                "tier_errors_total",
                "Requests to the shared tier that failed, by the kind of failure.",
                &["kind"],
            )?,
            bad_objects: registry.counter(
                "tier_bad_objects_total",
                "Objects of the shared tier that were not the content of their digest.",
            )?,
            leases: registry.counters(
                "tier_leases_total",
                "Blobs that the shared tier lacked: claimed by this node, or waited for because another one had claimed them.",
                &["result"],
            )?,
            wait_seconds: registry.latencies(
                "tier_wait_seconds",
                "Waits for a blob that another node was writing: hit, took_over from a writer that was gone, or gave_up.",
                &["result"],
            )?,
        })
    }

    pub(super) fn count_lease(&self, result: &str) {
        self.leases.with_label_values(&[result]).inc();
    }
}
