//! What is counted of connections.

use super::sendfile::FileTransfer;
use crate::support::metrics::{IntCounterVec, IntGauge, MetricsError, Registry};

/// The metrics of all listeners. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    connections: IntGauge,
    turned_away: IntCounterVec,
    sendfile_enabled: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            connections: registry.gauge("connections", "Client connections open.")?,
            turned_away: registry.counters(
                "connections_turned_away_total",
                "Client connections that were not served, by reason.",
                &["reason"],
            )?,
            sendfile_enabled: registry.gauge(
                "sendfile_enabled",
                "Whether the kernel sends bytes of files (1), or they are copied through memory (0).",
            )?,
        })
    }

    pub(super) fn count_turned_away(&self, reason: &str) {
        self.turned_away.with_label_values(&[reason]).inc();
    }

    /// Shows how bytes of files are sent.
    pub(super) fn show(&self, transfer: FileTransfer) {
        self.sendfile_enabled.set(i64::from(transfer == FileTransfer::Sendfile));
    }

    /// Counts an open connection, until the result is dropped.
    pub(super) fn open(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }
}

/// A connection in the gauge.
pub(super) struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
