//! What is counted of upstream traffic.

use crate::support::metrics::{HistogramVec, IntCounterVec, IntGaugeVec, MetricsError, Registry};

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Manifest,
    Blob,
    List,
    Token,
    Ping,
}

impl Kind {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::List => "list",
            Self::Token => "token",
            Self::Ping => "ping",
        }
    }
}

/// The metrics of `upstream`.
pub struct Metrics {
    /// Requests sent, redirect hops and token requests included.
    pub(super) requests: IntCounterVec,
    /// From a request to the head of its answer.
    pub(super) latency: HistogramVec,
    /// Body bytes received.
    pub(super) bytes: IntCounterVec,
    /// Questions that failed for good.
    pub(super) errors: IntCounterVec,
    /// Which endpoints answer.
    pub(super) endpoint_up: IntGaugeVec,
    /// `ratelimit-limit`, as last told.
    pub(super) limit: IntGaugeVec,
    /// `ratelimit-remaining`, as last told.
    pub(super) remaining: IntGaugeVec,
    /// When a registry that answered 429 is asked again.
    pub(super) retry_at: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            requests: registry.counters(
                "upstream_requests_total",
                "Requests sent to registries, redirect targets and token servers, by what they were about and the status class answered.",
                &["registry", "kind", "status"],
            )?,
            latency: registry.latencies(
                "upstream_response_seconds",
                "Time from sending a request upstream to the head of its answer.",
                &["registry"],
            )?,
            bytes: registry.counters(
                "upstream_received_bytes_total",
                "Body bytes of manifests and blobs received from upstream.",
                &["registry"],
            )?,
            errors: registry.counters(
                "upstream_errors_total",
                "Questions to upstream that failed for good, by reason.",
                &["registry", "reason"],
            )?,
            endpoint_up: registry.gauges(
                "upstream_endpoint_up",
                "1 if the endpoint answered when it was last asked, 0 while it is in trouble.",
                &["registry", "endpoint"],
            )?,
            limit: registry.gauges(
                "upstream_ratelimit_limit",
                "Requests that a registry grants in a window, as it last told.",
                &["registry", "principal"],
            )?,
            remaining: registry.gauges(
                "upstream_ratelimit_remaining",
                "Requests left in the window, as the registry last told.",
                &["registry", "principal"],
            )?,
            retry_at: registry.gauges(
                "upstream_ratelimit_retry_timestamp_seconds",
                "When a registry that answered 429 is asked again the same way (Unix time); in the past, if it is not waited for.",
                &["registry", "principal"],
            )?,
        })
    }
}
