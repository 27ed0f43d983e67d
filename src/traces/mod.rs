//! Traces: the spans of requests, downloads and questions to upstream, sent to an OpenTelemetry collector (OTLP over
//! HTTP).
//!
//! Promises: no request waits for a collector. Spans go through a bounded queue to a task of its own; what does not fit
//! in the queue, and what a collector does not take, is dropped and counted. A collector that is away is one line in
//! the log, and one more when it is back. A stop sends what is queued, within [`FLUSH_WAIT`]. A span holds what the
//! request log holds, and no event of the log.
//!
//! Deliberately not here: which spans there are (`serve`, `pull`, `upstream`), and where they are taken from the log's
//! subscriber (`cli/serve/log`). Without the feature `otlp` the settings are here, and the configuration refuses them.

#[cfg(feature = "otlp")]
mod collector;
mod config;
mod counts;
#[cfg(feature = "otlp")]
mod delivery;
#[cfg(feature = "otlp")]
mod queue;
#[cfg(feature = "otlp")]
mod span;

pub use config::{Collector, Config, InvalidCollector, InvalidSampleRatio, SampleRatio};
pub use counts::Counts;
#[cfg(feature = "otlp")]
pub use delivery::{Error, FLUSH_WAIT, Traces};

/// Whether this program can send traces at all.
pub const BUILT_IN: bool = cfg!(feature = "otlp");
