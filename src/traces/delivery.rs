//! Sending spans to the collector, in batches, on a task of its own.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter as _};
use tokio::sync::mpsc;

use super::collector::CollectorClient;
use super::config::{Collector, Config};
use super::counts::Counts;
use super::queue::Queue;
use super::span::exported;
use crate::support::host;
use crate::support::shutdown::Shutdown;

/// Spans of one request to the collector: OpenTelemetry's own default.
const BATCH_MAX: usize = 512;
/// For how long spans are gathered for a request, from the first of them on.
const GATHER_WAIT: Duration = Duration::from_secs(1);
/// How long a collector that does not answer is left alone: at first, and at most.
const AWAY_WAIT_MIN: Duration = Duration::from_secs(5);
const AWAY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a stop waits for what is queued.
pub const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TLS library refuses its own defaults.
    #[error("TLS for traces cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// A variable of OpenTelemetry's asks for what this exporter does not do, such as compression.
    #[error("traces cannot be exported: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Spans on their way to a collector.
pub struct Traces {
    provider: SdkTracerProvider,
    receiver: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    client: CollectorClient,
    collector: Collector,
    counts: Counts,
    /// Spans that were lost since the collector is away; `None` while it is there.
    away: Option<Away>,
}

struct Away {
    lost: u64,
    wait: Duration,
}

impl Traces {
    /// What is needed to send traces as `config` says; `None` without a collector. Nothing is sent before
    /// [`Self::run`]. Blocks while certificate authorities are read.
    ///
    /// # Errors
    /// What is asked for cannot be done; never that the collector is away.
    pub fn new(config: &Config) -> Result<Option<Self>, Error> {
        let Some(collector) = config.collector.clone() else { return Ok(None) };
        let client = CollectorClient::new(&collector)?;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_endpoint(collector.spans_url())
            // Its waits would block a thread of the runtime.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        let counts = Counts::default();
        let (queue, receiver) = Queue::new(counts.clone());
        let resource = resource();
        exporter.set_resource(&resource);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample.ratio()))))
            .with_span_processor(queue)
            .with_resource(resource)
            .build();
        Ok(Some(Self { provider, receiver, exporter, client, collector, counts, away: None }))
    }

    /// What makes the spans.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("larder")
    }

    /// How many were delivered and dropped.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Sends spans until the stop, then those that are queued, for [`FLUSH_WAIT`] at most.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        tracing::info!(collector = %self.collector, "traces are sent");
        let sending = self.send(shutdown.clone());
        let too_late = async {
            shutdown.requested().await;
            tokio::time::sleep(FLUSH_WAIT).await;
        };
        tokio::select! {
            () = sending => {}
            () = too_late => tracing::info!("stopping with traces that the collector has not taken"),
        }
    }

    /// Returns when all that was queued at the stop is sent, or the collector has not taken it.
    async fn send(&mut self, mut shutdown: Shutdown) {
        let mut batch = Vec::new();
        while !shutdown.is_requested() {
            tokio::select! {
                _ = self.receiver.recv_many(&mut batch, BATCH_MAX) => {}
                () = shutdown.requested() => break,
            }
            tokio::select! {
                () = fill(&mut self.receiver, &mut batch) => {}
                () = tokio::time::sleep(GATHER_WAIT) => {}
                () = shutdown.requested() => break,
            }
            self.deliver(std::mem::take(&mut batch)).await;
            if let Some(Away { wait, .. }) = self.away {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = shutdown.requested() => break,
                }
            }
        }
        loop {
            while batch.len() < BATCH_MAX
                && let Ok(span) = self.receiver.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.deliver(std::mem::take(&mut batch)).await;
            if self.away.is_some() {
                return;
            }
        }
    }

    async fn deliver(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let batch = batch.into_iter().map(exported).collect();
        let Err(error) = self.exporter.export(batch).await else {
            self.counts.deliver(spans);
            if let Some(Away { lost, .. }) = self.away.take() {
                tracing::info!(collector = %self.collector, lost, "the collector takes traces again");
            }
            return;
        };
        self.counts.drop(spans);
        let away = self.away.get_or_insert_with(|| {
            let why = self.client.take_failure().unwrap_or_else(|| error.to_string());
            tracing::warn!(
                collector = %self.collector,
                why,
                "the collector does not take traces; they are dropped until it does, and this is not logged again"
            );
            Away { lost: 0, wait: AWAY_WAIT_MIN / 2 }
        });
        away.lost += spans;
        away.wait = (away.wait * 2).min(AWAY_WAIT_MAX);
    }
}

/// Takes spans until the batch is full.
async fn fill(receiver: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    while batch.len() < BATCH_MAX && receiver.recv_many(batch, BATCH_MAX - batch.len()).await > 0 {}
}

/// Who sends: what `OTEL_RESOURCE_ATTRIBUTES` says too, which is how a DaemonSet names its node and cluster.
fn resource() -> Resource {
    let mut all = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let name = host::name();
    if !name.is_empty() {
        all.push(KeyValue::new("host.name", name));
    }
    Resource::builder().with_attributes(all).with_service_name("larder").build()
}
