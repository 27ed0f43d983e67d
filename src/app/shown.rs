//! Metrics that are read from the parts when they are shown, so that they cannot differ from them: what this program is,
//! the outages, and what was fetched for no client.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pull::Puller;
use crate::serve::Observer;
use crate::support::metrics::{MetricsError, ObservedCounter, Registry, RegistryLabels};
use crate::traces::Counts;
use crate::upstream::Upstream;

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

/// How many spans of traces were delivered and dropped.
pub(super) struct SpanCounters {
    delivered: ObservedCounter,
    dropped: ObservedCounter,
}

impl SpanCounters {
    pub(super) fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let delivered = registry.observed_counter(
            "trace_spans_delivered_total",
            "Spans of traces that the collector has taken.",
        )?;
        let dropped = registry.observed_counter(
            "trace_spans_dropped_total",
            "Spans of traces that were dropped because the collector is too slow, or does not take them.",
        )?;
        Ok(Self { delivered, dropped })
    }

    pub(super) fn observe(&self, counts: &Counts) {
        let (delivered, dropped) = (counts.clone(), counts.clone());
        self.delivered.observe(Arc::new(move || delivered.delivered()));
        self.dropped.observe(Arc::new(move || dropped.dropped()));
    }
}
