//! The traces of the daemon: which spans of the log's subscriber they are made of, and how long they are sent.
//!
//! Without the feature `otlp` there are none; the configuration refuses the key that asks for them.

use super::log::Spans;
use crate::cli::failure::Failure;
use crate::support::shutdown::Shutdown;
use crate::traces::{Config, Counts};

/// Traces that are sent to a collector, if one is configured.
#[cfg(feature = "otlp")]
pub(super) struct Traces(Option<crate::traces::Traces>);

#[cfg(feature = "otlp")]
impl Traces {
    /// Prepares what `config` asks for.
    pub(super) fn new(config: &Config) -> Result<Self, Failure> {
        crate::traces::Traces::new(config).map(Self).map_err(Failure::failed)
    }

    /// Makes a span for traces of each of ours, and nothing of what is logged within it.
    pub(super) fn spans(&self) -> Option<Spans> {
        use tracing_subscriber::Layer;
        use tracing_subscriber::filter::{LevelFilter, filter_fn};

        let ours = filter_fn(|of| of.is_span() && of.target().starts_with("larder"));
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.0.as_ref()?.tracer())
            // The parent is the span of the log, and never what else may be current on the thread.
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(ours.with_max_level_hint(LevelFilter::DEBUG)).boxed())
    }

    /// How many spans were delivered and dropped.
    pub(super) fn counts(&self) -> Counts {
        self.0.as_ref().map(crate::traces::Traces::counts).unwrap_or_default()
    }

    /// Sends spans until the stop, and what is queued then for a moment.
    pub(super) async fn run(self, shutdown: Shutdown) {
        if let Some(traces) = self.0 {
            traces.run(shutdown).await;
        }
    }
}

/// No traces.
#[cfg(not(feature = "otlp"))]
pub(super) struct Traces;

#[cfg(not(feature = "otlp"))]
impl Traces {
    pub(super) fn new(_: &Config) -> Result<Self, Failure> {
        Ok(Self)
    }

    pub(super) fn spans(&self) -> Option<Spans> {
        None
    }

    pub(super) fn counts(&self) -> Counts {
        Counts::default()
    }

    pub(super) async fn run(self, _: Shutdown) {}
}
