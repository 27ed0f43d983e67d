//! `larder generate DIR`: completions and manual pages, for packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::{Shell, generate_to};

use super::failure::Failure;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The directory to write them to
    directory: PathBuf,
}

/// Writes them for `command`, the whole command line.
pub(super) fn run(arguments: &Arguments, mut command: Command) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::failed(format!("{}: {error}", arguments.directory.display()));
    fs::create_dir_all(&arguments.directory).map_err(failed)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "larder", &arguments.directory).map_err(failed)?;
    }
    clap_mangen::generate_to(command, &arguments.directory).map_err(failed)
}
