//! What is shown of this node's pods and their images.

use std::time::Duration;

use crate::support::metric_labels::{CountersBy, label_values};
use crate::support::metrics::{Histogram, IntCounter, IntGauge, IntGaugeVec, MetricsError, Registry};

label_values! {
    /// What became of an image that was to be fetched.
    pub(super) enum FetchResult: "result" {
        Fetched => "fetched",
        /// All of it was here.
        Present => "present",
        InRuntime => "in_runtime",
        Refused => "refused",
        NotStored => "not_stored",
        Failed => "failed",
        /// No pod wanted it any more, or another one its place.
        Ended => "ended",
    }
}

label_values! {
    /// How much of an image was here when a runtime first asked for it.
    pub(super) enum FoundAhead: "found" {
        All => "all",
        Part => "part",
    }
}

/// The metrics of `kubernetes`. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    connected: IntGaugeVec,
    pods: IntGauge,
    fetching: IntGauge,
    fetches: CountersBy<FetchResult>,
    fetched_bytes: IntCounter,
    in_vain: IntCounter,
    pulls: CountersBy<FoundAhead>,
    head_start: Histogram,
    protected: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let head_start = registry.waits(
            "kubernetes_head_start_seconds",
            "From the moment at which all of an image was here to the first question of a runtime for it.",
        )?;
        Ok(Self {
            connected: registry.gauges(
                "kubernetes_source_connected",
                "Whether a source of this node's pods tells of them (1) or not (0).",
                &["source"],
            )?,
            pods: registry.gauge("kubernetes_pods", "Pods of this node that are known.")?,
            fetching: registry.gauge("kubernetes_fetches", "Images that are being fetched for pods.")?,
            fetches: registry.counters_by(
                "kubernetes_fetches_total",
                "Images that were to be fetched for pods, by what became of it.",
            )?,
            fetched_bytes: registry.counter(
                "kubernetes_fetched_bytes_total",
                "Bytes that were fetched for pods and were not here before, also of fetches that ended or failed.",
            )?,
            in_vain: registry.counter(
                "kubernetes_in_vain_bytes_total",
                "Bytes of those that no runtime asked for within ten minutes.",
            )?,
            pulls: registry.counters_by(
                "kubernetes_pulls_total",
                "First questions of a runtime for an image that was fetched ahead: all of it was here, or a part.",
            )?,
            head_start,
            protected: registry.gauge(
                "kubernetes_protected_blobs",
                "Blobs of images whose containers have started here, which are evicted after all others.",
            )?,
        })
    }

    /// Shows whether a source tells of pods.
    pub(super) fn connected(&self, source: &str, is_connected: bool) {
        self.connected.with_label_values(&[source]).set(i64::from(is_connected));
    }

    /// Shows how many pods there are, and fetches under way.
    pub(super) fn state(&self, pods: usize, fetching: usize) {
        self.pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        self.fetching.set(i64::try_from(fetching).unwrap_or(i64::MAX));
    }

    /// Counts a fetch that has ended, and the bytes that came.
    pub(super) fn ended(&self, result: FetchResult, arrived_bytes: u64) {
        self.fetches.count(result);
        self.fetched_bytes.inc_by(arrived_bytes);
    }

    /// Counts the first question of a runtime; `None`: not all of the image was here.
    pub(super) fn asked(&self, head_start: Option<Duration>) {
        self.pulls.count(if head_start.is_some() { FoundAhead::All } else { FoundAhead::Part });
        if let Some(head_start) = head_start {
            self.head_start.observe(head_start.as_secs_f64());
        }
    }

    /// Counts bytes that no runtime asked for.
    pub(super) fn in_vain(&self, bytes: u64) {
        self.in_vain.inc_by(bytes);
    }

    /// Shows how many blobs are evicted last.
    pub(super) fn protected(&self, blobs: usize) {
        self.protected.set(i64::try_from(blobs).unwrap_or(i64::MAX));
    }
}
