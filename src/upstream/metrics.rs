//! What is counted of upstream traffic.

use crate::metrics::{HistogramVec, IntCounterVec, MetricsError, Registry};

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        })
    }
}
