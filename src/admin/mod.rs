//! The admin plane: metrics, probes and numbers, on an address of its own; commands, on a socket of their own.
//!
//! Promises: readiness depends on no upstream; what is on the address names no repository and changes nothing. What
//! does is on the [`control`] socket, which only the owner of the daemon can open.
//!
//! Deliberately not here: how a command is done (`store`, `pull`, `prepull`).

mod config;
pub mod control;
mod disk_state;
mod explain;
mod history;
mod obstacle;
mod page;
mod plot;
mod readiness;
mod registries;
mod report;
mod respond;
mod service;
mod status;

pub use config::{Config, LISTEN};
pub use disk_state::DiskState;
pub use explain::{
    AccessOutlook, CachedOutlook, CredentialOutlook, EndpointOutlook, Explanation, FailedFetchOutlook,
    FreshnessOutlook, PlatformOutlook, RightOutlook, TierOutlook,
};
pub use history::{History, Sample};
pub use readiness::Readiness;
pub use registries::{EndpointReport, RateLimitReport, RegistryReport, registries};
pub use report::StatusReport;
pub use service::{Service, Sources, metrics_service, service};
pub use status::{DaemonStatus, ServedStatus, StoreStatus};
