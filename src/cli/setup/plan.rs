//! What a setup is made for, and what it would change.

use super::change::Change;
use crate::reference::Registry;
use crate::serve::Gate;

/// What a setup is made for.
pub(super) struct SetupRequest {
    /// As it is named on the command line.
    pub(super) runtime: &'static str,
    /// `http://127.0.0.1:5050`.
    pub(super) url: String,
    /// `127.0.0.1:5050`.
    pub(super) authority: String,
    /// Whether what this cache does not have is not pulled at all.
    pub(super) strict: bool,
    /// Whether an earlier setup is undone.
    pub(super) undo: bool,
    /// The registries that are named; empty for the default of each runtime.
    pub(super) registries: Vec<String>,
    /// The registries that have a `[[registry]]`.
    pub(super) configured: Vec<String>,
    /// What a name without a registry means to the cache.
    pub(super) default_registry: Registry,
    pub(super) gate: Option<Gate>,
}

/// What a setup changes, and what has to be said about it.
#[derive(Default)]
pub(super) struct SetupPlan {
    pub(super) changes: Vec<Change>,
    /// The command after which the changes take effect, if they need one.
    pub(super) restart: Option<&'static str>,
    pub(super) notes: Vec<String>,
}
