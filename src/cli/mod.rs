//! The command line: one file or folder a subcommand, and the only place that prints.
//!
//! Beside the subcommands: `runtimes` is what `setup` and `doctor` know of container runtimes, `units` of systemd; all
//! use `context` (the configuration), `failure` (what ends a command, and its exit code), `output`, `daemon` (its admin
//! socket), `image_command` and `run_async`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a store of a format that is not known (`serve`).

mod config;
mod context;
mod credentials;
mod daemon;
mod doctor;
mod explain;
mod failure;
mod gc;
mod generate;
mod image_command;
mod import;
mod ls;
mod output;
mod pull;
mod revoke;
mod rm;
mod run_async;
mod runtimes;
mod serve;
mod setup;
mod status;
mod tier;
mod units;
mod unpin;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::config::Environment;
use context::Context;
use failure::Failure;

/// A node-local pull-through registry cache.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, disable_help_subcommand = true)]
struct CommandLine {
    /// Configuration file [default: $LARDER_CONFIG, else /etc/larder/larder.toml, else built-in defaults]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    subcommand: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Run the daemon
    Serve,
    /// Fetch images ahead of their pods, into this cache and nowhere else
    Pull(pull::Arguments),
    /// Import an image from a directory or archive, on a machine that reaches no registry
    Import(import::Arguments),
    /// List the images in the store
    Ls(ls::Arguments),
    /// Show the state of the daemon: hits, space, registries in trouble, rate limits
    Status(status::Arguments),
    /// Show how a pull of an image would go now, and the first thing that stands in its way
    Explain(explain::Arguments),
    /// Remove an image, its pin, and the blobs that no other image needs
    Rm(image_command::ImageArguments),
    /// Unpin an image, so that it may be evicted
    Unpin(image_command::ImageArguments),
    /// Evict blobs now, as far as the configured limits require it
    Gc(gc::Arguments),
    /// Make a runtime pull through this cache, show what that would change, or undo it
    Setup(setup::Arguments),
    /// Make a node's containerd pull through this cache by hosts.toml alone, as the DaemonSet's init container does
    SetupNode(setup::node::Arguments),
    /// Check whether every runtime here really pulls through this cache, and whether the cache works
    Doctor(doctor::Arguments),
    /// Write completions and manual pages
    #[command(hide = true)]
    Generate(generate::Arguments),
    /// Show which credentials match an image, in the order in which they are tried; never the secrets
    Credentials(credentials::Arguments),
    /// End the rights to a repository: the next request is checked upstream
    Revoke(revoke::Arguments),
    /// Hash everything in the store, and set aside what is damaged
    Verify(verify::Arguments),
    /// Look after the object store that nodes share
    #[command(subcommand)]
    Tier(tier::TierCommand),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // Help and version are no errors and go to standard output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let context = Context { file: command_line.config, environment: Environment::of_process() };
    match command_line.subcommand.run(&context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

impl Subcommand {
    fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Serve => serve::run(context),
            Self::Pull(arguments) => pull::run(arguments, context),
            Self::Import(arguments) => import::run(arguments, context),
            Self::Explain(arguments) => explain::run(arguments, context),
            Self::Ls(arguments) => ls::run(arguments, context),
            Self::Status(arguments) => status::run(arguments, context),
            Self::Rm(arguments) => rm::run(arguments, context),
            Self::Unpin(arguments) => unpin::run(arguments, context),
            Self::Gc(arguments) => gc::run(arguments, context),
            Self::Setup(arguments) => setup::run(arguments, context),
            Self::SetupNode(arguments) => setup::node::run(arguments, context),
            Self::Doctor(arguments) => doctor::run(arguments, context),
            Self::Generate(arguments) => generate::run(arguments, CommandLine::command()),
            Self::Credentials(arguments) => credentials::run(arguments, context),
            Self::Revoke(arguments) => revoke::run(arguments, context),
            Self::Verify(arguments) => verify::run(arguments, context),
            Self::Tier(command) => tier::run(command, context),
            Self::Config(command) => config::run(command, context),
        }
    }
}

fn report(failure: &Failure) -> ExitCode {
    if !matches!(failure, Failure::ReaderGone) {
        output::warn(failure.message());
    }
    ExitCode::from(failure.exit_code())
}
