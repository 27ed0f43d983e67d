//! What is counted of requests.

use crate::support::metrics::{HistogramVec, IntCounterVec, MetricsError, Registry};

/// The metrics of the data plane.
pub struct Metrics {
    /// Requests answered.
    pub(super) requests: IntCounterVec,
    /// Requests that were answered with an error, or whose body ended early.
    pub(super) errors: IntCounterVec,
    /// Body bytes handed to clients.
    pub(super) bytes: IntCounterVec,
    /// From a request to the first byte of its answer's body.
    pub(super) first_byte: HistogramVec,
    /// How old what was served without upstream's word was.
    pub(super) stale_age: HistogramVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            requests: registry.counters(
                "requests_total",
                "Requests answered, by route, registry and outcome.",
                &["route", "registry", "outcome"],
            )?,
            errors: registry.counters(
                "errors_total",
                "Requests answered with an error, and bodies that ended early, by reason.",
                &["reason"],
            )?,
            bytes: registry.counters(
                "served_bytes_total",
                "Body bytes of manifests and blobs handed to clients, by where they came from.",
                &["source"],
            )?,
            first_byte: registry.latencies(
                "first_byte_seconds",
                "Time from a request to the first body byte of a successful answer.",
                &["route", "source"],
            )?,
            stale_age: registry.ages(
                "stale_age_seconds",
                "How long ago upstream had last confirmed what was served because it could not be asked.",
                &["registry"],
            )?,
        })
    }

    /// Body bytes handed to clients since the start, by where they came from.
    pub fn bytes_by_source(&self) -> std::collections::BTreeMap<String, u64> {
        crate::support::metrics::sums(&self.bytes, "source").into_iter().collect()
    }

    /// The sum of a label of the requests, for the status page.
    pub fn requests_by_outcome(&self) -> std::collections::BTreeMap<String, u64> {
        let mut sums = std::collections::BTreeMap::new();
        for (outcome, count) in crate::support::metrics::sums(&self.requests, "outcome") {
            *sums.entry(outcome).or_default() += count;
        }
        sums
    }
}
