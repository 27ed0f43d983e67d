//! What is counted of downloads.

use crate::metrics::{IntCounterVec, IntGauge, MetricsError, Registry};

/// The metrics of `pull`.
pub struct Metrics {
    /// Blob downloads under way.
    pub(super) flights: IntGauge,
    /// Blob downloads that ended, by how.
    pub(super) fills: IntCounterVec,
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
        })
    }
}
