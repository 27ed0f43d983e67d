//! The shared tier: what one node has fetched and verified, another one need not fetch; and nothing in the tier opens a
//! right or ends up in a complete body that is wrong.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::{Digest, MediaType};
use tempfile::TempDir;

use crate::support::fault::Fault;
use crate::support::image::{self, noise};
use crate::support::registry::{Accounts, FakeRegistry, Seen};
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
        let tier = format!("[tier]\nurl = \"file://{}\"\n{more}\n", self.shared.path().display());
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

fn change(object: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(object).unwrap();
    change(&mut bytes);
    std::fs::write(object, bytes).unwrap();
}

#[tokio::test]
async fn a_layer_that_one_node_has_fetched_is_not_fetched_again_by_another_one() {
    let mut site = Site::new().await;
    let (one, other) = (site.node(), site.node());
    for (len, seed) in [(LAYER, 1), (100_000, 2), (1_000, 3)] {
        let (bytes, path) = site.blob(len, seed);
        assert_eq!(one.get(&path).await.body, bytes);
        site.has_objects("blobs", seed as usize).await;
        site.registry.forget_seen();
        let reply = other.get(&path).await;
        assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, len));
        assert_eq!(reply.body, bytes);
        assert_eq!(site.blob_gets(), 0, "{len}");
        assert_eq!(site.registry.count(Method::HEAD, "/blobs/"), 1, "its right is proved at the registry");
    }
    other.settled().await;
    assert_eq!(other.metric("larder_tier_reads_total{result=\"hit\"}").await, 3.0);
    assert_eq!(one.metric("larder_tier_writes_total{result=\"written\"}").await, 3.0);
    assert_eq!(other.metric("larder_tier_writes_total{result=\"written\"}").await, 0.0);
}

#[tokio::test]
async fn a_new_node_spends_no_manifest_of_the_rate_limit_on_what_the_tier_has() {
    let mut site = Site::new().await;
    let image = image::push(&site.registry, "team/app", "v1", 10_000);
    let (one, other) = (site.node(), site.node());
    let tag = "/v2/team/app/manifests/v1?ns=reg.test".to_owned();
    let platform = format!("/v2/team/app/manifests/{}?ns=reg.test", image.platforms[0].manifest);
    for path in [&tag, &platform] {
        assert!(one.get(path).await.is_well());
    }
    site.has_objects("manifests", 2).await;
    site.registry.forget_seen();
    let reply = other.get(&tag).await;
    assert_eq!(reply.body, image.index_bytes);
    assert_eq!(reply.header("content-type"), one.get(&tag).await.header("content-type"));
    assert_eq!(other.get(&platform).await.digest(), image.platforms[0].manifest);
    assert_eq!(site.registry.count(Method::GET, "/manifests/"), 0);
}

#[tokio::test]
async fn a_wrong_object_costs_a_download_and_no_pull() {
    // Of an object of another size the registry's answer to `HEAD` tells, where it states the digest.
    for (harm, is_noticed) in [
        ((|bytes| bytes[12] ^= 1) as fn(&mut Vec<u8>), true),
        (|bytes| bytes[LAYER - 1] ^= 1, true),
        (|bytes| bytes.truncate(LAYER / 2), false),
        (|bytes| bytes.push(0), false),
        (Vec::clear, false),
    ] {
        let mut site = Site::new().await;
        let (one, other) = (site.node(), site.node());
        let (bytes, path) = site.blob(LAYER, 1);
        assert_eq!(one.get(&path).await.body, bytes);
        site.has_objects("blobs", 1).await;
        let object = site.objects("blobs").remove(0);
        change(&object, harm);
        let reply = other.get(&path).await;
        assert!(reply.is_well() && reply.body == bytes, "{}", reply.body.len());
        other.settled().await;
        assert_eq!(other.metric("larder_tier_bad_objects_total").await, f64::from(u8::from(is_noticed)));
        // It is deleted, and what the registry delivered is written in its place.
        for _ in 0..500 {
            if std::fs::read(&object).is_ok_and(|now| now == bytes) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(std::fs::read(&object).unwrap_or_default().len(), LAYER);
    }
}

#[tokio::test]
async fn a_registry_that_claims_the_digest_of_another_one_is_not_given_its_bytes() {
    let mut site = Site::new().await;
    let one = site.node();
    let (bytes, path) = site.blob(100_000, 1);
    assert_eq!(one.get(&path).await.body, bytes);
    site.has_objects("blobs", 1).await;
    // It says that it has the blob, and has not.
    let evil = FakeRegistry::start().await;
    let digest = evil.put_blob("team/app", bytes.clone());
    evil.wrong(|seen| {
        (seen.method == Method::GET && seen.path.contains("/blobs/"))
            .then_some(Fault::Status(404, Vec::new()))
    });
    let state = tempfile::tempdir().unwrap();
    let tier = format!("[tier]\nurl = \"file://{}\"\n", site.shared.path().display());
    let other = Larder::start(state.path(), &[("evil.test", evil.url())], &tier);
    let reply = other.get(&format!("/v2/team/app/blobs/{digest}?ns=evil.test")).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(other.metric("larder_tier_read_bytes_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_empty_nodes_that_want_a_layer_at_once_download_it_once() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    // Slow enough that all have asked before it is here.
    site.registry.wrong(|seen| is_blob_get(seen).then_some(Fault::Slow(100_000)));
    let nodes: Vec<Larder> = (0..10).map(|_| site.node()).collect();
    let pulls = nodes.iter().map(|node| async { node.get(&path).await.body == bytes });
    assert_eq!(futures_util::future::join_all(pulls).await, [true; 10]);
    assert_eq!(site.downloads(), 1, "the others wait for the first one");
    site.has_objects("leases", 0).await;
    assert_eq!(site.objects("blobs").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_costs_seconds_and_one_more_download() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    // What `kill -9` leaves: a lease, and no object.
    let lease = site.lease_of(&path, &bytes).await;
    std::fs::write(&lease, r#"{"nonce":1,"renewals":3,"size":20000000,"done":1000000,"rate":1000000}"#)
        .unwrap();
    site.registry.forget_seen();
    let nodes: Vec<Larder> = (0..3).map(|_| site.node()).collect();
    let pulls = nodes.iter().map(|node| async { node.get(&path).await.body == bytes });
    assert_eq!(futures_util::future::join_all(pulls).await, [true; 3]);
    assert_eq!(site.downloads(), 1, "one of them takes over");
    site.has_objects("leases", 0).await;
    site.has_objects("blobs", 1).await;
}

#[tokio::test]
async fn a_lease_that_is_garbage_fails_no_pull() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    let node = site.node_with("write = false\nwait_max = \"2s\"");
    let lease = site.lease_of(&path, &bytes).await;
    std::fs::write(&lease, vec![0xff; 5_000]).unwrap();
    let reply = node.get(&path).await;
    assert!(reply.is_well() && reply.body == bytes);
}

#[tokio::test]
async fn the_tier_opens_no_private_image_after_its_right_was_revoked() {
    let mut site = Site::new().await;
    let accounts = Accounts::new(&[("alice", "secret", &["team/app"])]);
    site.registry.know(accounts);
    let (one, other) = (site.node(), site.node());
    let (bytes, path) = site.blob(LAYER, 1);
    let alice = ("alice", "secret");
    assert_eq!(one.get_as(&path, alice).await.body, bytes);
    site.has_objects("blobs", 1).await;
    assert_ne!(other.get(&path).await.status, StatusCode::OK, "without her credential");
    site.registry.change(true, |accounts| accounts.users.clear());
    assert_ne!(other.get_as(&path, alice).await.status, StatusCode::OK);
    assert_eq!(other.metric("larder_tier_read_bytes_total").await, 0.0);
}

#[tokio::test]
async fn a_node_that_may_not_read_or_write_the_tier_leaves_it_alone() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(100_000, 1);
    let silent = site.node_with("read = false\nwrite = false");
    let reader = site.node_with("write = false");
    for node in [&silent, &reader] {
        assert_eq!(node.get(&path).await.body, bytes);
        node.settled().await;
    }
    assert_eq!(site.blob_gets(), 2);
    assert!(files_under(site.shared.path()).is_empty());
    let writer = site.node_with("read = false");
    assert_eq!(writer.get(&path).await.body, bytes);
    site.has_objects("blobs", 1).await;
    let late = site.node_with("read = false");
    assert_eq!(late.get(&path).await.body, bytes);
    assert_eq!(site.blob_gets(), 4);
}

#[tokio::test]
async fn a_tier_that_is_not_there_fails_no_pull() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    let node = site.node();
    std::fs::remove_dir_all(site.shared.path()).unwrap();
    assert_eq!(node.get(&path).await.body, bytes);
    let (more, path) = site.blob(100_000, 2);
    assert_eq!(node.get(&path).await.body, more);
    assert!(!site.shared.path().exists(), "a file system that is not mounted is not written to");
    assert_eq!(
        node.metric("larder_tier_errors_total{kind=\"unavailable\"}").await,
        1.0,
        "then it is left alone"
    );
    std::fs::create_dir(site.shared.path()).unwrap();
}

const SHARED_NAMES: &str = "share_names = true\ncluster_key = ";

/// A key file that only its owner can read.
fn cluster_key(directory: &Path, name: &str, byte: u8) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    std::fs::write(&path, [byte; 32]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!("{SHARED_NAMES}\"{}\"", path.display())
}

/// What a runtime asks for to pull an image by its tag.
fn paths(repository: &str, image: &image::Image) -> Vec<String> {
    let platform = &image.platforms[0];
    let path = |kind: &str, what: String| format!("/v2/{repository}/{kind}/{what}?ns=reg.test");
    let blobs = platform.layers.iter().chain([&platform.config]);
    let mut paths =
        vec![path("manifests", "v1".to_owned()), path("manifests", platform.manifest.to_string())];
    paths.extend(blobs.map(|digest| path("blobs", digest.to_string())));
    paths
}

#[tokio::test]
async fn a_new_node_serves_public_images_and_no_others_while_their_registry_is_away() {
    let mut site = Site::new().await;
    let alice = ("alice", "secret");
    let users: [(&str, &str, &[&str]); 1] = [(alice.0, alice.1, &["team/private"])];
    site.registry.know(Accounts { public: vec!["team/app".into()], ..Accounts::new(&users) });
    let public = image::push(&site.registry, "team/app", "v1", 10_000);
    let private = image::push(&site.registry, "team/private", "v1", 20_000);
    let keys = tempfile::tempdir().unwrap();
    let shares = cluster_key(keys.path(), "key", 1);
    let one = site.node_with(&shares);
    let (open, closed) = (paths("team/app", &public), paths("team/private", &private));
    for path in &open {
        assert_eq!(one.get(path).await.status, StatusCode::OK, "{path}");
        one.settled().await;
    }
    for path in &closed {
        assert_eq!(one.get_as(path, alice).await.status, StatusCode::OK, "{path}");
        one.settled().await;
    }
    // What the tag names, that it is public, and five members of the public image; of the private one nothing.
    site.has_objects("names", 7).await;
    site.has_objects("manifests", 4).await;
    // Both have the same config.
    site.has_objects("blobs", 5).await;
    site.registry.stop().await;
    let fresh = site.node_with(&shares);
    // Each as it is asked for first, then as it is kept, and a part of each blob.
    for path in &open {
        let replies = [fresh.get(path).await, fresh.get(path).await];
        for reply in &replies {
            assert_eq!(reply.status, StatusCode::OK, "{path}");
            assert_eq!(reply.body, replies[0].body);
        }
        if path.contains("/blobs/") {
            fresh.settled().await;
            let kept = fresh.get(path).await;
            assert_eq!((kept.status, &kept.body), (StatusCode::OK, &replies[0].body), "{path}");
            let part = fresh.get_range(path, "bytes=1-1").await;
            assert_eq!(
                (part.status, &part.body[..]),
                (StatusCode::PARTIAL_CONTENT, &kept.body[1..2]),
                "{path}"
            );
        }
    }
    let by_parts = site.node_with(&shares);
    assert_eq!(by_parts.get(&open[0]).await.status, StatusCode::OK);
    assert_eq!(by_parts.get(&open[1]).await.status, StatusCode::OK);
    let part = by_parts.get_range(&open[2], "bytes=1-1").await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "a part of what is not here yet");
    assert_eq!(fresh.get(&open[0]).await.body, public.index_bytes);
    assert!(!fresh.get(&open[0]).await.header("warning").is_empty(), "it is marked stale");
    for path in &closed {
        assert_ne!(fresh.get(path).await.status, StatusCode::OK, "{path}");
        assert_ne!(fresh.get_as(path, alice).await.status, StatusCode::OK, "{path}");
    }
    let other_cluster = site.node_with(&cluster_key(keys.path(), "other", 2));
    let keyless = site.node();
    for node in [&other_cluster, &keyless] {
        for path in &open {
            assert_ne!(node.get(path).await.status, StatusCode::OK, "{path}");
        }
    }
    holds_no_name_in_clear(&site);
}

/// Neither the names of objects nor sealed records say what they are about.
fn holds_no_name_in_clear(site: &Site) {
    for name in files_under(site.shared.path()) {
        let text = name.display().to_string();
        assert!(!text.contains("team") && !text.contains("reg.test"), "{text}");
        let content = std::fs::read(site.shared.path().join(&name)).unwrap();
        let is_record = text.contains("/names/");
        let has = |word: &[u8]| content.windows(word.len()).any(|window| window == word);
        assert!(!is_record || !has(b"team") && !has(b"sha256"), "{text}");
    }
}

/// An image that one node pulled while everyone could, and shared the names of; now everyone is refused.
async fn closed_since(site: &mut Site, shares: &str) -> &'static str {
    let users: [(&str, &str, &[&str]); 1] = [("alice", "secret", &["team/app"])];
    site.registry.know(Accounts { public: vec!["team/app".into()], ..Accounts::new(&users) });
    let image = image::push(&site.registry, "team/app", "v1", 10_000);
    let tag = "/v2/team/app/manifests/v1?ns=reg.test";
    let one = site.node_with(shares);
    assert_eq!(one.get(tag).await.body, image.index_bytes);
    site.has_objects("names", 3).await;
    site.has_objects("manifests", 1).await;
    one.stop().await;
    site.registry.change(true, |accounts| accounts.public.clear());
    tag
}

#[tokio::test]
async fn a_credential_that_is_not_to_be_had_opens_no_repository_that_its_registry_closed() {
    use std::os::unix::fs::PermissionsExt;
    let (mut site, keys) = (Site::new().await, tempfile::tempdir().unwrap());
    let shares = cluster_key(keys.path(), "key", 1);
    let tag = closed_since(&mut site, &shares).await;
    let plugin = keys.path().join("plugin");
    std::fs::write(&plugin, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = keys.path().join("plugins.yaml");
    let of_team = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"reg.test/team\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n";
    std::fs::write(&config, of_team).unwrap();
    let bin = keys.path();
    // No tier is written, so that no mark of the closing is in it.
    let more = format!(
        "{shares}\nwrite = false\n[credentials]\nnode = []\nprovider_config = {config:?}\nprovider_bin_dir = {bin:?}"
    );
    let other = site.node_with(&more);
    for _ in 0..2 {
        assert_eq!(other.get(tag).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    // Now it is an outage, after the registry's refusal.
    site.registry.stop().await;
    assert_ne!(other.get(tag).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_repository_that_was_closed_is_opened_by_no_outage_after_that() {
    let (mut site, keys) = (Site::new().await, tempfile::tempdir().unwrap());
    let shares = cluster_key(keys.path(), "key", 1);
    let tag = closed_since(&mut site, &shares).await;
    // One may not write, so that what it knows is on its own disk; the other one replaces the record for all.
    let reader = site.node_with(&format!("{shares}\nwrite = false"));
    let writer = site.node_with(&shares);
    let names = |site: &Site| {
        let read = |path: &PathBuf| std::fs::read(path).unwrap();
        site.objects("names").iter().map(read).collect::<Vec<_>>()
    };
    let before = names(&site);
    assert_ne!(reader.get(tag).await.status, StatusCode::OK);
    let state = site.nodes[site.nodes.len() - 2].path().to_owned();
    let mark = state.join("store/refs/reg.test/team/app/_closed");
    for _ in 0..500 {
        if mark.exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    reader.stop().await;
    assert_eq!(names(&site), before);
    site.registry.stop().await;
    let restarted = |more: &str| {
        let tier = format!("[tier]\nurl = \"file://{}\"\n{more}\n", site.shared.path().display());
        Larder::start(&state, &[("reg.test", site.registry.url())], &tier)
    };
    let reader = restarted(&format!("{shares}\nwrite = false"));
    assert_ne!(reader.get(tag).await.status, StatusCode::OK, "the end of a right was forgotten");
    site.registry.restart().await;
    assert_ne!(writer.get(tag).await.status, StatusCode::OK);
    for _ in 0..500 {
        if names(&site) != before {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    site.registry.stop().await;
    let fresh = site.node_with(&shares);
    assert_ne!(fresh.get(tag).await.status, StatusCode::OK, "the record of the cluster still says public");
}

#[tokio::test]
async fn an_index_that_lists_the_layer_of_others_claims_no_lease() {
    let mut site = Site::new().await;
    let bytes = Bytes::from(noise(LAYER, 1));
    let digest = Digest::of(&bytes);
    // It names a digest that its repository does not have.
    let config = site.registry.put_blob("team/app", Bytes::from_static(b"{}"));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{LAYER}}}]}}"#
    );
    site.registry.put_manifest("team/app", Some("v1"), MediaType::OCI_MANIFEST, manifest);
    let node = site.node();
    assert!(node.get("/v2/team/app/manifests/v1?ns=reg.test").await.is_well());
    for _ in 0..2 {
        assert_eq!(node.get(&path_of(digest)).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(node.metric("larder_tier_leases_total{result=\"claimed\"}").await, 0.0);
}

#[tokio::test]
async fn a_record_that_was_moved_to_the_place_of_another_one_opens_nothing() {
    let mut site = Site::new().await;
    let image = image::push(&site.registry, "team/app", "v1", 10_000);
    let keys = tempfile::tempdir().unwrap();
    let shares = cluster_key(keys.path(), "key", 1);
    let one = site.node_with(&shares);
    let tag = "/v2/team/app/manifests/v1?ns=reg.test";
    assert_eq!(one.get(tag).await.body, image.index_bytes);
    site.has_objects("names", 3).await;
    site.has_objects("manifests", 1).await;
    let names = site.objects("names");
    let contents: Vec<_> = names.iter().map(|name| std::fs::read(name).unwrap()).collect();
    for (name, content) in names.iter().zip(contents.iter().cycle().skip(1)) {
        std::fs::write(name, content).unwrap();
    }
    site.registry.stop().await;
    let fresh = site.node_with(&shares);
    assert_ne!(fresh.get(tag).await.status, StatusCode::OK);
}
