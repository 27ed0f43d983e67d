//! The command line: one file a subcommand, and the only place that prints.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod config;
mod credentials;
mod doctor;
mod generate;
mod images;
mod import;
mod log;
mod pull;
mod reload;
mod revoke;
mod serve;
mod service;
mod setup;
mod status;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::admin::control;
use crate::config::{Environment, Settings};

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
    /// Fetch images before anybody asks for them, into this cache and nowhere else
    Pull(pull::Arguments),
    /// Bring an image in from a directory or archive, on a machine that reaches no registry
    Import(import::Arguments),
    /// List the images that are here
    Ls(images::Ls),
    /// Show how the daemon stands: hits, space, registries in trouble, rate limits
    Status(status::Arguments),
    /// Remove an image, its pin, and what nothing else needs
    Rm(images::Named),
    /// Let an image be evicted again
    Unpin(images::Named),
    /// Make room now, as far as the configured limits want it
    Gc(images::Gc),
    /// Make a runtime pull through this cache, or show or take back how
    Setup(setup::Arguments),
    /// Look whether every runtime here really pulls through this cache, and whether the cache is well
    Doctor(doctor::Arguments),
    /// Write completions and manual pages
    #[command(hide = true)]
    Generate(generate::Arguments),
    /// Show which credentials match an image, in the order in which they are tried; never the secrets
    Credentials(credentials::Arguments),
    /// End the rights to a repository: whoever asks next is checked upstream
    Revoke(revoke::Arguments),
    /// Hash everything in the store, and set aside what is damaged
    Verify(verify::Arguments),
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
        Command::Pull(arguments) => pull::run(&arguments, file, &environment),
        Command::Import(arguments) => import::run(&arguments, file, &environment),
        Command::Ls(arguments) => images::list(&arguments, file, &environment),
        Command::Status(arguments) => status::run(&arguments, file, &environment),
        Command::Rm(arguments) => images::remove(&arguments, file, &environment),
        Command::Unpin(arguments) => images::unpin(&arguments, file, &environment),
        Command::Gc(arguments) => images::make_room(&arguments, file, &environment),
        Command::Setup(arguments) => setup::run(&arguments, file, &environment),
        Command::Doctor(arguments) => doctor::run(&arguments, file, &environment),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Credentials(arguments) => credentials::run(&arguments, file, &environment),
        Command::Revoke(arguments) => revoke::run(&arguments, file, &environment),
        Command::Verify(arguments) => verify::run(&arguments, file, &environment),
        Command::Config(command) => config::run(&command, file, &environment),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(why)) => complain(&why, 1),
        Err(Failure::Usage(why)) => complain(&why, 2),
    }
}

/// The configuration, for commands that do not care which file it is from.
fn settings(file: Option<&Path>, environment: &Environment) -> Result<Settings, Failure> {
    let loaded = crate::config::load(file, environment).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(loaded.settings)
}

/// Asks the running daemon.
fn ask<C: control::ControlCommand>(settings: &Settings, command: &C) -> Result<C::Reply, Failure> {
    run_async(control::send(&settings.admin.socket, command))?.map_err(|e| Failure::Failed(e.to_string()))
}

/// An answer as JSON.
#[allow(clippy::print_stdout, reason = "what --json is for")]
fn print_json(answer: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(answer).map_err(|e| Failure::Failed(e.to_string()))?;
    println!("{text}");
    Ok(())
}

/// How long ago something was, for people: its two largest units.
fn ago(time: std::time::Duration) -> String {
    let whole = humantime::format_duration(std::time::Duration::from_secs(time.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Runs something short to its end.
fn run_async<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
    Ok(runtime.block_on(work))
}

#[allow(clippy::print_stderr, reason = "the last word of a command that failed")]
fn complain(why: &str, code: u8) -> ExitCode {
    eprintln!("larder: {why}");
    ExitCode::from(code)
}
