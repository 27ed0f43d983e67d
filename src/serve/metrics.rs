//! What is shown of requests and answers. The numbers that the status page has are those of `observe`, not these.

use crate::pull::AnswerSource;
use crate::support::metric_labels::{Label, label_values};
use crate::support::metrics::{HistogramVec, IntCounter, IntCounterVec, MetricsError, Registry};

label_values! {
    /// What a request was for.
    pub(super) enum RouteLabel: "route" {
        Manifest => "manifest",
        Blob => "blob",
        Tags => "tags",
        Referrers => "referrers",
        Token => "token",
        /// `/v2/`, and requests that cannot be read.
        Other => "other",
    }
}

/// The metrics of the data plane.
pub struct Metrics {
    pub(super) requests: IntCounterVec,
    /// Requests that were answered with an error, and bodies that ended early.
    pub(super) errors: IntCounterVec,
    /// Body bytes handed to clients.
    pub(super) bytes: IntCounterVec,
    /// Those of them that upstream had to send for it.
    pub(super) from_upstream: IntCounter,
    /// Those of them that did not have to be fetched.
    pub(super) saved: IntCounter,
    /// Seconds from a request to the first byte of its answer's body.
    pub(super) first_byte: HistogramVec,
    /// Seconds since upstream confirmed what was served while upstream could not be asked.
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
                &[RouteLabel::NAME, "registry", "outcome"],
            )?,
            errors: registry.counters(
                "errors_total",
                "Requests answered with an error, and bodies that ended early, by reason.",
                &["reason"],
            )?,
            bytes: registry.counters(
                "served_bytes_total",
                "Body bytes of manifests and blobs handed to clients, by where they came from.",
                &[AnswerSource::NAME],
            )?,
            from_upstream: registry.counter(
                "served_from_upstream_bytes_total",
                "Served bytes that upstream had to send for it: each byte that was fetched counts for the first client that gets it.",
            )?,
            saved: registry.counter(
                "saved_bytes_total",
                "Served bytes that did not have to be fetched.",
            )?,
            first_byte: registry.latencies(
                "first_byte_seconds",
                "Time from a request to the first body byte of a successful answer.",
                &[RouteLabel::NAME, AnswerSource::NAME],
            )?,
            stale_age: registry.ages(
                "stale_age_seconds",
                "How long ago upstream had last confirmed what was served because it could not be asked.",
                &["registry"],
            )?,
        })
    }
}
