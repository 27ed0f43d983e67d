//! `larder setup RUNTIME`: makes a runtime pull through this cache.
//!
//! Promises: what was in a file stays in it; a file is either as it was or whole and well formed; doing it twice changes
//! nothing; `--undo` takes back what was done and no more; `--dry-run` shows all of it first. No runtime is restarted:
//! that is the operator's hour to choose.

mod change;
mod containerd;
mod containers;
mod cri;
mod docker;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Failure, settings};
use crate::config::{Environment, Settings};
use crate::listener::Listen;
use crate::serve::Gate;
use change::{Change, Files};

pub(super) use cri::{CONFIG, config_of};

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which runtime
    runtime: Runtime,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// No way around this cache: what it cannot give is not pulled
    #[arg(long)]
    strict: bool,
    /// Take back what an earlier setup did
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

/// What a setup is made for.
struct Wish<'a> {
    /// `http://127.0.0.1:5050`.
    url: String,
    /// `127.0.0.1:5050`.
    authority: String,
    strict: bool,
    undo: bool,
    /// As asked for; empty for the default of each runtime.
    registries: Vec<String>,
    /// The header that the data plane wants from every client.
    gate: Option<Gate>,
    settings: &'a Settings,
}

/// What is to be done, and what has to be said about it.
#[derive(Default)]
struct Plan {
    changes: Vec<Change>,
    /// What takes effect only when the runtime is restarted.
    restart: Option<&'static str>,
    notes: Vec<String>,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let settings = settings(file, environment)?;
    let address = settings.listen.iter().find_map(|at| match at {
        Listen::Tcp(at) if at.ip().is_loopback() => Some(*at),
        _ => None,
    });
    let address = address.ok_or_else(|| {
        let why = "[server] listen has no loopback address: a runtime would send its credentials through the network";
        Failure::Usage(why.to_owned())
    })?;
    let gate = settings.serve.gate.as_ref().map(Gate::read).transpose();
    let wish = Wish {
        url: format!("http://{address}"),
        authority: address.to_string(),
        strict: arguments.strict,
        undo: arguments.undo,
        registries: arguments.registries.iter().map(ToString::to_string).collect(),
        gate: gate.map_err(|error| Failure::Usage(format!("[server] gate_file: {error}")))?,
        settings: &settings,
    };
    let files = Files::under(&arguments.root);
    let plan = match arguments.runtime {
        Runtime::Containerd => containerd::plan(&files, &wish),
        Runtime::Docker => docker::plan(&files, &wish),
        Runtime::Podman | Runtime::Crio => containers::plan(&files, &wish),
    }
    .map_err(Failure::Failed)?;
    let changes: Vec<&Change> = plan.changes.iter().filter(|change| change.is_one()).collect();
    for change in &changes {
        if arguments.dry_run {
            // The gate's value is for the runtime and nobody's eyes.
            let gate = wish.gate.as_ref().map_or("", |gate| gate.value().reveal());
            let shown = change.shown();
            print!("{}", if gate.is_empty() { shown } else { shown.replace(gate, "(not shown)") });
        } else {
            change.apply().map_err(Failure::Failed)?;
            println!("{}", change.done());
        }
    }
    match (changes.is_empty(), arguments.dry_run) {
        (true, _) => println!("nothing to change: it is as it should be"),
        (false, true) => println!("nothing was changed: this is what would be"),
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

/// Whether systemd holds the port for us.
fn is_held(files: &Files) -> bool {
    ["sockets.target.wants", "sockets.target.requires"]
        .iter()
        .any(|directory| files.path(&format!("/etc/systemd/system/{directory}/larder.socket")).exists())
}
