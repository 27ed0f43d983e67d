//! The metrics of `pull`: downloads, rights. They mirror state and are read by nothing but `/metrics`.

use crate::reference::Principal;
use crate::support::metrics::{IntCounter, IntCounterVec, IntGauge, MetricsError, Registry};

/// The metrics of `pull`.
pub struct Metrics {
    /// Blob downloads under way; mirrors [`super::blob::flight::Flights`].
    pub(super) flights: IntGauge,
    /// Blob downloads that ended, by result.
    pub(super) fills: IntCounterVec,
    /// Body bytes that were served without being stored, by reason.
    pub(super) passthrough: IntCounterVec,
    /// Answers from damaged blobs that went on with bytes from upstream.
    pub(super) repairs: IntCounter,
    /// Segments of large blobs that were asked for on a connection beside the first.
    pub(super) segments: IntCounter,
    /// Rights proved, ended and held, by principal.
    rights: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// A name that is registered already.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            flights: registry.gauge("flights", "Blob downloads under way.")?,
            fills: registry.counters(
                "fills_total",
                "Blob downloads that ended: complete, or the reason why not.",
                &["result"],
            )?,
            passthrough: registry.counters(
                "passthrough_bytes_total",
                "Body bytes of blobs served without being stored, by reason.",
                &["reason"],
            )?,
            repairs: registry.counter(
                "read_repairs_total",
                "Answers from a damaged blob that went on with bytes from upstream.",
            )?,
            segments: registry.counter(
                "fill_segments_total",
                "Segments of large blobs asked for on a connection beside the first, because that was slow.",
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
