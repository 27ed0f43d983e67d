//! `larder setup-node`: what the init container of the DaemonSet runs, below the directory where the node's
//! `/etc/containerd` is mounted.
//!
//! Promises: `hosts.toml` is written where containerd's configuration names one directory of such files, and nothing else
//! is changed; a node on which that is not so keeps what it has, and one line says what is missing, in the container's log
//! and in its termination message, where `kubectl` shows it. Neither keeps the daemon from running. `--undo` removes what
//! `larder setup containerd` wrote.
//!
//! Deliberately not here: how a `hosts.toml` is edited (`setup`); finding out that the DaemonSet is being removed. A pod
//! that ends does not know whether another one follows, so that whoever removes the DaemonSet says so first, by `--undo`.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Args, Command, FromArgMatches};

use super::containerd_config::{CONFIG, config_of};
use super::context::Context;
use super::failure::Failure;
use super::setup;

/// The part of the node's filesystem that the init container sees.
const MOUNTED: &str = "/etc/containerd/";

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
    NotMounted(String),
    CriOff,
    OldForm,
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetUp(directory) => write!(f, "set up: containerd pulls through Larder ({directory})"),
            Self::SetBack => f.write_str("set back: containerd does not pull through Larder"),
            Self::NotSetUp(why) => write!(f, "not set up: {why}"),
        }
    }
}

impl fmt::Display for NotSetUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let add =
            "set config_path = \"/etc/containerd/certs.d\" there, restart containerd, then delete this pod";
        match self {
            Self::NoFile => write!(
                f,
                "there is no {CONFIG}: if this node's containerd is configured elsewhere (k3s, RKE2, microk8s, k0s), see docs/kubernetes.md"
            ),
            Self::Unreadable(why) => f.write_str(why),
            Self::NoConfigPath => write!(f, "{CONFIG} has no config_path; {add}"),
            Self::Several(path) => write!(
                f,
                "config_path in {CONFIG} is {path:?}, a list, of which containerd 2.1 and later read no directory; {add}"
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
                "{CONFIG} names registries in the old form (registry.mirrors, registry.configs), which excludes config_path: move them to hosts.toml files"
            ),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let outcome = set_up(arguments, context)?;
    let level = if matches!(outcome, Outcome::NotSetUp(_)) { "WARN" } else { "INFO" };
    println!("{level} setup-node: {outcome}");
    if let Some(file) = &arguments.message {
        fs::write(file, outcome.to_string())
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    }
    Ok(())
}

fn set_up(arguments: &Arguments, context: &Context) -> Result<Outcome, Failure> {
    let root = &arguments.root;
    // A configuration of Larder's that cannot be used is told whatever the node's is.
    context.settings()?;
    let directory = read(root).and_then(|config| directory_of(&config, |path| below(root, path).is_dir()));
    let directory = match (directory, arguments.undo) {
        (Ok(directory), _) => directory,
        (Err(why), false) => return Ok(Outcome::NotSetUp(why)),
        // Nothing that Larder wrote is read there.
        (Err(_), true) => String::new(),
    };
    let mut words = vec!["setup".into(), "containerd".into(), "--root".into(), root.as_os_str().to_owned()];
    if arguments.undo {
        words.push("--undo".into());
    }
    let words = setup::Arguments::augment_args(Command::new("setup")).try_get_matches_from(words);
    let words =
        words.and_then(|words| setup::Arguments::from_arg_matches(&words)).map_err(Failure::failed)?;
    match setup::run(&words, context) {
        Ok(()) if arguments.undo => Ok(Outcome::SetBack),
        Ok(()) => Ok(Outcome::SetUp(directory)),
        Err(Failure::Failed(why)) => Ok(Outcome::NotSetUp(NotSetUp::Failed(why))),
        Err(usage) => Err(usage),
    }
}

fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}

fn read(root: &Path) -> Result<String, NotSetUp> {
    match fs::read_to_string(below(root, CONFIG)) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(NotSetUp::NoFile),
        Err(error) => Err(NotSetUp::Unreadable(format!("cannot read {CONFIG}: {error}"))),
    }
}

/// The one directory of `hosts.toml` that a configuration names; `is_there` says whether a directory is seen from here.
fn directory_of(config: &str, is_there: impl Fn(&str) -> bool) -> Result<String, NotSetUp> {
    let cri = config_of(config).map_err(NotSetUp::Unreadable)?;
    if cri.is_off() {
        return Err(NotSetUp::CriOff);
    }
    if !cri.old_settings().is_empty() {
        return Err(NotSetUp::OldForm);
    }
    let path = cri.config_path().ok_or(NotSetUp::NoConfigPath)?;
    if path.contains(':') {
        return Err(NotSetUp::Several(path));
    }
    // A path with `..` may lead anywhere.
    let is_mounted = path.starts_with(MOUNTED) && !path.split('/').any(|part| part == "..");
    if is_mounted || is_there(&path) { Ok(path) } else { Err(NotSetUp::NotMounted(path)) }
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
            (config(""), Err("no config_path")),
            (String::new(), Err("no config_path")),
            ("version = 2\ndisabled_plugins = [\"cri\"]\n".to_owned(), Err("disabled_plugins")),
            (old.to_owned(), Err("old form")),
            ("version = [".to_owned(), Err("malformed")),
        ] {
            match (directory_of(&text, |path| path == "/mounted"), expected) {
                (Ok(found), Ok(directory)) => assert_eq!(found, directory),
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
