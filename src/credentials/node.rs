//! The node's docker config: found where kubelet finds it, or where the operator says, and read again when it changes.
//!
//! Of kubelet's eight places the first file that is valid wins, and nothing is merged. Files that the operator names
//! are all used, in their order. A file that was good and is now broken keeps its old content until it is good again:
//! half a write must not lock a node out.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::docker_config::{BYTES_MAX, DockerConfig, Held, HttpHeaders, read_current, read_legacy};
use super::keyring::Keyring;
use super::search::KubeletDirectories;

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the node's credentials are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeFiles {
    /// On kubelet's search path.
    Kubelet(KubeletDirectories),
    /// In these files; none means that the node has no credentials.
    Named(Vec<PathBuf>),
}

/// One entry of a docker config, with the file it came from.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) file: Arc<Path>,
    pub(super) held: Held,
    pub(super) headers: Arc<HttpHeaders>,
}

/// The node's keyring, kept in step with its files.
#[derive(Debug)]
pub(super) struct Node {
    files: NodeFiles,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked_at: Option<Instant>,
    stamps: Vec<Stamp>,
    read: Vec<(Arc<Path>, DockerConfig)>,
    ring: Arc<Keyring<Entry>>,
}

/// What tells a file from what it was before; a symbolic link counts as what it leads to.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

impl Node {
    pub(super) fn new(files: NodeFiles) -> Self {
        let state = State { looked_at: None, stamps: Vec::new(), read: Vec::new(), ring: Arc::default() };
        Self { files, state: Mutex::new(state) }
    }

    /// Where it looks.
    pub(super) fn files(&self) -> &NodeFiles {
        &self.files
    }

    /// The keyring as the files are now, or were a moment ago.
    pub(super) async fn ring(node: &Arc<Self>) -> Arc<Keyring<Entry>> {
        {
            let state = node.lock();
            if state.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
                return Arc::clone(&state.ring);
            }
        }
        let looking = Arc::clone(node);
        let looked = tokio::task::spawn_blocking(move || looking.look_again()).await;
        looked.unwrap_or_else(|_| Arc::clone(&node.lock().ring))
    }

    /// The files that are in use, for people. Blocks.
    pub(super) fn in_use(&self) -> Vec<PathBuf> {
        self.look_again();
        self.lock().read.iter().map(|(path, _)| path.to_path_buf()).collect()
    }

    /// Blocks.
    fn look_again(&self) -> Arc<Keyring<Entry>> {
        let mut state = self.lock();
        state.looked_at = Some(Instant::now());
        self.look(&mut state);
        Arc::clone(&state.ring)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn candidates(&self) -> Vec<PathBuf> {
        match &self.files {
            NodeFiles::Kubelet(places) => places.candidates(),
            NodeFiles::Named(files) => files.clone(),
        }
    }

    fn look(&self, state: &mut State) {
        let candidates = self.candidates();
        let stamps: Vec<Stamp> = candidates.iter().map(|path| stamp(path)).collect();
        if stamps == state.stamps {
            return;
        }
        state.stamps = stamps;
        let mut read: Vec<(Arc<Path>, DockerConfig)> = Vec::new();
        for path in candidates {
            let kept = || state.read.iter().find(|(old, _)| **old == *path).cloned();
            let found = match read_file(&path) {
                Ok(None) => None,
                Ok(Some(config)) => Some((Arc::from(path.as_path()), config)),
                Err(why) => {
                    let old = kept();
                    let keeps = old.is_some();
                    tracing::warn!(path = %path.display(), why, keeps, "a docker config cannot be used");
                    old
                }
            };
            read.extend(found);
            if matches!(self.files, NodeFiles::Kubelet(_)) && !read.is_empty() {
                break;
            }
        }
        let mut ring = Keyring::default();
        for (file, config) in &read {
            let headers = Arc::new(config.headers.clone());
            for (key, held) in &config.entries {
                let entry =
                    Entry { file: Arc::clone(file), held: held.clone(), headers: Arc::clone(&headers) };
                ring.add(key, entry);
            }
            tracing::info!(path = %file.display(), entries = config.entries.len(), "docker config in use");
        }
        (state.read, state.ring) = (read, Arc::new(ring));
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

/// A docker config; `None` where there is no file.
pub(super) fn read_file(path: &Path) -> Result<Option<DockerConfig>, String> {
    let Some(content) = read_bounded(path)? else {
        return Ok(None);
    };
    let legacy = path.file_name().is_some_and(|name| name == ".dockercfg");
    let config = if legacy { read_legacy(&content) } else { read_current(&content) };
    config.map(Some).map_err(|error| error.to_string())
}

/// The content of a regular file of a sensible size.
pub(super) fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Ok(None),
        Ok(found) if found.len() > BYTES_MAX => return Err(format!("larger than {BYTES_MAX} bytes")),
        _ => {}
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut content = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut content).map_err(|e| e.to_string())?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::super::credential::Credential;
    use super::*;

    const ONE: &str = r#"{"auths": {"reg.test": {"auth": "b25lOnA="}}}"#;
    const TWO: &str = r#"{"auths": {"reg.test": {"auth": "dHdvOnA="}}}"#;

    fn names(node: &Node) -> Vec<String> {
        // Look again at once: what is tested is what is seen, not when.
        let ring = node.look_again();
        let name = |entry: &Entry| match &entry.held {
            Held::Here(Some(Credential::Password { username, .. })) => username.clone(),
            other => format!("{other:?}"),
        };
        ring.lookup("reg.test/app").iter().map(|(_, entry)| name(entry)).collect()
    }

    fn kubelet(directory: &Path) -> Node {
        let places = KubeletDirectories {
            kubelet_root: directory.join("root"),
            kubelet_cwd: directory.join("cwd"),
            home: Some(directory.join("home")),
        };
        for sub in ["root", "cwd", "home/.docker"] {
            fs::create_dir_all(directory.join(sub)).unwrap();
        }
        Node::new(NodeFiles::Kubelet(places))
    }

    #[test]
    fn the_first_valid_file_wins_and_nothing_is_merged() {
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
        fs::write(directory.path().join("cwd/config.json"), r#"{"auths": {}}"#).unwrap();
        assert!(names(&node).is_empty(), "a valid file without entries wins too");
        fs::write(directory.path().join("root/config.json"), ONE).unwrap();
        assert_eq!(names(&node), ["one"]);
        fs::remove_file(directory.path().join("root/config.json")).unwrap();
        assert!(names(&node).is_empty());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "this is how others replace the file")]
    fn a_change_is_seen_and_a_broken_one_keeps_what_was() {
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
        fs::write(&file, ONE).unwrap();
        assert_eq!(names(&node), ["one"]);
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
        let node = Node::new(NodeFiles::Named(vec![at("config.json")]));
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
        let node = Node::new(NodeFiles::Named(vec![b, directory.path().join("missing"), a]));
        assert_eq!(names(&node), ["two", "one"]);
        assert_eq!(node.in_use().len(), 2);
    }
}
