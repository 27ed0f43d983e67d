//! `larder setup-node`: what the init container of the DaemonSet runs, below the directory where the node's
//! `/etc/containerd` is mounted.
//!
//! Promises: `hosts.toml` is written where containerd's configuration names one directory of such files, and nothing
//! else is changed; a node on which that is not so keeps what it has, and one line says what is missing, in the
//! container's log and in its termination message, where `kubectl` shows it. Neither keeps the daemon from running.
//! containerd's own configuration is never changed, since that would need a restart. `--undo` removes what is marked in
//! `hosts.toml`.
//!
//! Deliberately not here: how a `hosts.toml` is edited (`setup`); finding out that the DaemonSet is being removed. A
//! pod that ends does not know whether another one follows, so that the operator who removes the DaemonSet says so
//! first, by `--undo`.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use clap::Args;

use super::{HOSTS, LACKS_VERSION, first_directory, hosts_alone};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::print_line;
use crate::cli::runtimes::containerd_config::{CONFIG, Cri, config_at};
use crate::cli::runtimes::containerd_files::{files, takes_config_path_away};
use crate::cli::runtimes::machine::Machine;

/// The part of the node's filesystem that the init container sees.
const MOUNTED: &str = "/etc/containerd/";

/// What is to be done about a `config_path`.
const ADD: &str =
    "set config_path = \"/etc/containerd/certs.d\" there, restart containerd, then delete this pod";

/// What the command takes.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Where the node's /etc/containerd is, without that path
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Remove what an earlier setup wrote
    #[arg(long)]
    undo: bool,
    /// Write the line that says what was done to this file too
    #[arg(long, value_name = "FILE")]
    message: Option<PathBuf>,
}

/// What containerd on the node does now.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It reads this directory, in which Larder is named.
    SetUp(String),
    /// This directory is the first of a list, which containerd reads up to 2.0 only.
    SetUpIfOld(String),
    /// It reads this directory unless it is 1.x, for which this file takes the setting away.
    SetUpIfNew(String, String),
    /// Larder is not named in it any more.
    SetBack,
    /// Nothing was changed, for this reason.
    NotSetUp(NotSetUp),
}

/// Why a node's containerd cannot be set up by `hosts.toml` alone.
#[derive(Debug, PartialEq, Eq)]
enum NotSetUp {
    NoFile,
    Unreadable(String),
    NoConfigPath,
    Several(String),
    Disagree(Vec<String>),
    NotMounted(String),
    CriOff,
    OldForm,
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetUp(directory) => write!(f, "set up: containerd pulls through Larder ({directory})"),
            Self::SetUpIfOld(directory) => write!(
                f,
                "set up: containerd up to 2.0 pulls through Larder ({directory}). config_path in {CONFIG} is a list, of which 2.1 and later read no directory; {ADD}"
            ),
            Self::SetUpIfNew(directory, file) => write!(
                f,
                "set up: containerd from 2.0 on pulls through Larder ({directory}). {file} has a table of the CRI without config_path, which containerd 1.x uses in place of that in {CONFIG}: set config_path = \"{directory}\" in its registry table too, restart containerd, then delete this pod"
            ),
            Self::SetBack => f.write_str("set back: containerd does not pull through Larder"),
            Self::NotSetUp(why) => write!(f, "not set up: {why}"),
        }
    }
}

impl fmt::Display for NotSetUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => write!(
                f,
                "there is no {CONFIG}: if this node's containerd is configured elsewhere (k3s, RKE2, microk8s, k0s), see docs/kubernetes.md"
            ),
            Self::Unreadable(why) => f.write_str(why),
            Self::NoConfigPath => write!(f, "{CONFIG} has no config_path; {ADD}"),
            Self::Several(path) => write!(
                f,
                "config_path in {CONFIG} is {path:?}, a list, of which containerd 2.1 and later read no directory; {ADD}"
            ),
            Self::Disagree(said) => write!(
                f,
                "the files of containerd's configuration do not say the same: {}; give them one config_path",
                said.join(", ")
            ),
            Self::NotMounted(path) => write!(
                f,
                "config_path in {CONFIG} is {path:?}, which this container does not see: mount it below --root"
            ),
            Self::CriOff => {
                write!(f, "{CONFIG} has the CRI in disabled_plugins: no kubelet pulls by this containerd")
            }
            Self::OldForm => write!(
                f,
                "{CONFIG} or a file that it imports names registries in the old form (registry.mirrors, registry.configs.*.tls), which excludes config_path: move them to hosts.toml files"
            ),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

pub(in crate::cli) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let outcome = set_up(arguments, context)?;
    let level = if matches!(outcome, Outcome::NotSetUp(_)) { "WARN" } else { "INFO" };
    if let Some(file) = &arguments.message {
        fs::write(file, outcome.to_string())
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    }
    print_line(&format!("{level} setup-node: {outcome}"))
}

fn set_up(arguments: &Arguments, context: &Context) -> Result<Outcome, Failure> {
    // A configuration of Larder's that cannot be used is told whatever the node's is.
    if !arguments.undo {
        context.settings()?;
    }
    let machine = Machine::under(&arguments.root);
    let parts = read(&machine);
    let (directories, outcome) = if arguments.undo {
        (marked_directories(parts.as_deref().unwrap_or_default()), Outcome::SetBack)
    } else {
        let found = parts.and_then(|parts| directory_of(&parts, |path| machine.has_directory(path)));
        match found {
            Ok((directory, readers)) => (vec![directory.clone()], readers.outcome(directory)),
            Err(why) => return Ok(Outcome::NotSetUp(why)),
        }
    };
    match hosts_alone(&machine, &directories, arguments.undo, context) {
        Ok(()) => Ok(outcome),
        // Whether a daemon can run without its gate's file, or without a loopback address, is for the daemon to say.
        Err(Failure::Failed(why) | Failure::Usage(why)) => Ok(Outcome::NotSetUp(NotSetUp::Failed(why))),
        Err(other) => Err(other),
    }
}

/// A file of containerd's configuration.
struct Part {
    path: String,
    /// Whether it is certain that containerd reads it.
    certain: bool,
    cri: Cri,
}

fn read(machine: &Machine) -> Result<Vec<Part>, NotSetUp> {
    match machine.text(CONFIG) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(NotSetUp::NoFile),
        Err(error) => return Err(NotSetUp::Unreadable(format!("cannot read {CONFIG}: {error}"))),
    }
    let parts = files(machine).map_err(NotSetUp::Unreadable)?.into_iter().map(|file| {
        let text = machine.text_or_empty(&file.path).map_err(|why| NotSetUp::Unreadable(why.into()))?;
        let cri = config_at(&file.path, &text).map_err(NotSetUp::Unreadable)?;
        Ok(Part { path: file.path, certain: file.certain, cri })
    });
    parts.collect()
}

/// Where Larder may have written: in every directory that is named, and where it is named by default.
fn marked_directories(parts: &[Part]) -> Vec<String> {
    let named = parts.iter().filter_map(|part| part.cri.config_path());
    let mut directories: Vec<String> = named.map(|path| first_directory(Some(&path))).collect();
    directories.push(HOSTS.to_owned());
    directories.sort();
    directories.dedup();
    directories
}

/// Which versions of containerd look into a directory.
#[derive(Debug, PartialEq, Eq)]
enum Readers {
    All,
    Old,
    /// Not those for which this file takes the setting away.
    New(String),
}

impl Readers {
    fn outcome(self, directory: String) -> Outcome {
        match self {
            Self::All => Outcome::SetUp(directory),
            Self::Old => Outcome::SetUpIfOld(directory),
            Self::New(file) => Outcome::SetUpIfNew(directory, file),
        }
    }
}

/// The directory of `hosts.toml` that a configuration names, and which containerd looks into it; `is_there` says
/// whether a directory is seen from here.
fn directory_of(parts: &[Part], is_there: impl Fn(&str) -> bool) -> Result<(String, Readers), NotSetUp> {
    if parts.iter().any(|part| part.cri.is_off()) {
        return Err(NotSetUp::CriOff);
    }
    if parts.iter().any(|part| !part.cri.old_settings().is_empty()) {
        return Err(NotSetUp::OldForm);
    }
    if parts.first().is_some_and(|part| part.cri.lacks_version()) {
        return Err(NotSetUp::Unreadable(LACKS_VERSION.to_owned()));
    }
    let said: Vec<(&Part, String)> =
        parts.iter().filter_map(|part| Some((part, part.cri.config_path()?))).collect();
    let certain = said.iter().find(|(part, _)| part.certain).ok_or(NotSetUp::NoConfigPath)?;
    let path = certain.1.clone();
    if said.iter().any(|(_, other)| *other != path) {
        let said = said.iter().map(|(part, path)| format!("{} has config_path {path:?}", part.path));
        return Err(NotSetUp::Disagree(said.collect()));
    }
    let is_list = path.contains(':');
    let is_local = parts.iter().any(|part| part.cri.pulls_locally());
    let last = takes_config_path_away(parts.iter().map(|part| (&part.cri, part.certain)));
    let away = last.and_then(|at| parts.get(at)).map(|part| part.path.clone());
    let is_old = parts.iter().all(|part| part.cri.may_be_old()) && away.is_none();
    if is_list && !is_local && !is_old {
        return Err(NotSetUp::Several(path));
    }
    let path = if is_list { first_directory(Some(&path)) } else { path };
    // A path with `..` may lead anywhere.
    let is_mounted = path.starts_with(MOUNTED) && !path.split('/').any(|part| part == "..");
    if is_mounted || is_there(&path) {
        let readers = if is_list && !is_local { Readers::Old } else { Readers::All };
        Ok((path, away.map_or(readers, Readers::New)))
    } else {
        Err(NotSetUp::NotMounted(path))
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
