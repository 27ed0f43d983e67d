//! The metrics registry: the one door to the prometheus crate.
//!
//! Each domain registers its metrics once, in its own `metrics` module, and keeps the handles in fields. Every name
//! starts with `larder_`, uses base units, and is described in `docs/metrics.md`, which a test holds equal to
//! [`Registry::described`]. Label values come from enums or from the bounded [`RegistryLabels`]; never from a name
//! that a client sent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prometheus::core::Collector;
use prometheus::{Encoder, HistogramOpts, Opts, TextEncoder};
pub use prometheus::{
    Error as MetricsError, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

/// Seconds from a cache hit on loopback to the longest answer we allow a client to wait for.
pub const LATENCY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 25.0];

/// Seconds from a minute to a month.
const AGE_BUCKETS: &[f64] = &[60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];

/// Everything that `/metrics` shows.
#[derive(Clone, Default)]
pub struct Registry {
    inner: prometheus::Registry,
    described: Arc<Mutex<Vec<Described>>>,
}

/// One metric as documentation has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// The full name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names, in order.
    pub labels: Vec<String>,
}

impl Registry {
    /// A registry without metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter; `name` without the prefix.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.add(name, "counter", &[], IntCounter::with_opts(opts(name, help))?)
    }

    /// A counter for each combination of label values.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.add(name, "counter", labels, IntCounterVec::new(opts(name, help), labels)?)
    }

    /// A gauge; `name` without the prefix.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.add(name, "gauge", &[], IntGauge::with_opts(opts(name, help))?)
    }

    /// A gauge for each combination of label values.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.add(name, "gauge", labels, IntGaugeVec::new(opts(name, help), labels)?)
    }

    /// A histogram of seconds for each combination of label values.
    pub fn latencies(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, MetricsError> {
        let opts = HistogramOpts::new(full(name), help).buckets(LATENCY_BUCKETS.to_vec());
        self.add(name, "histogram", labels, HistogramVec::new(opts, labels)?)
    }

    /// A histogram of seconds, from a minute to a month, for each combination of label values.
    pub fn ages(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, MetricsError> {
        let opts = HistogramOpts::new(full(name), help).buckets(AGE_BUCKETS.to_vec());
        self.add(name, "histogram", labels, HistogramVec::new(opts, labels)?)
    }

    fn add<C: Collector + Clone + 'static>(
        &self,
        name: &str,
        kind: &'static str,
        labels: &[&str],
        metric: C,
    ) -> Result<C, MetricsError> {
        self.inner.register(Box::new(metric.clone()))?;
        let labels = labels.iter().map(|&l| l.to_owned()).collect();
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        described.push(Described { name: full(name), kind, labels });
        Ok(metric)
    }

    /// What is registered, sorted by name.
    pub fn described(&self) -> Vec<Described> {
        let mut all = self.described.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort();
        all
    }

    /// The text exposition format.
    ///
    /// # Errors
    /// When the encoder fails, which would be a defect of ours.
    pub fn render(&self) -> Result<Vec<u8>, MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.inner.gather(), &mut text)?;
        Ok(text)
    }

    /// The media type of [`Registry::render`].
    pub fn content_type() -> &'static str {
        prometheus::TEXT_FORMAT
    }
}

/// The values of `counters`, each with the value of its label `name`.
pub fn sums(counters: &IntCounterVec, name: &str) -> Vec<(String, u64)> {
    let families = counters.collect();
    let metrics = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
    metrics
        .filter_map(|metric| {
            let label = metric.get_label().iter().find(|label| label.name() == name)?;
            // Counters of ours are whole numbers.
            Some((label.value().to_owned(), metric.get_counter().get_value() as u64))
        })
        .collect()
}

fn full(name: &str) -> String {
    format!("larder_{name}")
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(full(name), help)
}

/// Registries that get a label of their own besides the configured ones; later ones share `other`.
const REGISTRY_LABELS_MAX: usize = 32;

/// Gives registries their label: the first few seen by name, all others `other`, so that a client that asks for
/// ever new registries cannot grow `/metrics`.
#[derive(Debug, Default)]
pub struct RegistryLabels(RwLock<HashSet<String>>);

impl RegistryLabels {
    /// Labels for `configured` registries from the start.
    pub fn new(configured: impl IntoIterator<Item = String>) -> Self {
        Self(RwLock::new(configured.into_iter().collect()))
    }

    /// Labels for `configured` registries too, from now on.
    pub fn configure(&self, configured: impl IntoIterator<Item = String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(configured);
    }

    /// The label for `registry`. Called with a registry that has answered, so that strangers' inventions do not
    /// use up the names.
    pub fn admit(&self, registry: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REGISTRY_LABELS_MAX && !known.contains(registry) {
            known.insert(registry.to_owned());
        }
    }

    /// Calls `with` with the label for `registry`.
    pub fn with<R>(&self, registry: &str, with: impl FnOnce(&str) -> R) -> R {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).contains(registry);
        with(if known { registry } else { "other" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_new_registries_do_not_grow_the_page() {
        let labels = RegistryLabels::new(["docker.io".to_owned()]);
        for n in 0..1_000 {
            labels.admit(&format!("r{n}.test"));
        }
        assert_eq!(labels.with("docker.io", str::to_owned), "docker.io");
        assert_eq!(labels.with("r0.test", str::to_owned), "r0.test");
        assert_eq!(labels.with("r999.test", str::to_owned), "other");
        assert_eq!(labels.0.read().unwrap().len(), REGISTRY_LABELS_MAX);
    }
}
