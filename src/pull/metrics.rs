//! The metrics of `pull`: downloads, rights. They mirror state and are read by nothing but `/metrics`.

use crate::reference::{Principal, PrincipalKind};
use crate::support::metric_labels::{CountersBy, Label, label_values};
use crate::support::metrics::{IntCounter, IntCounterVec, IntGauge, MetricsError, Registry};

label_values! {
    /// Why a body's bytes of a blob came to a client past the store.
    pub(super) enum PassedBytes: "reason" {
        /// Not stored, or not given back: the disk did not take it or failed, there was no room or no place for another
        /// download, or a large blob was passed by.
        NotStored => "disk",
        /// A range far ahead of a download.
        OutOfOrder => "out_of_order",
        /// The download that it followed had failed for the caller that led it.
        LeaderFailed => "leader_failed",
        /// A part of a blob that is neither stored nor being downloaded.
        ByteRange => "byte_range",
    }
}

label_values! {
    /// What became of a right to a repository.
    pub(super) enum RightEvent: "event" {
        /// By an answer of upstream.
        Proved => "proved",
        /// By a refusal of upstream.
        Ended => "ended",
        /// While upstream could not be asked.
        Held => "held",
    }
}

/// The metrics of `pull`.
pub struct Metrics {
    /// Blob downloads under way; mirrors [`super::blob::flight::Flights`].
    pub(super) flights: IntGauge,
    /// Blob downloads that ended, by result.
    pub(super) fills: IntCounterVec,
    /// Body bytes that were served without being stored, by reason.
    pub(super) passthrough: CountersBy<PassedBytes>,
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
            passthrough: registry.counters_by(
                "passthrough_bytes_total",
                "Body bytes of blobs served without being stored, by reason.",
            )?,
            repairs: registry.counter(
                "read_repairs_total",
                "Answers from a damaged blob that went on with bytes from upstream.",
            )?,
            segments: registry.counter(
                "fill_segments_total",
                "Segments of large blobs asked for on a connection beside the first, because that was slow.",
            )?,
            rights: Self::rights(registry)?,
        })
    }

    fn rights(registry: &Registry) -> Result<IntCounterVec, MetricsError> {
        let rights = registry.counters(
            "rights_total",
            "Rights to repositories: proved by upstream, ended by it, or held while it could not be asked.",
            &["principal", RightEvent::NAME],
        )?;
        // There from the start: an alert looks at their increase, and sees none of a first value.
        for kind in [PrincipalKind::Node, PrincipalKind::Provider] {
            rights.with_label_values(&[kind.label(), RightEvent::Ended.label()]);
        }
        Ok(rights)
    }

    pub(super) fn count_right(&self, principal: Principal, event: RightEvent) {
        self.rights.with_label_values(&[principal.kind.label(), event.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusal_of_a_nodes_login_is_an_increase_that_an_alert_sees() {
        let registry = Registry::new();
        let _metrics = Metrics::register(&registry).unwrap();
        let page = String::from_utf8(registry.render().unwrap()).unwrap();
        for principal in ["node", "provider"] {
            let sample = format!("larder_rights_total{{event=\"ended\",principal=\"{principal}\"}} 0");
            assert!(page.contains(&sample), "{page}");
        }
    }
}
