//! What every subcommand is given: where its configuration is.

use std::path::PathBuf;

use super::failure::Failure;
use crate::config::{self, Environment, Loaded, Settings};

/// What every subcommand is given.
pub(super) struct Context {
    /// The configuration file that the command line names, if it names one.
    pub(super) file: Option<PathBuf>,
    pub(super) environment: Environment,
}

impl Context {
    /// The configuration, and where it was read from.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        config::load(self.file.as_deref(), &self.environment).map_err(Failure::usage)
    }

    /// The settings of the configuration.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        Ok(self.load()?.settings)
    }
}
