//! What a setup is made for, and what it would change.

use super::change::Change;
use crate::reference::Registry;
use crate::serve::Gate;

/// What a setup is made for.
pub(super) struct SetupRequest {
    /// As it is named on the command line.
    pub(super) runtime: &'static str,
    /// `http://127.0.0.1:5050`; empty where an earlier setup is undone and this cache does not listen on the loopback.
    pub(super) url: String,
    /// `127.0.0.1:5050`.
    pub(super) authority: String,
    /// All under which this cache is reached on the machine, that one among them.
    pub(super) authorities: Vec<String>,
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

impl SetupRequest {
    /// Where an entry that is this cache's leads, if that is known.
    pub(super) fn urls(&self) -> Vec<String> {
        Some(&self.url).filter(|url| !url.is_empty()).into_iter().cloned().collect()
    }
}

/// What a setup changes, and what has to be said about it.
#[derive(Default)]
pub(super) struct SetupPlan {
    pub(super) changes: Vec<Change>,
    /// The command after which the changes take effect, if they need one.
    pub(super) restart: Option<&'static str>,
    pub(super) notes: Vec<String>,
    /// What of a text is shown to people; all of it if there is none.
    pub(super) shown: Option<fn(&str) -> String>,
}
