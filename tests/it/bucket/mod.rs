//! Nodes that share a bucket of an S3: what one has downloaded, the others need not.

mod access;
mod faults;
mod leases;
mod mirror;
mod names;
mod s3_itself;
mod tls;
mod writes;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::Digest;

use crate::support::client::Reply;
use crate::support::image::{self, noise};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::s3::{BUCKET, FakeS3, KEY_ID, Op, SECRET};
use crate::support::world::Larder;

/// A registry `reg.test`, a bucket, and as many nodes as a test wants.
pub(super) struct Fleet {
    pub(super) registry: FakeRegistry,
    pub(super) s3: FakeS3,
    directory: tempfile::TempDir,
}

/// A node; its store was empty when it was made.
pub(super) struct Node {
    pub(super) larder: Larder,
}

/// A blob of `team/app` that the registry has.
pub(super) struct Blob {
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
}

/// The registries of the tests are at loopback addresses.
const SHARED: &str = "registries = [\"reg.test\", \"evil.test\"]";
/// Waits that a test can sit out.
const TIMES: &str = "connect_timeout = \"500ms\"\nheader_timeout = \"500ms\"\nidle_timeout = \"500ms\"";

impl Fleet {
    pub(super) async fn new() -> Self {
        let (registry, s3) = (FakeRegistry::start().await, FakeS3::start().await);
        Self { registry, s3, directory: tempfile::tempdir().unwrap() }
    }

    /// An empty node with the account of the bucket.
    pub(super) fn node(&self, name: &str) -> Node {
        self.node_with(name, SECRET, TIMES)
    }

    /// An empty node with another secret and other keys in `[tier]`.
    pub(super) fn node_with(&self, name: &str, secret: &str, more: &str) -> Node {
        self.node_at(name, &[("reg.test", self.registry.url())], secret, more)
    }

    pub(super) fn node_at(
        &self,
        name: &str,
        registries: &[(&str, String)],
        secret: &str,
        more: &str,
    ) -> Node {
        let state = self.directory.path().join(name);
        std::fs::create_dir_all(&state).unwrap();
        let more = format!("{}\n{more}", tier(&state, &self.s3.url(), secret));
        Node { larder: Larder::start(&state, registries, &more) }
    }

    /// Puts a blob of so many bytes into `team/app`; another seed makes other bytes.
    pub(super) fn blob(&self, len: usize, seed: u64) -> Blob {
        let bytes = Bytes::from(noise(len, seed));
        Blob { digest: self.registry.put_blob("team/app", bytes.clone()), bytes }
    }

    /// Waits until the bucket has the blob; its key.
    pub(super) async fn shared(&self, blob: &Blob) -> String {
        for _ in 0..4_000 {
            if let Some(key) = self.key(blob) {
                return key;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the bucket has no such blob: {:?}", self.s3.keys());
    }

    /// The key of a blob in the bucket.
    pub(super) fn key(&self, blob: &Blob) -> Option<String> {
        let hex = blob.digest.hex();
        self.s3.keys().into_iter().find(|key| key.contains("/blobs/") && key.contains(&hex))
    }

    /// Has a first node write a blob; then everything that was asked is forgotten.
    pub(super) async fn shared_blob(&self, len: usize, seed: u64) -> (Blob, String) {
        let (blob, node) = (self.blob(len, seed), self.node(&format!("first{seed}")));
        assert_eq!(node.get(&blob).await.body, blob.bytes);
        let key = self.shared(&blob).await;
        node.larder.settled().await;
        node.larder.stop().await;
        self.registry.forget_seen();
        self.s3.forget_asked();
        (blob, key)
    }

    /// Requests for the content of a blob, or of a range of it, that the registry got.
    pub(super) fn asked_for(&self, blob: &Blob) -> usize {
        self.registry.count(Method::GET, &format!("/blobs/{}", blob.digest))
    }

    /// How often the registry was asked for a blob from its start. (A slow download has more connections, which ask for
    /// ranges.)
    pub(super) fn transfers(&self, blob: &Blob) -> usize {
        let path = format!("/blobs/{}", blob.digest);
        let seen = self.registry.seen();
        let gets = seen.iter().filter(|seen| seen.method == Method::GET && seen.path.contains(&path));
        gets.filter(|seen| !seen.headers.contains_key("range")).count()
    }

    /// Requests for a blob that the bucket got.
    pub(super) fn reads(&self, blob: &Blob) -> usize {
        self.s3
            .asked()
            .iter()
            .filter(|asked| {
                asked.op == Op::Get && asked.key.contains("/blobs/") && asked.key.contains(&blob.digest.hex())
            })
            .count()
    }
}

/// `[tier]` of a node with its state in this directory, over the S3 at this URL.
fn tier(state: &Path, url: &str, secret: &str) -> String {
    let key_file = state.join("tier.key");
    let text = format!("[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {secret}\n");
    std::fs::write(&key_file, text).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!(
        "[tier]\nurl = \"s3://{BUCKET}/fleet\"\nendpoint = \"{url}\"\nregion = \"us-east-1\"\npath_style = true\nkey_file = {key_file:?}\n{SHARED}"
    )
}

impl Node {
    pub(super) async fn get(&self, blob: &Blob) -> Reply {
        self.larder.get(&format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest)).await
    }

    /// Pulls a blob, which has to come right and whole.
    pub(super) async fn pulls(&self, blob: &Blob, why: &str) {
        let reply = self.get(blob).await;
        assert!(
            reply.status == StatusCode::OK && reply.complete,
            "{why}: {} {:?}",
            reply.status,
            reply.complete
        );
        assert!(reply.body == blob.bytes, "{why}: wrong bytes");
        self.larder.settled().await;
    }

    pub(super) async fn tier_reads(&self, result: &str) -> f64 {
        self.larder.metric(&format!("larder_tier_reads_total{{result=\"{result}\"}}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_downloaded_is_not_sent_to_the_next_one_by_the_registry() {
    let fleet = Fleet::new().await;
    // Smaller than what is withheld, of one part, and of several.
    for (len, seed) in [(2, 1), (100_000, 2), (20 << 20, 3)] {
        let (blob, key) = fleet.shared_blob(len, seed).await;
        assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes);
        let second = fleet.node(&format!("second{seed}"));
        second.pulls(&blob, "the second node").await;
        assert_eq!(fleet.asked_for(&blob), 0, "{len} bytes: the registry was asked for content");
        assert!(fleet.registry.count(Method::HEAD, "/blobs/") > 0, "but for its word");
        assert_eq!(second.tier_reads("hit").await, 1.0);
        assert_eq!(second.larder.metric("larder_tier_read_bytes_total").await, len as f64);
        // From its own store from now on.
        fleet.s3.forget_asked();
        second.pulls(&blob, "again").await;
        assert_eq!(fleet.reads(&blob), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_fleet_has_costs_no_download_of_a_manifest() {
    let fleet = Fleet::new().await;
    let pushed = image::push(&fleet.registry, "team/app", "v1", 300_000);
    let platform = &pushed.platforms[0];
    let paths = [
        "manifests/v1".to_owned(),
        format!("manifests/{}", platform.manifest),
        format!("blobs/{}", platform.config),
        format!("blobs/{}", platform.layers[0]),
        format!("blobs/{}", platform.layers[1]),
    ];
    let pull = async |node: &Node| {
        for path in &paths {
            let reply = node.larder.get(&format!("/v2/team/app/{path}?ns=reg.test")).await;
            assert!(reply.is_well(), "{path}: {}", reply.status);
        }
        node.larder.settled().await;
    };
    let first = fleet.node("first");
    pull(&first).await;
    for what in [platform.config, platform.layers[0], platform.layers[1], platform.manifest] {
        for _ in 0..500 {
            if fleet.s3.key(&what.hex()).is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(fleet.s3.key(&what.hex()).is_some(), "{what} is not shared");
    }
    fleet.registry.forget_seen();
    pull(&fleet.node("second")).await;
    let fetched: Vec<_> = fleet
        .registry
        .seen()
        .into_iter()
        .filter(|seen| seen.method == Method::GET && seen.path.contains("sha256:"))
        .map(|seen| seen.path)
        .collect();
    assert!(fetched.is_empty(), "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_not_write_writes_nothing_and_one_that_may_not_read_reads_nothing() {
    let fleet = Fleet::new().await;
    let blob = fleet.blob(100_000, 1);
    let reader = fleet.node_with("reader", SECRET, &format!("{TIMES}\nwrite = false"));
    reader.pulls(&blob, "nothing is shared").await;
    assert_eq!(
        fleet.s3.asked().iter().filter(|asked| asked.op != Op::Get && asked.op != Op::Head).count(),
        0
    );
    let writer = fleet.node_with("writer", SECRET, &format!("{TIMES}\nread = false"));
    fleet.s3.forget_asked();
    writer.pulls(&blob, "it does not read").await;
    let key = fleet.shared(&blob).await;
    let again = fleet.node_with("again", SECRET, &format!("{TIMES}\nread = false"));
    again.pulls(&blob, "shared, and not read").await;
    for node in [&writer, &again] {
        assert_eq!(node.larder.metric("larder_tier_read_bytes_total").await, 0.0);
    }
    assert_eq!(fleet.transfers(&blob), 3);
    assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tier_nothing_is_asked_of_a_bucket() {
    let fleet = Fleet::new().await;
    let (blob, directory) = (fleet.blob(100_000, 1), tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", fleet.registry.url())], "");
    Node { larder }.pulls(&blob, "no tier").await;
    assert!(fleet.s3.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_heads_say_nothing_delivers_what_the_bucket_has() {
    let faults =
        [Fault::Status(405, vec![]), Fault::Status(501, vec![]), Fault::Status(500, vec![]), Fault::Chunked];
    for (at, fault) in faults.into_iter().enumerate() {
        let fleet = Fleet::new().await;
        let (blob, _) = fleet.shared_blob(200_000, 1).await;
        fleet.registry.wrong(move |seen| (seen.method == Method::HEAD).then(|| fault.clone()));
        fleet.node(&format!("second{at}")).pulls(&blob, "HEAD is a hint").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_the_registry_contradicts_is_not_believed() {
    let fleet = Fleet::new().await;
    let (blob, key) = fleet.shared_blob(200_000, 1).await;
    // As long as another version of it would be, if there could be one.
    fleet.s3.change(&key, |bytes| bytes.truncate(150_000));
    let second = fleet.node("second");
    second.pulls(&blob, "the registry has 200,000 bytes").await;
    assert_eq!(fleet.transfers(&blob), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_range_of_a_cold_layer_is_not_taken_from_the_bucket_unverified() {
    let fleet = Fleet::new().await;
    let (blob, key) = fleet.shared_blob(1 << 20, 1).await;
    fleet.s3.change(&key, |bytes| bytes[500_000] ^= 1);
    let second = fleet.node("second");
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    let part = second.larder.get_range(&path, "bytes=499990-500010").await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body, blob.bytes.slice(499_990..500_011));
}
