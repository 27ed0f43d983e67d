//! New settings for a daemon that is running.
//!
//! Promises: all or nothing. Whatever can fail (a certificate file, the plugins' configuration, the gate's file) is
//! read first; only then are the parts given their new settings, and none of that can fail. A request that is under way
//! ends as it began.
//!
//! Deliberately not here: reading configuration files (`config`), and the signal (`cli::serve`).

use std::collections::HashSet;

use crate::config::Settings;
use crate::credentials::{Keychain, ProviderConfigError};
use crate::prepull::List;
use crate::pull;
use crate::reference::Registry;
use crate::serve::{Gate, GateError};
use crate::support::live::Live;
use crate::upstream::{BuildError, Configured, Upstream};

/// The parts of a running daemon that take new settings.
#[derive(Clone)]
pub struct Reload {
    pub(crate) upstream: Upstream,
    pub(crate) keychain: Keychain,
    pub(crate) gate: Live<Option<Gate>>,
    pub(crate) path_logins: Live<HashSet<Registry>>,
    pub(crate) pull: Live<pull::Config>,
    pub(crate) list: List,
    /// The settings that were read last.
    pub(crate) settings: Live<Settings>,
}

/// Why new settings cannot be used; the old ones stay in effect, all of them.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A certificate file.
    #[error(transparent)]
    Upstream(#[from] BuildError),
    /// The plugins' configuration.
    #[error(transparent)]
    Providers(#[from] ProviderConfigError),
    /// The gate's value.
    #[error("[server] gate_file: {0}")]
    Gate(#[from] GateError),
}

impl Reload {
    /// From now on the daemon works by `settings`, as far as they can change while it runs. The files that they name
    /// are read again even if the settings are as before. Blocks for a moment.
    ///
    /// # Errors
    /// The first file that cannot be used; then nothing has changed.
    pub fn apply(&self, settings: &Settings) -> Result<(), ReloadError> {
        let configured = Configured::new(settings.upstream.clone())?;
        let sources = self.keychain.read_sources(&settings.credentials)?;
        let gate = settings.serve.gate.as_ref().map(Gate::read).transpose()?;
        self.upstream.reconfigure(configured);
        self.keychain.reconfigure(sources);
        // The settings may be as before: the value is in a file.
        if *self.gate.current() != gate {
            tracing::info!(
                "the gate's header or value changed: clients with the old one are refused from now on"
            );
        }
        self.gate.replace(gate);
        self.path_logins.replace(settings.serve.path_logins.clone());
        self.pull.replace(settings.pull.clone());
        self.list.replace(settings.prepull.clone());
        self.settings.replace(settings.clone());
        Ok(())
    }
}
