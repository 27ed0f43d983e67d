//! What every subcommand is given: where its configuration is.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::output::warn;
use crate::config::{self, Environment, Loaded, Settings};

/// What mistakes of a configuration mean to a daemon that runs.
pub(super) const GOES_ON: &str = "a daemon that runs goes on with what it read before; its next start fails";

/// Why a command ends that found mistakes, which it has printed, and no daemon either.
pub(super) fn no_daemon() -> Failure {
    Failure::usage("no daemon answered, and the configuration has mistakes")
}

/// Where a running daemon listens for commands: of a configuration with mistakes too.
///
/// # Errors
/// A configuration that cannot be read.
pub(super) fn socket_of(read: &Result<Loaded, config::Error>) -> Result<&Path, Failure> {
    match read {
        Ok(loaded) => Ok(&loaded.settings.admin.socket),
        Err(config::Error::Mistaken { rest, .. }) => Ok(&rest.settings.admin.socket),
        Err(error @ config::Error::Unreadable { .. }) => Err(Failure::usage(error)),
    }
}

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
        self.read_to_ask().map(|(_, socket)| socket)
    }

    /// The configuration, or all that is wrong with it, which is printed, and where the running daemon listens for
    /// commands.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub(super) fn read_to_ask(&self) -> Result<(Result<Loaded, config::Error>, PathBuf), Failure> {
        let read = self.read();
        let socket = socket_of(&read)?.to_owned();
        if let Err(error) = &read {
            warn(&format!("{error}\n{GOES_ON}"));
        }
        Ok((read, socket))
    }

    /// The settings of the configuration.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        Ok(self.load()?.settings)
    }
}
