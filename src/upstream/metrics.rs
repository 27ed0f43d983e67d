//! The metrics of upstream traffic, and the one place that writes them.

use std::sync::Arc;
use std::time::Duration;

use crate::reference::{Principal, Registry};
use crate::support::clock::Timestamp;
use crate::support::metrics::{self, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, MetricsError};
use crate::upstream::registry_labels::RegistryLabels;

/// What an HTTP request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RequestKind {
    Manifest,
    Blob,
    Tags,
    Referrers,
    Token,
    /// Finds out whether an endpoint that failed answers again.
    Probe,
}

impl RequestKind {
    fn label(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags | Self::Referrers => "list",
            Self::Token => "token",
            Self::Probe => "probe",
        }
    }
}

/// The metrics of `upstream`.
pub struct Metrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    bytes: IntCounterVec,
    errors: IntCounterVec,
    endpoint_up: IntGaugeVec,
    wrong_content: IntCounterVec,
    limit: IntGaugeVec,
    remaining: IntGaugeVec,
    retry_at: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &metrics::Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            requests: registry.counters(
                "upstream_requests_total",
                "HTTP requests sent to registries, redirect targets and token servers, by what they were about and the status class of the response.",
                &["registry", "kind", "status"],
            )?,
            latency: registry.latencies(
                "upstream_response_seconds",
                "Time from sending an HTTP request upstream to the head of its response.",
                &["registry"],
            )?,
            bytes: registry.counters(
                "upstream_received_bytes_total",
                "Body bytes of manifests and blobs received from upstream.",
                &["registry"],
            )?,
            errors: registry.counters(
                "upstream_errors_total",
                "Requests that failed at every endpoint, retries included, by reason.",
                &["registry", "reason"],
            )?,
            endpoint_up: registry.gauges(
                "upstream_endpoint_up",
                "1 if the endpoint answered the last request that was sent to it, 0 if that failed.",
                &["registry", "endpoint"],
            )?,
            wrong_content: registry.counters(
                "upstream_wrong_content_total",
                "Times that an endpoint did not deliver the content of the digest asked for, by reason.",
                &["registry", "endpoint", "reason"],
            )?,
            limit: registry.gauges(
                "upstream_ratelimit_limit",
                "Requests that a registry grants in a window, from its last response.",
                &["registry", "principal"],
            )?,
            remaining: registry.gauges(
                "upstream_ratelimit_remaining",
                "Requests left in the window, from the last response of the registry.",
                &["registry", "principal"],
            )?,
            retry_at: registry.gauges(
                "upstream_ratelimit_retry_timestamp_seconds",
                "When a request that was answered 429 is sent again (Unix time); in the past if none is held back.",
                &["registry", "principal"],
            )?,
        })
    }
}

/// Writes the metrics under the label of each registry. Cheap to clone.
#[derive(Clone)]
pub(super) struct Recorder {
    metrics: Arc<Metrics>,
    labels: Arc<RegistryLabels>,
}

impl Recorder {
    pub(super) fn new(metrics: Metrics, labels: Arc<RegistryLabels>) -> Self {
        Self { metrics: Arc::new(metrics), labels }
    }

    /// From now on `registries` have labels of their own.
    pub(super) fn label_registries<'a>(&self, registries: impl Iterator<Item = &'a Registry>) {
        self.labels.configure(registries.map(ToString::to_string));
    }

    /// `status` is that of the response, `None` where none came.
    pub(super) fn request_sent(
        &self,
        registry: &Registry,
        kind: RequestKind,
        status: Option<u16>,
        elapsed: Duration,
    ) {
        let class = match status.map(|status| status / 100) {
            None => "none",
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(5) => "5xx",
            Some(_) => "other",
        };
        self.labels.with(registry.as_str(), |label| {
            self.metrics.requests.with_label_values(&[label, kind.label(), class]).inc();
            self.metrics.latency.with_label_values(&[label]).observe(elapsed.as_secs_f64());
        });
    }

    /// Only a registry that answers gets a label of its own, so that invented names do not use the labels up.
    pub(super) fn request_succeeded(&self, registry: &Registry) {
        self.labels.admit(registry.as_str());
    }

    pub(super) fn request_failed(&self, registry: &Registry, reason: &'static str) {
        self.labels.with(registry.as_str(), |label| {
            self.metrics.errors.with_label_values(&[label, reason]).inc();
        });
    }

    /// Only for registries that have a label of their own, so that invented names do not grow the metrics.
    pub(super) fn endpoint_up(&self, registry: &Registry, endpoint: &str, up: bool) {
        self.labels.with(registry.as_str(), |label| {
            if label == registry.as_str() {
                self.metrics.endpoint_up.with_label_values(&[label, endpoint]).set(i64::from(up));
            }
        });
    }

    /// Endpoints have a label of their own only where their registry has one, so that invented names do not grow the
    /// metrics.
    pub(super) fn wrong_content(&self, registry: &Registry, endpoint: &str, reason: &'static str) {
        self.labels.with(registry.as_str(), |label| {
            let endpoint = if label == registry.as_str() { endpoint } else { label };
            self.metrics.wrong_content.with_label_values(&[label, endpoint, reason]).inc();
        });
    }

    /// The endpoint is not one of the registry's any more.
    pub(super) fn endpoint_removed(&self, registry: &Registry, endpoint: &str) {
        // An endpoint that no request was sent to has no metric.
        let _ = self.metrics.endpoint_up.remove_label_values(&[registry.as_str(), endpoint]);
    }

    /// What a response said about the rate limit of `principal`; an absent `limit` leaves the last one.
    pub(super) fn rate_limit(
        &self,
        registry: &Registry,
        principal: Principal,
        limit: Option<u64>,
        remaining: u64,
    ) {
        let value = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.labels.with(registry.as_str(), |label| {
            // A gauge that several registries share would say what the last of them said.
            if label != registry.as_str() {
                return;
            }
            let labels = [label, principal.kind.label()];
            self.metrics.remaining.with_label_values(&labels).set(value(remaining));
            if let Some(limit) = limit {
                self.metrics.limit.with_label_values(&labels).set(value(limit));
            }
        });
    }

    pub(super) fn held_back_until(&self, registry: &Registry, principal: Principal, until: Timestamp) {
        let until = i64::try_from(until.0).unwrap_or(i64::MAX);
        self.labels.with(registry.as_str(), |label| {
            if label != registry.as_str() {
                return;
            }
            self.metrics.retry_at.with_label_values(&[label, principal.kind.label()]).set(until);
        });
    }

    /// The counter of body bytes of `registry`.
    pub(super) fn received_bytes(&self, registry: &Registry) -> IntCounter {
        self.labels.with(registry.as_str(), |label| self.metrics.bytes.with_label_values(&[label]))
    }
}

#[cfg(test)]
impl Recorder {
    /// A recorder whose metrics are on no page.
    pub(super) fn for_test() -> Self {
        let metrics = Metrics::register(&metrics::Registry::new()).expect("each name is registered once");
        Self::new(metrics, Arc::default())
    }
}
