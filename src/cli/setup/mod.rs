//! `larder setup RUNTIME`: makes a runtime pull through this cache.
//!
//! Promises: what was in a file stays in it; a file is either as it was or whole and well formed; a second setup
//! changes nothing; `--undo` removes what setup wrote and no more; `--dry-run` shows all of it first.
//!
//! Deliberately not here: restarting a runtime. The operator chooses when.

mod change;
mod containerd;
mod containers;
mod distributions;
mod docker;
#[cfg(test)]
mod for_tests;
mod hosts;
pub(super) mod node;
mod plan;
mod rancher;
mod signed;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::context::{Context, GOES_ON};
use super::daemon::{InEffect, reached_at};
use super::failure::Failure;
use super::output::{print, print_line, warn};
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::runtime::{Runtime, distributions};
use crate::cli::units::socket_unit::held;
use crate::config::Settings;
use crate::listener::Listen;
use crate::reference::Registry;
use crate::serve::Gate;
use change::Change;
pub(super) use containerd::{HOSTS, LACKS_VERSION, LOGINS, LOGINS_REMEDY, first_directory, registry_of};
pub(super) use containers::BEST_KNOWN;
pub(super) use distributions::{MICROK8S_HOSTS, judged_list, k0s_hosts};
pub(super) use hosts::listed as listed_hosts;
use plan::{SetupPlan, SetupRequest};
pub(super) use rancher::REWRITE_REMEDY;

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
    /// For these registries only; may be repeated [default: all for containerd; the configured and best known for
    /// podman and crio; docker.io for docker]
    #[arg(long = "registry", value_name = "HOST")]
    registries: Vec<crate::reference::Registry>,
    /// The root of the filesystem to work on, such as that of a machine image
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let machine = Machine::under(&arguments.root);
    let (mut request, address) = request(&machine, context, arguments.undo)?;
    request.strict = arguments.strict;
    request.registries = arguments.registries.iter().map(ToString::to_string).collect();
    let mut shown = Ok(());
    for runtime in arguments.runtime.meant(&machine) {
        request.runtime = runtime.name();
        let mut plan = plan(runtime, &machine, &request).map_err(Failure::Failed)?;
        if runtime == Runtime::Containerd {
            plan.notes.extend(distributions(&machine).into_iter().map(|other| {
                format!("{0} is here too, with a containerd of its own: larder setup {0}", other.name())
            }));
        }
        match carry_out(plan, arguments.dry_run, &machine, &request) {
            // The other runtimes are set up although the output is not read any more.
            Err(Failure::ReaderGone) => shown = Err(Failure::ReaderGone),
            done => done?,
        }
    }
    shown?;
    address.map_or(Ok(()), |address| warn_of_port(address, &machine))
}

/// Writes the `hosts.toml` of this cache below these directories, or removes what was written there, and changes
/// nothing else.
pub(super) fn hosts_alone(
    machine: &Machine,
    directories: &[String],
    undo: bool,
    context: &Context,
) -> Result<(), Failure> {
    let (request, _) = request(machine, context, undo)?;
    let mut plan = SetupPlan::default();
    for directory in directories {
        let done = match undo {
            true => containerd::hosts_undone(machine, directory, &mut plan),
            false => containerd::hosts(machine, &request, directory, &mut plan),
        };
        done.map_err(Failure::Failed)?;
    }
    carry_out(plan, false, machine, &request)
}

/// What a setup is made for, and where this cache listens. To undo one needs neither an address nor the gate nor a
/// configuration that can be used: a package goes with whatever is configured.
fn request(
    machine: &Machine,
    context: &Context,
    undo: bool,
) -> Result<(SetupRequest, Option<SocketAddr>), Failure> {
    let (settings, listening) = match listening(machine, context) {
        Ok((settings, listening)) => (Some(settings), listening),
        Err(_) if undo => (None, Vec::new()),
        Err(error) => return Err(error),
    };
    let settings = settings.as_ref();
    let address = listening.iter().find_map(|at| match at {
        Listen::Tcp(at) if at.ip().is_loopback() => Some(*at),
        // Every address is the loopback's too.
        Listen::Tcp(at) if at.ip().is_unspecified() => Some((Ipv4Addr::LOCALHOST, at.port()).into()),
        _ => None,
    });
    if address.is_none() && !undo {
        return Err(Failure::usage(
            "this cache listens on no loopback address: a runtime would send its credentials through the network",
        ));
    }
    let gate = settings
        .filter(|_| !undo)
        .and_then(|settings| settings.serve.gate.as_ref())
        .map(Gate::read)
        .transpose();
    let configured = settings.into_iter().flat_map(|settings| settings.upstream.registries.keys());
    let authority = address.map_or_else(String::new, |address| address.to_string());
    let request = SetupRequest {
        runtime: Runtime::Containerd.name(),
        url: address.map_or_else(String::new, |address| format!("http://{address}")),
        authority,
        authorities: reached_at(&listening).iter().map(ToString::to_string).collect(),
        strict: false,
        undo,
        registries: Vec::new(),
        configured: configured.map(ToString::to_string).collect(),
        default_registry: settings.map_or_else(Registry::docker_hub, |it| it.serve.default_registry.clone()),
        gate: gate.map_err(|error| Failure::usage(format!("[server] gate_file: {error}")))?,
    };
    Ok((request, address.filter(|_| !undo)))
}

fn plan(runtime: Runtime, machine: &Machine, request: &SetupRequest) -> Result<SetupPlan, String> {
    match runtime {
        Runtime::Containerd => containerd::plan(machine, request),
        Runtime::Docker => docker::plan(machine, request),
        Runtime::Podman | Runtime::Crio => containers::plan(machine, request),
        Runtime::K3s => rancher::plan(machine, request, &rancher::K3S),
        Runtime::Rke2 => rancher::plan(machine, request, &rancher::RKE2),
        Runtime::Microk8s => distributions::microk8s(machine, request),
        Runtime::K0s => distributions::k0s(machine, request),
    }
}

/// Shows the changes, or makes them: all of them before any of it is printed, so that an output that is not read leaves
/// none out.
fn carry_out(
    plan: SetupPlan,
    dry_run: bool,
    machine: &Machine,
    request: &SetupRequest,
) -> Result<(), Failure> {
    let changes: Vec<&Change> = plan.changes.iter().filter(|change| change.changes_anything()).collect();
    let mut said = String::new();
    for change in &changes {
        if dry_run {
            // The gate's value is for the runtime alone.
            let gate = request.gate.as_ref().map_or("", |gate| gate.value().reveal());
            let shown = change.difference(plan.shown);
            said += &if gate.is_empty() { shown } else { shown.replace(gate, "(not shown)") };
        } else if let Err(why) = change.apply(machine) {
            // What was changed before is said too.
            let _ = print(&said);
            return Err(Failure::Failed(why));
        } else {
            said += &format!("{}\n", change.outcome());
        }
    }
    match (changes.is_empty(), dry_run) {
        (true, _) => said += "nothing to change\n",
        (false, true) => said += "nothing was changed: this is what would change\n",
        (false, false) => {
            let restart = plan.restart.map(|restart| format!("takes effect with: {restart}\n"));
            said += &restart.unwrap_or_default();
        }
    }
    plan.notes.iter().for_each(|note| said += &format!("note: {note}\n"));
    print(&said)
}

fn warn_of_port(address: SocketAddr, machine: &Machine) -> Result<(), Failure> {
    if address.port() < 1_024 || !held(machine).is_empty() {
        return Ok(());
    }
    print_line(&format!(
        "note: while Larder is not running any local user may take port {} and collect credentials; \
         install its socket unit, which holds the port, or use one below 1024",
        address.port()
    ))
}

/// The settings, and where this cache listens: as the running daemon says; where none runs, or on another machine, as
/// its socket unit says, which stands before `[server] listen`.
fn listening(machine: &Machine, context: &Context) -> Result<(Settings, Vec<Listen>), Failure> {
    let (settings, said) = if machine.is_this_one() {
        let asked = InEffect::ask(context)?;
        asked.mistakes.iter().for_each(|mistakes| warn(&format!("{mistakes}\n{GOES_ON}")));
        let said = asked.daemon.is_ok().then(|| asked.listening());
        (asked.settings, said)
    } else {
        (context.settings()?, None)
    };
    let listening = said.unwrap_or_else(|| {
        let held = held(machine).into_iter().map(|held| held.at);
        held.chain(settings.listen.iter().cloned()).collect()
    });
    Ok((settings, listening))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// All directories and files below a directory.
    fn tree(directory: &std::path::Path) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.extend(tree(&path));
            }
            all.push(path);
        }
        all.sort();
        all
    }

    #[test]
    fn undoing_a_setup_leaves_no_directory_that_it_made_and_takes_none_that_was_there() {
        for (runtime, there) in [
            (Runtime::Containerd, "etc/containerd/certs.d/_default"),
            (Runtime::K3s, "etc/rancher/k3s"),
            (Runtime::Rke2, "etc/rancher/rke2"),
            (Runtime::Microk8s, "var/snap/microk8s/current/args"),
            (Runtime::K0s, "etc/k0s/containerd.d/certs.d"),
            (Runtime::Docker, "etc/docker"),
            (Runtime::Podman, "etc/containers"),
        ] {
            for is_there in [false, true] {
                let (root, machine) = for_tests::machine(&[]);
                if is_there {
                    fs::create_dir_all(root.path().join(there)).unwrap();
                }
                let before = tree(root.path());
                let apply = |undo: bool| {
                    let request =
                        SetupRequest { undo, ..for_tests::request(runtime.name(), "127.0.0.1:5050") };
                    let plan = plan(runtime, &machine, &request).unwrap();
                    let changes = plan.changes.into_iter().filter(Change::changes_anything);
                    let apply = |change: Change| {
                        change.apply(&machine).unwrap();
                        change.outcome()
                    };
                    changes.map(apply).collect::<Vec<_>>()
                };
                let said = apply(false).concat();
                assert!(said.contains("written: ") && !said.contains("as it was"), "{said}");
                assert_eq!(apply(false), [""; 0], "twice is once");
                assert_ne!(tree(root.path()), before);
                apply(true);
                assert_eq!(tree(root.path()), before, "{}", runtime.name());
            }
        }
    }

    #[test]
    fn undoing_a_setup_whose_file_others_changed_or_removed_gives_back_its_directories_too() {
        const OURS: &str = "etc/containers/registries.conf.d/010-larder.conf";
        for there in ["", "etc/containers", "etc/containers/registries.conf.d"] {
            for is_removed in [false, true] {
                let (root, machine) = for_tests::machine(&[]);
                fs::create_dir_all(root.path().join(there)).unwrap();
                let before = tree(root.path());
                let apply = |undo: bool| {
                    let request = SetupRequest { undo, ..for_tests::request("podman", "127.0.0.1:5050") };
                    let plan = plan(Runtime::Podman, &machine, &request).unwrap();
                    let changes = plan.changes.into_iter().filter(Change::changes_anything);
                    let said = changes.map(|change| {
                        change.apply(&machine).unwrap();
                        change.outcome()
                    });
                    said.collect::<String>()
                };
                apply(false);
                let file = root.path().join(OURS);
                if is_removed {
                    fs::remove_file(file).unwrap();
                } else {
                    fs::write(&file, fs::read_to_string(&file).unwrap() + "# mine\n").unwrap();
                    apply(false);
                    assert_eq!(apply(false), "", "twice is once");
                }
                let said = apply(true);
                assert_eq!(tree(root.path()), before, "{there:?} {is_removed}");
                assert!(said.starts_with("removed: ") && !said.contains("written"), "{said}");
            }
        }
    }

    #[test]
    fn undoing_needs_no_loopback_address_and_no_gate() {
        let root = tempfile::tempdir().unwrap();
        let config = root.path().join("larder.toml");
        let context = || Context {
            file: Some(config.clone()),
            environment: crate::config::Environment { root: true, ..Default::default() },
        };
        let machine = Machine::under(root.path());
        let directories = [HOSTS.to_owned()];
        fs::write(&config, "[server]\nlisten = [\"127.0.0.1:505\"]\n").unwrap();
        hosts_alone(&machine, &directories, false, &context()).unwrap();
        assert_eq!(machine.names(HOSTS), ["_default"]);
        fs::write(&config, "[server]\nlisten = [\"unix:/run/larder/larder.sock\"]\ngate_header = \"X-Key\"\ngate_file = \"/nothing\"\n").unwrap();
        assert!(hosts_alone(&machine, &directories, false, &context()).is_err());
        hosts_alone(&machine, &directories, true, &context()).unwrap();
        assert_eq!(machine.names(HOSTS), [""; 0]);
    }
}
