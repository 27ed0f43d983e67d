//! What is counted of connections.

use super::sendfile::FileTransfer;
use crate::support::metric_labels::{CountersBy, label_values};
use crate::support::metrics::{IntGauge, MetricsError, Registry};

label_values! {
    /// Why a connection was not served.
    pub(super) enum TurnedAway: "reason" {
        TooMany => "too_many",
        /// A TLS hello on the plain port.
        Tls => "tls",
        NotLoopback => "not_loopback",
        /// Its user is none of those that are admitted.
        User => "user",
    }
}

/// The metrics of all listeners. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    connections: IntGauge,
    turned_away: CountersBy<TurnedAway>,
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
            turned_away: registry.counters_by(
                "connections_turned_away_total",
                "Client connections that were not served, by reason.",
            )?,
            sendfile_enabled: registry.gauge(
                "sendfile_enabled",
                "Whether the kernel sends bytes of files (1), or they are copied through memory (0).",
            )?,
        })
    }

    pub(super) fn count_turned_away(&self, reason: TurnedAway) {
        self.turned_away.count(reason);
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
