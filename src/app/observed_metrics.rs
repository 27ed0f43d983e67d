//! Metrics that are read from the parts when they are shown, so that they cannot differ from them: what this program
//! is, the outages, and what was fetched for no client.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::listener;
use crate::pull::Puller;
use crate::serve::Observer;
use crate::support::metrics::{MetricsError, ObservedCounter, Registry};
use crate::traces::Counts;
use crate::upstream::{RegistryLabels, Upstream};

/// Registers them.
///
/// # Errors
/// A name registered twice.
pub(super) fn register(
    registry: &Registry,
    puller: &Puller,
    upstream: &Upstream,
    observer: &Arc<Observer>,
    labels: &Arc<RegistryLabels>,
) -> Result<(), MetricsError> {
    registry.observed_gauges(
        "build_info",
        "Always 1; the labels say what this program is.",
        &["version", "arch"],
        || vec![(vec![env!("CARGO_PKG_VERSION").to_owned(), std::env::consts::ARCH.to_owned()], 1.0)],
    )?;
    let (puller, labels) = (puller.clone(), Arc::clone(labels));
    registry.observed_gauges(
        "upstream_outage_start_timestamp_seconds",
        "Since when a registry cannot be asked (Unix time); absent while it can.",
        &["registry"],
        move || {
            let mut since: BTreeMap<String, u64> = BTreeMap::new();
            // Registries that share a label are away since the first of them is.
            for (registry, at) in puller.outages() {
                let label = labels.with(registry.as_str(), str::to_owned);
                let first = since.entry(label).or_insert(at.0);
                *first = at.0.min(*first);
            }
            since.into_iter().map(|(label, at)| (vec![label], at as f64)).collect()
        },
    )?;
    let (upstream, observer) = (upstream.clone(), Arc::clone(observer));
    registry.observed_gauges(
        "upstream_unserved_bytes",
        "Bytes of manifests and blobs that were received since the start and served to no client, yet or in vain.",
        &[],
        move || {
            // In this order: what is served was received before.
            let from_upstream = observer.totals().from_upstream;
            vec![(Vec::new(), upstream.received_bytes().saturating_sub(from_upstream) as f64)]
        },
    )
}

/// What others count, as it is shown: the connections, the log and the traces.
pub(super) struct Counters {
    pub(super) connections: listener::Metrics,
    lost_lines: ObservedCounter,
    spans_delivered: ObservedCounter,
    spans_dropped: ObservedCounter,
}

impl Counters {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub(super) fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let lost_lines = registry.observed_counter(
            "log_lines_dropped_total",
            "Lines of the log that were not written because where they go is too slow, or does not take them.",
        )?;
        let spans_delivered = registry.observed_counter(
            "trace_spans_delivered_total",
            "Spans of traces that the collector has taken.",
        )?;
        let spans_dropped = registry.observed_counter(
            "trace_spans_dropped_total",
            "Spans of traces that were dropped because the collector is too slow, or does not take them.",
        )?;
        let connections = listener::Metrics::register(registry)?;
        Ok(Self { connections, lost_lines, spans_delivered, spans_dropped })
    }

    /// Shows what `count` says as the lines that the log has lost.
    pub(super) fn observe_lost_lines(&self, count: Arc<dyn Fn() -> u64 + Send + Sync>) {
        self.lost_lines.observe(count);
    }

    /// Shows how many spans of traces were delivered and dropped.
    pub(super) fn observe_spans(&self, counts: &Counts) {
        let (delivered, dropped) = (counts.clone(), counts.clone());
        self.spans_delivered.observe(Arc::new(move || delivered.delivered()));
        self.spans_dropped.observe(Arc::new(move || dropped.dropped()));
    }
}
