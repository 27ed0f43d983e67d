//! New settings for a daemon that is running.
//!
//! Promises: all or nothing. Whatever can fail (a certificate file, the plugins' configuration, the gate's file) is
//! read first; only then are the parts given their new settings, and none of that can fail. A request that is under way
//! ends as it began.
//!
//! Deliberately not here: reading configuration files (`config`), and the signal (`cli::serve`).

use std::collections::HashSet;

use crate::config::{self, Settings};
use crate::credentials::{Keychain, ProviderConfigError};
use crate::prepull::List;
use crate::pull;
use crate::reference::Registry;
use crate::serve::{Gate, GateError};
use crate::support::live::Live;
use crate::support::metrics::{self, IntGauge, MetricsError};
use crate::tier::Tier;
use crate::upstream::{BuildError, Configured, Upstream};

/// The parts of a running daemon that take new settings.
#[derive(Clone)]
pub struct Reload {
    pub(crate) upstream: Upstream,
    pub(crate) keychain: Keychain,
    pub(crate) gate: Live<Option<Gate>>,
    pub(crate) path_logins: Live<HashSet<Registry>>,
    pub(crate) pull: Live<pull::Config>,
    pub(crate) tier: Tier,
    pub(crate) list: List,
    /// The settings that were read last.
    pub(crate) settings: Live<Settings>,
    pub(crate) shown: ConfigMetrics,
}

/// What is shown of the configuration. Cheap to clone.
#[derive(Clone)]
pub struct ConfigMetrics {
    hash: IntGauge,
    last_reload: IntGauge,
}

impl ConfigMetrics {
    /// Registers it, and shows `settings`.
    ///
    /// # Errors
    /// A name registered twice.
    pub(crate) fn register(registry: &metrics::Registry, settings: &Settings) -> Result<Self, MetricsError> {
        let shown = Self {
            hash: registry.gauge(
                "config_hash",
                "A number for the configuration that was read last; daemons with equal settings show the same one.",
            )?,
            last_reload: registry.gauge(
                "config_last_reload_successful",
                "1 if the configuration could be used when it was read last, 0 if an older one is in effect.",
            )?,
        };
        shown.read(settings);
        Ok(shown)
    }

    fn read(&self, settings: &Settings) {
        self.hash.set(i64::try_from(config::hash(settings)).unwrap_or(0));
        self.last_reload.set(1);
    }
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
    /// Shows that the configuration was read again and could not be used.
    pub fn show_failure(&self) {
        self.shown.last_reload.set(0);
    }

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
        match &gate {
            Some(_) if *self.gate.current() != gate => tracing::warn!(
                "the gate's header or value changed: runtimes are refused from now on that do not send it; `larder \
                 setup` writes it for them, and `larder doctor` names those that lack it"
            ),
            None if self.gate.current().is_some() => tracing::info!("requests need no header any more"),
            _ => {}
        }
        self.gate.replace(gate);
        self.path_logins.replace(settings.serve.path_logins.clone());
        self.pull.replace(settings.pull.clone());
        if let Some(tier) = &settings.tier {
            self.tier.reconfigure(tier.registries.clone());
        }
        self.list.replace(settings.prepull.clone());
        self.settings.replace(settings.clone());
        self.shown.read(settings);
        Ok(())
    }
}
