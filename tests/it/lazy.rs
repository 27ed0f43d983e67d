//! Lazy snapshotters: small ranges of large layers are fetched once, kept, and completed when most of the layer is here.

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::Digest;

use crate::support::image::{self, noise};
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::{Larder, files_under};

const SIZE: usize = 33 * 1024 * 1024;
const MIB: usize = 1024 * 1024;
const ANN: (&str, &str) = ("ann", "ann-password");

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    directory: tempfile::TempDir,
    bytes: Bytes,
    path: String,
}

/// A layer whose manifest has been pulled.
async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = noise(SIZE, 9);
    let digest = image::push_layers(&registry, "team/app", "v1", std::slice::from_ref(&bytes))[0];
    registry.know(Accounts::new(&[(ANN.0, ANN.1, &["team/app"]), ("bob", "bob-password", &[])]));
    let manifest = larder.get_as("/v2/team/app/manifests/v1?ns=reg.test", ANN).await;
    assert_eq!(manifest.status, StatusCode::OK);
    registry.forget_seen();
    let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    Scene { registry, larder, directory, bytes: bytes.into(), path }
}

impl Scene {
    async fn range_as(&self, user: (&str, &str), start: usize, end: usize) -> crate::support::client::Reply {
        let basic = crate::support::client::basic(user.0, user.1);
        let range = format!("bytes={start}-{}", end - 1);
        let headers = [("authorization", basic.as_str()), ("range", range.as_str())];
        crate::support::client::send(self.larder.address, Method::GET, &self.path, &headers).await
    }

    /// Reads a range, which must be right; returns the ranges that upstream was asked for.
    async fn read(&self, start: usize, end: usize) -> Vec<String> {
        self.registry.forget_seen();
        let reply = self.range_as(ANN, start, end).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT);
        assert!(reply.complete && reply.body == self.bytes.slice(start..end), "{start}..{end}");
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/{SIZE}", end - 1));
        let seen = self.registry.seen().into_iter().filter(|seen| seen.path.contains("/blobs/"));
        seen.filter_map(|seen| Some(seen.headers.get("range")?.to_str().unwrap().to_owned())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_fetched_is_not_fetched_again() {
    let scene = scene().await;
    assert_eq!(scene.read(5_000_000, 5_004_096).await, ["bytes=5000000-5004095"]);
    for (start, end) in [(5_000_000, 5_004_096), (5_000_000, 5_000_001), (5_001_000, 5_002_000)] {
        assert!(scene.read(start, end).await.is_empty(), "{start}..{end}");
    }
    assert_eq!(scene.read(5_002_000, 5_010_000).await, ["bytes=5004096-5009999"], "only what is missing");
    assert_eq!(scene.read(4_990_000, 5_020_000).await, ["bytes=4990000-4999999", "bytes=5010000-5019999"]);
    assert!(scene.read(4_990_000, 5_020_000).await.is_empty());
    // The manifest alone.
    scene.larder.metric_becomes("larder_store_blobs", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_part_is_not_given_to_a_caller_without_a_right() {
    let scene = scene().await;
    scene.read(1_000_000, 1_001_000).await;
    for user in [("bob", "bob-password"), (ANN.0, "guessed"), ("", "")] {
        let reply = scene.range_as(user, 1_000_000, 1_001_000).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{user:?}");
        assert!(!reply.headers.contains_key("docker-content-digest"));
    }
    // Nor to one whose right is not fresh any more.
    scene.larder.clock.advance(std::time::Duration::from_secs(400));
    scene.registry.change(true, |accounts| drop(accounts.users.remove(ANN.0)));
    assert_eq!(scene.range_as(ANN, 1_000_000, 1_001_000).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_part_that_changed_on_disk_does_not_leave() {
    let scene = scene().await;
    scene.larder.metric_becomes("larder_store_blobs", 1.0).await;
    scene.read(1_000_000, 1_004_096).await;
    let ingest = files_under(scene.directory.path());
    let ingest: Vec<_> =
        ingest.iter().filter(|file| file.components().any(|part| part.as_os_str() == "ingest")).collect();
    let file = std::fs::OpenOptions::new().write(true).open(scene.directory.path().join(ingest[0])).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[!scene.bytes[1_000_500]], 1_000_500).unwrap();
    assert_eq!(scene.read(1_000_000, 1_004_096).await, ["bytes=1000000-1004095"]);
    assert!(scene.read(1_000_000, 1_004_096).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_which_most_was_read_by_parts_is_completed_and_no_byte_is_fetched_twice() {
    let scene = scene().await;
    let received = || scene.larder.metric(r#"larder_upstream_received_bytes_total{registry="reg.test"}"#);
    let before = received().await;
    // From the end on, so that the whole is fetched from the start while parts of its end are here.
    for part in (14..33).rev() {
        scene.read(part * MIB, (part + 1) * MIB).await;
    }
    scene.larder.metric_becomes("larder_store_blobs", 2.0).await;
    let fetched = received().await - before;
    assert!(fetched <= (SIZE + 3 * MIB) as f64, "{fetched} bytes were fetched for {SIZE}");
    scene.registry.forget_seen();
    let whole = scene.larder.get_as(&scene.path, ANN).await;
    assert!(whole.complete && whole.digest() == Digest::of(&scene.bytes));
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_clients_manifests_and_parts_fetch_nothing_that_it_did_not_ask_for() {
    let scene = scene().await;
    let image = image::push(&scene.registry, "team/app", "v2", 1_000);
    let at = |what: &str| format!("/v2/team/app/{what}?ns=reg.test");
    let platform = &image.platforms[0];
    for what in [
        "manifests/v2".into(),
        format!("manifests/{}", platform.manifest),
        format!("blobs/{}", platform.config),
    ] {
        assert_eq!(scene.larder.get_as(&at(&what), ANN).await.status, StatusCode::OK, "{what}");
    }
    scene.read(0, 4_096).await;
    scene.larder.settled().await;
    let layers = image.platforms.iter().flat_map(|platform| &platform.layers);
    let asked: usize = layers.map(|layer| scene.registry.count(Method::GET, &layer.to_string())).sum();
    assert_eq!(asked, 0, "a layer was fetched ahead");
}
