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

use super::containerd_config::{CONFIG, Cri, config_at};
use super::containerd_files::{files, takes_config_path_away};
use super::context::Context;
use super::failure::Failure;
use super::machine::Machine;
use super::output::print_line;
use super::setup;

/// The part of the node's filesystem that the init container sees.
const MOUNTED: &str = "/etc/containerd/";

/// What is to be done about a `config_path`.
const ADD: &str =
    "set config_path = \"/etc/containerd/certs.d\" there, restart containerd, then delete this pod";

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
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

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
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
    match setup::hosts_alone(&machine, &directories, arguments.undo, context) {
        Ok(()) => Ok(outcome),
        Err(Failure::Failed(why)) => Ok(Outcome::NotSetUp(NotSetUp::Failed(why))),
        Err(usage) => Err(usage),
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
    let mut directories: Vec<String> = named.map(|path| setup::first_directory(Some(&path))).collect();
    directories.push(setup::HOSTS.to_owned());
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
        return Err(NotSetUp::Unreadable(setup::LACKS_VERSION.to_owned()));
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
    let path = if is_list { setup::first_directory(Some(&path)) } else { path };
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
mod tests {
    use super::*;

    fn config(path: &str) -> String {
        format!("version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '{path}'\n")
    }

    #[test]
    fn only_a_configuration_that_names_one_mounted_directory_is_set_up() {
        let old = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n  endpoint = [\"https://x\"]\n";
        for (text, expected) in [
            (config("/etc/containerd/certs.d"), Ok("/etc/containerd/certs.d")),
            (config("/etc/containerd/hosts.d"), Ok("/etc/containerd/hosts.d")),
            (config("/mounted"), Ok("/mounted")),
            (config("/etc/docker/certs.d"), Err("mount it")),
            (config("/etc/containerd/../shadow.d"), Err("mount it")),
            (config("/etc/containerd/certs.d:/etc/docker/certs.d"), Err("a list")),
            (
                config("/etc/containerd/certs.d:/etc/docker/certs.d")
                    + "[plugins.'io.containerd.cri.v1.images']\n  discard_unpacked_layers = true\n",
                Ok("/etc/containerd/certs.d"),
            ),
            (
                "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n".to_owned(),
                Ok("/etc/containerd/certs.d"),
            ),
            (
                "[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d'\n".to_owned(),
                Err("no version"),
            ),
            (config(""), Err("no config_path")),
            (String::new(), Err("no config_path")),
            ("version = 2\ndisabled_plugins = [\"cri\"]\n".to_owned(), Err("disabled_plugins")),
            (old.to_owned(), Err("old form")),
            (
                "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d'\n[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.corp'.tls]\n".to_owned(),
                Err("old form"),
            ),
            (
                config("/etc/containerd/certs.d")
                    + "[plugins.'io.containerd.cri.v1.images'.registry.configs.'r.corp'.auth]\nusername = 'u'\n",
                Ok("/etc/containerd/certs.d"),
            ),
            ("version = [".to_owned(), Err("malformed")),
        ] {
            let found = config_at(CONFIG, &text).map_err(NotSetUp::Unreadable).and_then(|cri| {
                let parts = [Part { path: CONFIG.to_owned(), certain: true, cri }];
                directory_of(&parts, |path| path == "/mounted")
            });
            match (found, expected) {
                (Ok((found, readers)), Ok(directory)) => {
                    let expected = if text.contains("version = 2") { Readers::Old } else { Readers::All };
                    assert_eq!((found.as_str(), readers), (directory, expected));
                }
                (Err(why), Err(part)) => assert!(why.to_string().contains(part), "{why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    /// A node's root with a `config.toml`, and what the init container makes of it.
    struct Node(tempfile::TempDir);

    impl Node {
        fn new(config: Option<&str>) -> Self {
            let node = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(node.path("etc/containerd")).unwrap();
            if let Some(config) = config {
                fs::write(node.path("etc/containerd/config.toml"), config).unwrap();
            }
            fs::write(node.path("larder.toml"), "[server]\nlisten = [\"127.0.0.1:505\"]\n").unwrap();
            node
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn run(&self, undo: bool) -> String {
            let message = self.path("message");
            let arguments =
                Arguments { root: self.0.path().to_owned(), undo, message: Some(message.clone()) };
            let environment = crate::config::Environment { root: true, ..Default::default() };
            run(&arguments, &Context { file: Some(self.path("larder.toml")), environment }).unwrap();
            fs::read_to_string(message).unwrap()
        }

        fn hosts(&self) -> Option<String> {
            fs::read_to_string(self.path("etc/containerd/certs.d/_default/hosts.toml")).ok()
        }
    }

    #[test]
    fn the_nodes_configuration_is_never_changed_and_a_removal_takes_back_what_was_written() {
        let text = config("/etc/containerd/certs.d");
        let node = Node::new(Some(&text));
        assert!(node.run(false).starts_with("set up: "));
        assert!(node.hosts().unwrap().contains("http://127.0.0.1:505"));
        assert!(node.run(false).starts_with("set up: "), "the next pod of a rolling update");
        assert!(node.run(true).starts_with("set back: "));
        assert_eq!(node.hosts(), None);
        assert_eq!(fs::read_to_string(node.path("etc/containerd/config.toml")).unwrap(), text);
    }

    #[test]
    fn files_that_do_not_say_the_same_are_left_as_they_are() {
        let text = config("/etc/containerd/certs.d");
        let node = Node::new(Some(&text));
        fs::create_dir_all(node.path("etc/containerd/conf.d")).unwrap();
        let drop_in = node.path("etc/containerd/conf.d/site.toml");
        let theirs = config("/site/certs.d");
        fs::write(&drop_in, &theirs).unwrap();
        let said = node.run(false);
        assert!(said.starts_with("not set up: ") && said.contains("conf.d/site.toml"), "{said}");
        assert_eq!(node.hosts(), None);
        assert_eq!(fs::read_to_string(&drop_in).unwrap(), theirs);
        let list = config("/etc/containerd/certs.d:/etc/docker/certs.d")
            .replace("version = 3", "version = 2")
            .replace("cri.v1.images", "grpc.v1.cri");
        let node = Node::new(Some(&list));
        assert!(node.run(false).starts_with("set up: containerd up to 2.0"));
        assert!(node.hosts().is_some());
        node.run(true);
        assert_eq!(node.hosts(), None);
        assert_eq!(fs::read_to_string(node.path("etc/containerd/config.toml")).unwrap(), list);
    }

    #[test]
    fn a_drop_in_that_takes_the_directory_away_in_containerd_1_is_named() {
        let text = config("/etc/containerd/certs.d")
            .replace("version = 3", "version = 2\nimports = ['/etc/containerd/conf.d/*.toml']")
            .replace("cri.v1.images", "grpc.v1.cri");
        let node = Node::new(Some(&text));
        fs::create_dir_all(node.path("etc/containerd/conf.d")).unwrap();
        let gpu = "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.nvidia]\n";
        fs::write(node.path("etc/containerd/conf.d/gpu.toml"), gpu).unwrap();
        let said = node.run(false);
        assert!(
            said.starts_with("set up: containerd from 2.0 on") && said.contains("conf.d/gpu.toml"),
            "{said}"
        );
        assert!(node.hosts().is_some());
    }

    #[test]
    fn a_node_that_cannot_be_set_up_keeps_what_it_has_and_says_why() {
        for (text, part) in
            [(None, "there is no /etc/containerd/config.toml"), (Some("version = 2\n"), "no config_path")]
        {
            let node = Node::new(text);
            let said = node.run(false);
            assert!(said.starts_with("not set up: ") && said.contains(part), "{said}");
            assert_eq!(node.hosts(), None);
            assert!(node.run(true).starts_with("set back: "));
            assert_eq!(fs::read_to_string(node.path("etc/containerd/config.toml")).ok().as_deref(), text);
        }
        let node = Node::new(Some(&config("/etc/containerd/certs.d")));
        fs::create_dir_all(node.path("etc/containerd/certs.d/_default")).unwrap();
        fs::write(node.path("etc/containerd/certs.d/_default/hosts.toml"), "server = [").unwrap();
        let said = node.run(false);
        assert!(said.contains("malformed"), "{said}");
        assert_eq!(node.hosts().as_deref(), Some("server = ["));
    }
}
