//! Where the node's credentials come from: its docker config, credential helpers and provider plugins.

use std::path::PathBuf;

use super::helper::Helpers;
use super::node::{NodeConfig, NodeFiles};
use super::provider::{self, ProviderConfigError, Providers};
use super::run_places::RunPlaces;
use crate::support::tasks::Tasks;

/// The settings of `credentials`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's docker config.
    pub node: NodeFiles,
    /// Kubelet's `--image-credential-provider-config` and `--image-credential-provider-bin-dir`.
    pub providers: Option<ProviderFiles>,
    /// The directory of docker credential helpers; `None`: none is run.
    pub helper_dir: Option<PathBuf>,
    /// Pull secrets as files or directories, for commands and pre-pull.
    pub pull_secrets: Vec<PathBuf>,
}

/// The provider plugins.
#[derive(Debug, Clone)]
pub struct ProviderFiles {
    /// Their configuration: a file, or a directory of files.
    pub config: PathBuf,
    /// The directory of the programs.
    pub bin_dir: PathBuf,
}

impl ProviderFiles {
    /// For which audiences plugins need tokens of pods' service accounts (`tokenAttributes`), each once. Blocks.
    ///
    /// # Errors
    /// A provider configuration that kubelet would refuse too.
    pub fn token_audiences(&self) -> Result<Vec<String>, ProviderConfigError> {
        let mut audiences: Vec<String> = Vec::new();
        for provider in provider::read(&self.config)? {
            if let Some(audience) = provider.token_audience().filter(|one| !audiences.contains(one)) {
                audiences.push(audience);
            }
        }
        Ok(audiences)
    }
}

/// The sources of the node's credentials, configured.
pub struct CredentialSources {
    pub(super) node: NodeConfig,
    pub(super) helpers: Helpers,
    pub(super) providers: Option<Providers>,
    /// Pull secrets that are configured, for commands.
    pub(super) pull_secrets: Vec<PathBuf>,
}

impl CredentialSources {
    /// Reads the configuration of the provider plugins. Docker configs are read when they are needed. Work that
    /// outlives the request that began it becomes one of `tasks`. Blocks while files are read.
    ///
    /// # Errors
    /// A provider configuration that kubelet would refuse too.
    pub(super) fn read(config: &Config, tasks: &Tasks) -> Result<Self, ProviderConfigError> {
        let places = RunPlaces::default();
        let providers = match &config.providers {
            None => None,
            Some(files) => {
                let found = provider::read(&files.config)?;
                provider::check_directory(&files.bin_dir)?;
                Some(Providers::new(found, &files.bin_dir, tasks, places.clone()))
            }
        };
        let node = NodeConfig::new(config.node.clone(), tasks.clone());
        let helpers = Helpers::new(config.helper_dir.clone(), tasks, places);
        Ok(Self { node, helpers, providers, pull_secrets: config.pull_secrets.clone() })
    }

    /// Keeps what `before` remembers of a source that has not changed: the last valid content of a docker config, and
    /// what plugins returned.
    pub(super) fn inherit(mut self, before: &Self) -> Self {
        if before.node.files() == self.node.files() {
            self.node = before.node.clone();
        }
        if before.providers == self.providers {
            self.providers.clone_from(&before.providers);
        }
        self
    }
}
