//! Why the daemon cannot be built.

use std::path::PathBuf;

use crate::credentials::{KeysError, ProviderConfigError};
use crate::listener::ListenError;
use crate::serve::GateError;
use crate::support::metrics::MetricsError;
use crate::{store, tier, upstream};

/// What a part of the daemon could not do at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Open the store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Build the upstream client.
    #[error(transparent)]
    Upstream(#[from] upstream::BuildError),
    /// Set up the shared tier.
    #[error(transparent)]
    Tier(#[from] tier::BuildError),
    /// Listen on an address.
    #[error("{key}: {error}")]
    Listen {
        /// Section and key that name it.
        key: &'static str,
        /// Why not.
        error: ListenError,
    },
    /// Listen on a socket that was handed to it.
    #[error(transparent)]
    Adopt(ListenError),
    /// Make a directory.
    #[error("cannot make the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Read a file or directory that the configuration names.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Read the address of a socket that was bound.
    #[error("a bound socket has no address: {0}")]
    Address(#[from] std::io::Error),
    /// Open the node's keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Read the node's credentials.
    #[error(transparent)]
    Providers(#[from] ProviderConfigError),
    /// Read the gate's secret.
    #[error("[server] gate_file: {0}")]
    Gate(#[from] GateError),
    /// Register a metric: one is registered twice, a defect of ours.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}
