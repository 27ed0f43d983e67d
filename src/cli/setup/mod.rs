//! `larder setup RUNTIME`: makes a runtime pull through this cache.
//!
//! Promises: what was in a file stays in it; a file is either as it was or whole and well formed; a second setup changes
//! nothing; `--undo` removes what setup wrote and no more; `--dry-run` shows all of it first.
//!
//! Deliberately not here: restarting a runtime. The operator chooses when.

mod change;
mod containerd;
mod containers;
mod docker;
mod plan;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::context::Context;
use super::failure::Failure;
use crate::listener::Listen;
use crate::serve::Gate;
use change::{Change, Files};
use plan::SetupRequest;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which runtime
    runtime: Runtime,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// No way around this cache: what the cache does not have is not pulled
    #[arg(long)]
    strict: bool,
    /// Undo an earlier setup
    #[arg(long, conflicts_with = "strict")]
    undo: bool,
    /// For these registries only; may be repeated [default: all for containerd; the configured and best known for podman
    /// and crio; docker.io for docker]
    #[arg(long = "registry", value_name = "HOST")]
    registries: Vec<crate::reference::Registry>,
    /// The root of the filesystem to work on, such as that of a machine image
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Runtime {
    Containerd,
    Docker,
    Podman,
    Crio,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    let address = settings.listen.iter().find_map(|at| match at {
        Listen::Tcp(at) if at.ip().is_loopback() => Some(*at),
        _ => None,
    });
    let address = address.ok_or_else(|| {
        Failure::usage(
            "[server] listen has no loopback address: a runtime would send its credentials through the network",
        )
    })?;
    let gate = settings.serve.gate.as_ref().map(Gate::read).transpose();
    let request = SetupRequest {
        url: format!("http://{address}"),
        authority: address.to_string(),
        strict: arguments.strict,
        undo: arguments.undo,
        registries: arguments.registries.iter().map(ToString::to_string).collect(),
        configured: settings.upstream.registries.keys().map(ToString::to_string).collect(),
        default_registry: settings.serve.default_registry.clone(),
        gate: gate.map_err(|error| Failure::usage(format!("[server] gate_file: {error}")))?,
    };
    let files = Files::under(&arguments.root);
    let plan = match arguments.runtime {
        Runtime::Containerd => containerd::plan(&files, &request),
        Runtime::Docker => docker::plan(&files, &request),
        Runtime::Podman | Runtime::Crio => containers::plan(&files, &request),
    }
    .map_err(Failure::Failed)?;
    let changes: Vec<&Change> = plan.changes.iter().filter(|change| change.changes_anything()).collect();
    for change in &changes {
        if arguments.dry_run {
            // The gate's value is for the runtime alone.
            let gate = request.gate.as_ref().map_or("", |gate| gate.value().reveal());
            let shown = change.shown();
            print!("{}", if gate.is_empty() { shown } else { shown.replace(gate, "(not shown)") });
        } else {
            change.apply().map_err(Failure::Failed)?;
            println!("{}", change.outcome());
        }
    }
    match (changes.is_empty(), arguments.dry_run) {
        (true, _) => println!("nothing to change"),
        (false, true) => println!("nothing was changed: this is what would change"),
        (false, false) => {
            if let Some(restart) = plan.restart {
                println!("takes effect with: {restart}");
            }
        }
    }
    for note in plan.notes {
        println!("note: {note}");
    }
    if !arguments.undo && address.port() >= 1_024 && !is_held(&files) {
        println!(
            "note: while Larder is not running any local user may take port {} and collect credentials; \
             install its socket unit, which holds the port, or use one below 1024",
            address.port()
        );
    }
    Ok(())
}

/// Whether systemd holds the port for the daemon.
fn is_held(files: &Files) -> bool {
    ["sockets.target.wants", "sockets.target.requires"]
        .iter()
        .any(|directory| files.path(&format!("/etc/systemd/system/{directory}/larder.socket")).exists())
}
