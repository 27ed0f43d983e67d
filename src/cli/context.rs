//! What every subcommand is given: where its configuration is.

use std::path::PathBuf;

use super::failure::Failure;
use super::output::warn;
use crate::config::{self, Environment, Loaded, Settings};

/// What mistakes of a configuration mean to a daemon that runs.
pub(super) const GOES_ON: &str = "a daemon that runs goes on with what it read before; its next start fails";

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
        self.read().map_err(Failure::usage)
    }

    /// The same, or all that is wrong with it.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub(super) fn read(&self) -> Result<Loaded, config::Error> {
        config::load(self.file.as_deref(), &self.environment)
    }

    /// Where the running daemon listens for commands. A configuration with mistakes does not end a daemon that has read
    /// another one before: the mistakes are printed, and the daemon is asked all the same.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub(super) fn daemon_socket(&self) -> Result<PathBuf, Failure> {
        match self.read() {
            Ok(loaded) => Ok(loaded.settings.admin.socket),
            Err(error) => {
                let config::Error::Mistaken { socket, .. } = &error else {
                    return Err(Failure::usage(error));
                };
                warn(&format!("{error}\n{GOES_ON}"));
                Ok(socket.clone())
            }
        }
    }

    /// The settings of the configuration.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        Ok(self.load()?.settings)
    }
}
