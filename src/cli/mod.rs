//! The command line: one file a subcommand, and the only place that prints.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod config;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Environment;

/// A node-local pull-through registry cache.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, disable_help_subcommand = true)]
struct Arguments {
    /// Configuration file [default: $LARDER_CONFIG, else /etc/larder/larder.toml, else built-in defaults]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Serve,
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Command),
}

/// What went wrong, and so how the process ends.
enum Failure {
    /// 1.
    Failed(String),
    /// 2.
    Usage(String),
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors and go to standard output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let environment = Environment::of_process();
    let file = arguments.config.as_deref();
    let done = match arguments.command {
        Command::Serve => serve::run(file, &environment),
        Command::Config(command) => config::run(&command, file, &environment),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(why)) => complain(&why, 1),
        Err(Failure::Usage(why)) => complain(&why, 2),
    }
}

#[allow(clippy::print_stderr, reason = "the last word of a command that failed")]
fn complain(why: &str, code: u8) -> ExitCode {
    eprintln!("larder: {why}");
    ExitCode::from(code)
}
