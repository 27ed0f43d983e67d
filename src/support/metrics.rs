//! The metrics registry: the one place that uses the prometheus crate.
//!
//! Each domain registers its metrics once, in its own `metrics` module, and keeps the handles in fields. Every name
//! starts with `larder_` (those of [`super::process`] with `process_`), uses base units, and is described in
//! `docs/metrics.md`, which a test holds equal to [`Registry::described`]. Label values come from enums or from a
//! bounded set of names (`upstream::RegistryLabels`); never from a name that a client sent.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{Encoder, HistogramOpts, Opts, TextEncoder};
pub use prometheus::{
    Error as MetricsError, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

/// Seconds from a cache hit on loopback to the longest answer we allow a client to wait for.
pub const LATENCY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 25.0];

/// Seconds from a minute to a month.
const AGE_BUCKETS: &[f64] = &[60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];

/// Seconds from a tenth to ten minutes.
const WAIT_BUCKETS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];

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
    /// Every value of the label, where an enum has them.
    pub values: Vec<&'static str>,
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

    /// A histogram of seconds, from a tenth to ten minutes.
    pub fn waits(&self, name: &str, help: &str) -> Result<Histogram, MetricsError> {
        let opts = HistogramOpts::new(full(name), help).buckets(WAIT_BUCKETS.to_vec());
        self.add(name, "histogram", &[], Histogram::with_opts(opts)?)
    }

    /// A counter whose value is read from its owner whenever it is shown; zero until there is one.
    pub fn observed_counter(&self, name: &str, help: &str) -> Result<ObservedCounter, MetricsError> {
        let count = Arc::new(OnceLock::new());
        let read = {
            let count: Arc<OnceLock<Count>> = Arc::clone(&count);
            move || vec![(Vec::new(), count.get().map_or(0.0, |count| count() as f64))]
        };
        let observed = Observed::new(full(name), help, &[], MetricType::COUNTER, Arc::new(read))?;
        self.add(name, "counter", &[], observed)?;
        Ok(ObservedCounter(count))
    }

    /// A gauge for each combination of label values that its owner says there is now, read whenever it is shown.
    pub fn observed_gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        read: impl Fn() -> Vec<(Vec<String>, f64)> + Send + Sync + 'static,
    ) -> Result<(), MetricsError> {
        let observed = Observed::new(full(name), help, labels, MetricType::GAUGE, Arc::new(read))?;
        self.add(name, "gauge", labels, observed).map(drop)
    }

    /// A `counter` or `gauge` of the process, under its whole name; not shown while `read` gives nothing.
    pub(super) fn of_process(
        &self,
        name: &str,
        kind: &'static str,
        help: &str,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) -> Result<(), MetricsError> {
        let of_kind = if kind == "counter" { MetricType::COUNTER } else { MetricType::GAUGE };
        let read = move || read().map(|value| (Vec::new(), value)).into_iter().collect();
        let observed = Observed::new(name.to_owned(), help, &[], of_kind, Arc::new(read))?;
        self.add_named(name.to_owned(), kind, &[], observed).map(drop)
    }

    fn add<C: Collector + Clone + 'static>(
        &self,
        name: &str,
        kind: &'static str,
        labels: &[&str],
        metric: C,
    ) -> Result<C, MetricsError> {
        self.add_named(full(name), kind, labels, metric)
    }

    fn add_named<C: Collector + Clone + 'static>(
        &self,
        name: String,
        kind: &'static str,
        labels: &[&str],
        metric: C,
    ) -> Result<C, MetricsError> {
        self.inner.register(Box::new(metric.clone()))?;
        let labels = labels.iter().map(|&l| l.to_owned()).collect();
        let mut described = self.described.lock();
        described.push(Described { name, kind, labels, values: Vec::new() });
        Ok(metric)
    }

    /// The values of the label of `name`, which is registered.
    pub(super) fn describe_values(&self, name: &str, values: Vec<&'static str>) {
        let mut described = self.described.lock();
        if let Some(metric) = described.iter_mut().find(|metric| metric.name == full(name)) {
            metric.values = values;
        }
    }

    /// What is registered, sorted by name.
    pub fn described(&self) -> Vec<Described> {
        let mut all = self.described.lock().clone();
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

type Count = Arc<dyn Fn() -> u64 + Send + Sync>;
type Read = Arc<dyn Fn() -> Vec<(Vec<String>, f64)> + Send + Sync>;

/// A counter whose value its owner keeps.
#[derive(Clone)]
pub struct ObservedCounter(Arc<OnceLock<Count>>);

impl ObservedCounter {
    /// From now on what `count` says is shown. The first one counts.
    pub fn observe(&self, count: Count) {
        let _ = self.0.set(count);
    }
}

/// A metric that is read from its owner when it is shown, so that it cannot differ from it.
#[derive(Clone)]
struct Observed {
    desc: Desc,
    kind: MetricType,
    labels: Vec<String>,
    read: Read,
}

impl Observed {
    fn new(
        name: String,
        help: &str,
        labels: &[&str],
        kind: MetricType,
        read: Read,
    ) -> Result<Self, MetricsError> {
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        let desc = Desc::new(name, help.to_owned(), labels.clone(), Default::default())?;
        Ok(Self { desc, kind, labels, read })
    }

    fn metric(&self, values: Vec<String>, value: f64) -> proto::Metric {
        let mut metric = proto::Metric::default();
        let pairs = self.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value);
            pair
        });
        metric.set_label(pairs.collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

impl Collector for Observed {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics: Vec<_> =
            (self.read)().into_iter().map(|(labels, value)| self.metric(labels, value)).collect();
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(metrics);
        if family.get_metric().is_empty() { Vec::new() } else { vec![family] }
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
