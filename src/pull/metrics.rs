//! What is counted of downloads and rights.

use crate::metrics::{IntCounterVec, IntGauge, MetricsError, Registry};
use crate::reference::Principal;

/// The metrics of `pull`.
pub struct Metrics {
    /// Blob downloads under way.
    pub(super) flights: IntGauge,
    /// Blob downloads that ended, by how.
    pub(super) fills: IntCounterVec,
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
