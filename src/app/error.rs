//! Why the daemon cannot be built.

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
    #[error(transparent)]
    Listen(#[from] ListenError),
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
