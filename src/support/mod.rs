//! What every module may use: time, metrics, stopping, coalescing, bytes on their way, small helpers.
//!
//! Nothing here knows a module of Larder: no registry protocol, no store, no configuration.

pub mod addresses;
pub mod authorities;
pub mod body_chunk;
pub mod bounded_map;
pub mod byte_budget;
pub mod causes;
pub mod clock;
pub(crate) mod deadline;
pub mod directory;
pub(crate) mod fair_share;
pub mod go_json;
pub mod host;
pub mod live;
#[cfg(test)]
pub(crate) mod log_for_tests;
pub mod loopback;
pub mod metric_labels;
pub mod metrics;
#[cfg(feature = "model")]
pub(crate) mod model_channel;
pub mod network;
pub(crate) mod open_file;
pub mod process;
pub mod proxies;
pub mod rounded;
pub mod secret_file;
pub mod short_text;
pub mod shortage;
pub mod shutdown;
pub mod singleflight;
pub mod size;
pub mod sized_map;
pub(crate) mod slowness;
pub(crate) mod sync;
pub mod tasks;
#[cfg(test)]
pub(crate) mod time_for_tests;
pub mod unserved;
pub mod yaml;
