//! The shared tier over a directory: what one node has fetched and verified, another one need not fetch.

mod leases;
mod outage;
mod rights;
mod sharing;
mod wrong_objects;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Method;
use larder::reference::Digest;
use tempfile::TempDir;

use crate::support::image::noise;
use crate::support::registry::{FakeRegistry, Seen};
use crate::support::world::{Larder, files_under};

/// Larger than one part of an upload, so that it has several.
const LAYER: usize = 20_000_000;

/// A registry and a directory that nodes share.
struct Site {
    registry: FakeRegistry,
    shared: TempDir,
    nodes: Vec<TempDir>,
}

impl Site {
    async fn new() -> Self {
        Self {
            registry: FakeRegistry::start().await,
            shared: tempfile::tempdir().unwrap(),
            nodes: Vec::new(),
        }
    }

    /// An empty node.
    fn node(&mut self) -> Larder {
        self.node_with("")
    }

    fn node_with(&mut self, more: &str) -> Larder {
        let state = tempfile::tempdir().unwrap();
        let tier = format!(
            "[tier]\nurl = \"file://{}\"\nregistries = [\"reg.test\"]\n{more}\n",
            self.shared.path().display()
        );
        let larder = Larder::start(state.path(), &[("reg.test", self.registry.url())], &tier);
        self.nodes.push(state);
        larder
    }

    fn blob(&self, len: usize, seed: u64) -> (Bytes, String) {
        let bytes = Bytes::from(noise(len, seed));
        let digest = self.registry.put_blob("team/app", bytes.clone());
        (bytes, path_of(digest))
    }

    /// The objects of a kind, whole paths.
    fn objects(&self, kind: &str) -> Vec<PathBuf> {
        let root = self.shared.path().join("larder/v1").join(kind);
        files_under(&root).into_iter().map(|path| root.join(path)).filter(|path| is_object(path)).collect()
    }

    /// Waits until there are so many objects of a kind.
    async fn has_objects(&self, kind: &str, count: usize) {
        for _ in 0..1_000 {
            if self.objects(kind).len() == count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{:?} and not {count}", self.objects(kind));
    }

    /// Where the lease of a blob is, which the tier does not have.
    async fn lease_of(&mut self, path: &str, bytes: &Bytes) -> PathBuf {
        let node = self.node();
        assert_eq!(&node.get(path).await.body, bytes);
        self.has_objects("blobs", 1).await;
        self.has_objects("leases", 0).await;
        let object = self.objects("blobs").remove(0);
        std::fs::remove_file(&object).unwrap();
        let lease = PathBuf::from(object.display().to_string().replace("/blobs/", "/leases/"));
        std::fs::create_dir_all(lease.parent().unwrap()).unwrap();
        lease
    }

    /// Downloads from the start, each over as many connections as make it fast.
    fn downloads(&self) -> usize {
        let from_start = |seen: &&Seen| is_blob_get(seen) && seen.headers.get("range").is_none();
        self.registry.seen().iter().filter(from_start).count()
    }

    fn blob_gets(&self) -> usize {
        self.registry.count(Method::GET, "/blobs/")
    }
}

/// Not one that is being written.
fn is_object(path: &Path) -> bool {
    !path.display().to_string().contains('#')
}

fn is_blob_get(seen: &Seen) -> bool {
    seen.method == Method::GET && seen.path.contains("/blobs/")
}

fn path_of(digest: Digest) -> String {
    format!("/v2/team/app/blobs/{digest}?ns=reg.test")
}
