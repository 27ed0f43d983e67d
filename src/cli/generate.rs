//! `larder generate DIR`: completions and manual pages, for those who make packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate_to};

use super::Failure;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The directory to write them to
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::Failed(format!("{}: {error}", arguments.directory.display()));
    fs::create_dir_all(&arguments.directory).map_err(failed)?;
    let mut command = super::Arguments::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "larder", &arguments.directory).map_err(failed)?;
    }
    clap_mangen::generate_to(command, &arguments.directory).map_err(failed)
}
