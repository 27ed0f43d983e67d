//! What is counted of downloads and rights.

use crate::reference::Principal;
use crate::support::metrics::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, MetricsError, Registry};

/// The metrics of `pull`.
pub struct Metrics {
    /// Blob downloads under way.
    pub(super) flights: IntGauge,
    /// Blob downloads that ended, by how.
    pub(super) fills: IntCounterVec,
    /// Body bytes that were handed out without being stored.
    pub(super) passed_through: IntCounterVec,
    /// Readers of damaged blobs whose answers went on from upstream.
    pub(super) repairs: IntCounter,
    /// Parts of large blobs that were asked for on a connection beside the first.
    pub(super) parts: IntCounter,
    /// Since when registries cannot be asked.
    pub(super) outage: IntGaugeVec,
    /// What became of rights.
    rights: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            flights: registry.gauge("flights", "Blob downloads under way.")?,
            fills: registry.counters(
                "fills_total",
                "Blob downloads that ended: landed, or the reason why not.",
                &["result"],
            )?,
            passed_through: registry.counters(
                "passed_through_bytes_total",
                "Body bytes of blobs handed out without being stored, by why.",
                &["reason"],
            )?,
            repairs: registry.counter(
                "read_repairs_total",
                "Answers from a damaged blob that went on with bytes from upstream.",
            )?,
            parts: registry.counter(
                "fill_parts_total",
                "Parts of large blobs asked for on a connection beside the first, because that was slow.",
            )?,
            outage: registry.gauges(
                "upstream_outage_start_timestamp_seconds",
                "Since when a registry cannot be asked (Unix time); 0 while it can.",
                &["registry"],
            )?,
            rights: registry.counters(
                "rights_total",
                "Rights to repositories: proved by upstream, ended by it, or held while it could not be asked.",
                &["principal", "event"],
            )?,
        })
    }

    pub(super) fn count_right(&self, principal: Principal, event: &str) {
        self.rights.with_label_values(&[principal.kind.label(), event]).inc();
    }
}
