//! The node's docker config: found where kubelet finds it, or where the configuration says, and read again when it
//! changes.
//!
//! Of kubelet's eight files the first valid one is used, and nothing is merged. Files that the configuration names are
//! all used, in their order. A file that was valid and is now invalid keeps its old content until it is valid again: a
//! write that is under way must not lock a node out.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::docker_config::{
    BYTES_MAX, DockerConfig, HttpHeaders, StoredCredential, read_current, read_legacy,
};
use super::keyring::{Keyring, warn_of_dropped};
use super::search::KubeletDirectories;
use crate::support::open_file::read_regular;
use crate::support::tasks::Tasks;

/// The files are checked for changes at most this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Where the node's credentials are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeFiles {
    /// On kubelet's search path.
    Kubelet(KubeletDirectories),
    /// In these files; none means that the node has no credentials.
    Named(Vec<PathBuf>),
}

/// One entry of a docker config, with the file that it is from.
#[derive(Debug, Clone)]
pub(super) struct ConfigEntry {
    pub(super) file: Arc<Path>,
    pub(super) stored: StoredCredential,
    pub(super) headers: Arc<HttpHeaders>,
}

/// The keyring of the node's docker config. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct NodeConfig(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: NodeFiles,
    state: Mutex<State>,
    tasks: Tasks,
}

#[derive(Debug)]
struct State {
    checked: Option<Instant>,
    stamps: Vec<Stamp>,
    configs: Vec<(Arc<Path>, DockerConfig)>,
    ring: Arc<Keyring<ConfigEntry>>,
    /// The files that cannot be used, and why.
    problems: Vec<String>,
}

/// Device, inode, time of change and size: what tells a file from its former content. A symbolic link has those of its
/// target.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

impl NodeConfig {
    pub(super) fn new(files: NodeFiles, tasks: Tasks) -> Self {
        let state = State {
            checked: None,
            stamps: Vec::new(),
            configs: Vec::new(),
            ring: Arc::default(),
            problems: Vec::new(),
        };
        Self(Arc::new(Inner { files, state: Mutex::new(state), tasks }))
    }

    /// The files that are read.
    pub(super) fn files(&self) -> &NodeFiles {
        &self.0.files
    }

    /// The keyring as the files are now, or were a second ago.
    pub(super) async fn ring(&self) -> Arc<Keyring<ConfigEntry>> {
        {
            let state = self.0.state.lock();
            if state.checked.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
                return Arc::clone(&state.ring);
            }
        }
        let this = self.clone();
        let refreshed = self.0.tasks.spawn_blocking(move || this.refresh()).await;
        refreshed.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the docker config ended in a defect of Larder");
            Arc::clone(&self.0.state.lock().ring)
        })
    }

    /// The files that are used, for people. Blocks.
    pub(super) fn in_use(&self) -> Vec<PathBuf> {
        self.refresh();
        self.0.state.lock().configs.iter().map(|(path, _)| path.to_path_buf()).collect()
    }

    /// The files that could not be used when they were last read, and why, for people.
    pub(super) fn problems(&self) -> Vec<String> {
        self.0.state.lock().problems.clone()
    }

    /// The keyring as the files are now. Blocks.
    fn refresh(&self) -> Arc<Keyring<ConfigEntry>> {
        let mut state = self.0.state.lock();
        state.checked = Some(Instant::now());
        let (candidates, only_first) = match &self.0.files {
            NodeFiles::Kubelet(directories) => (directories.docker_configs(), true),
            NodeFiles::Named(files) => (files.clone(), false),
        };
        let stamps: Vec<Stamp> = candidates.iter().map(|path| stamp(path)).collect();
        if stamps != state.stamps {
            state.stamps = stamps;
            (state.configs, state.problems) = read_configs(candidates, only_first, &state.configs);
            state.ring = Arc::new(merged(&state.configs));
        }
        Arc::clone(&state.ring)
    }
}

/// The valid files of `candidates`, or only the first of them, and what is wrong with the others that were looked at.
/// One that has become invalid keeps what it had in `before`.
fn read_configs(
    candidates: Vec<PathBuf>,
    only_first: bool,
    before: &[(Arc<Path>, DockerConfig)],
) -> (Vec<(Arc<Path>, DockerConfig)>, Vec<String>) {
    let (mut configs, mut problems) = (Vec::new(), Vec::new());
    for path in candidates {
        let found = match read_file(&path) {
            Ok(found) => found.map(|config| (Arc::from(path.as_path()), config)),
            Err(why) => {
                let old = before.iter().find(|(old, _)| **old == *path).cloned();
                let keeps_old_content = old.is_some();
                tracing::warn!(path = %path.display(), why, keeps_old_content, "a docker config cannot be used");
                let kept = if keeps_old_content { "; what it had before is still used" } else { "" };
                problems.push(format!("the docker config {} cannot be used: {why}{kept}", path.display()));
                old
            }
        };
        configs.extend(found);
        if only_first && !configs.is_empty() {
            break;
        }
    }
    (configs, problems)
}

fn merged(configs: &[(Arc<Path>, DockerConfig)]) -> Keyring<ConfigEntry> {
    let mut ring = Keyring::default();
    for (file, config) in configs {
        let headers = Arc::new(config.headers.clone());
        let mut dropped = 0;
        for (key, stored) in &config.entries {
            let (file, headers) = (Arc::clone(file), Arc::clone(&headers));
            let entry = ConfigEntry { file, stored: stored.clone(), headers };
            dropped += usize::from(!ring.add(key, entry));
        }
        warn_of_dropped(dropped);
        tracing::info!(path = %file.display(), entries = config.entries.len(), "docker config in use");
    }
    ring
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

/// A docker config; `None` where there is no file. Blocks.
///
/// # Errors
/// Why the file cannot be used; never quotes a secret.
fn read_file(path: &Path) -> Result<Option<DockerConfig>, String> {
    let Some(content) = read_bounded(path)? else {
        return Ok(None);
    };
    let legacy = path.file_name().is_some_and(|name| name == ".dockercfg");
    let config = if legacy { read_legacy(&content) } else { read_current(&content) };
    config.map(Some).map_err(|error| error.to_string())
}

/// The content of a regular file of at most [`BYTES_MAX`] bytes; `None` where there is none. Blocks.
///
/// # Errors
/// Why the file cannot be read.
pub(super) fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match read_regular(path, BYTES_MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::credential::Credential;
    use super::*;
    use crate::support::log_for_tests::Log;

    const ONE: &str = r#"{"auths": {"reg.test": {"auth": "b25lOnA="}}}"#;
    const TWO: &str = r#"{"auths": {"reg.test": {"auth": "dHdvOnA="}}}"#;

    fn names(node: &NodeConfig) -> Vec<String> {
        // Without the interval: the tests are about what is read, not when.
        let ring = node.refresh();
        let name = |entry: &ConfigEntry| match &entry.stored {
            StoredCredential::Inline(Some(Credential::Password { username, .. })) => username.clone(),
            other => format!("{other:?}"),
        };
        ring.lookup("reg.test/app").iter().map(|(_, entry)| name(entry)).collect()
    }

    fn node(files: NodeFiles) -> NodeConfig {
        NodeConfig::new(files, Tasks::default())
    }

    fn kubelet(directory: &Path) -> NodeConfig {
        let directories = KubeletDirectories {
            kubelet_root: directory.join("root"),
            kubelet_cwd: directory.join("cwd"),
            home: Some(directory.join("home")),
        };
        for sub in ["root", "cwd", "home/.docker"] {
            fs::create_dir_all(directory.join(sub)).unwrap();
        }
        node(NodeFiles::Kubelet(directories))
    }

    #[test]
    fn the_first_valid_file_is_used_and_nothing_is_merged() {
        let directory = tempfile::tempdir().unwrap();
        let node = kubelet(directory.path());
        assert!(names(&node).is_empty());
        fs::write(directory.path().join("home/.dockercfg"), r#"{"reg.test": {"auth": "bGVnYWN5OnA="}}"#)
            .unwrap();
        assert_eq!(names(&node), ["legacy"]);
        fs::write(directory.path().join("home/.docker/config.json"), TWO).unwrap();
        assert_eq!(names(&node), ["two"]);
        fs::write(directory.path().join("root/config.json"), "{broken").unwrap();
        assert_eq!(names(&node), ["two"], "an invalid file is passed over");
        assert!(node.problems()[0].contains("root/config.json cannot be used"), "{:?}", node.problems());
        fs::write(directory.path().join("cwd/config.json"), r#"{"auths": {}}"#).unwrap();
        assert!(names(&node).is_empty(), "a valid file without entries counts too");
        fs::write(directory.path().join("root/config.json"), ONE).unwrap();
        assert_eq!(names(&node), ["one"]);
        fs::remove_file(directory.path().join("root/config.json")).unwrap();
        assert!(names(&node).is_empty());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "this is how others replace the file")]
    fn a_change_is_read_and_an_invalid_file_keeps_its_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let node = kubelet(directory.path());
        let file = directory.path().join("root/config.json");
        fs::write(&file, ONE).unwrap();
        assert_eq!(names(&node), ["one"]);
        fs::write(directory.path().join("new"), TWO).unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        assert_eq!(names(&node), ["two"], "an atomic replacement");
        fs::write(&file, "{half").unwrap();
        assert_eq!(names(&node), ["two"], "half a write");
        assert!(node.problems()[0].contains("still used"), "{:?}", node.problems());
        fs::write(&file, ONE).unwrap();
        assert_eq!(names(&node), ["one"]);
        assert_eq!(node.problems(), [""; 0]);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "this is how kubelet swaps the files of a mounted Secret")]
    fn the_symbolic_links_of_a_mounted_secret_are_followed_when_they_swap() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, content) in [("v1", ONE), ("v2", TWO)] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("config.json"), content).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/config.json", at("config.json")).unwrap();
        let node = node(NodeFiles::Named(vec![at("config.json")]));
        assert_eq!(names(&node), ["one"]);
        std::os::unix::fs::symlink("v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(names(&node), ["two"]);
    }

    #[test]
    fn files_that_are_named_are_all_used() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a.json"), directory.path().join("b.json"));
        fs::write(&a, ONE).unwrap();
        fs::write(&b, TWO).unwrap();
        let node = node(NodeFiles::Named(vec![b, directory.path().join("missing"), a]));
        assert_eq!(names(&node), ["two", "one"]);
        assert_eq!(node.in_use().len(), 2);
    }
    #[test]
    fn a_config_with_many_names_that_are_no_hosts_is_one_warning_and_the_others_count() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let helpers = r#""a b": "x", "c d": "x", "reg.test": "ecr", "e:f": "x""#;
        fs::write(&file, format!(r#"{{"credHelpers": {{{helpers}}}}}"#)).unwrap();
        let (log, node) = (Log::of_this_thread(), node(NodeFiles::Named(vec![file])));
        for _ in 0..2 {
            assert_eq!(names(&node).len(), 1);
        }
        let [warning] = &log.lines("WARN")[..] else { panic!("{:?}", log.lines("WARN")) };
        assert!(warning.contains("count=3") && !warning.contains("a b"), "{warning}");
    }
}
