//! Faults of the store's disk: damage is repaired within the answer, and a disk that stores nothing fails no pull.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::admin::control::{self, Pull};
use larder::prepull::Event;
use larder::reference::Digest;

use crate::support::image::{self, noise};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::{Larder, files_under};

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    directory: tempfile::TempDir,
    bytes: Bytes,
    digest: Digest,
    path: String,
}

/// A daemon that has a blob of 500,000 bytes on disk.
async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(500_000, 1));
    let digest: Digest = registry.put_blob("team/app", bytes.clone());
    let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    assert_eq!(larder.get(&path).await.body, bytes);
    larder.settled().await;
    Scene { registry, larder, directory, bytes, digest, path }
}

impl Scene {
    fn store(&self, what: &str) -> PathBuf {
        self.directory.path().join("larder/store").join(what)
    }

    fn damage(&self, at: usize) {
        let mut damaged = self.bytes.to_vec();
        damaged[at] ^= 4;
        std::fs::write(self.store(&format!("blobs/sha256/{}", self.digest.hex())), damaged).unwrap();
    }

    /// The reasons why images could not be fetched.
    async fn failures(&self, order: &Pull) -> Vec<String> {
        let mut said = Vec::new();
        let socket = self.directory.path().join("larder/larder.sock");
        let hear = |event| {
            if let Event::Failed { error, .. } = event {
                said.push(error);
            }
        };
        control::pull(&socket, order, hear).await.unwrap();
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_never_leaves_and_the_answer_continues_from_upstream() {
    let scene = scene().await;
    for (n, (at, range)) in [
        (300_000, None),
        (0, None),
        (499_999, None),
        (300_000, Some((250_000, 400_000))),
        (300_000, Some((299_999, 300_000))),
        (300_000, Some((300_000, 300_001))),
    ]
    .into_iter()
    .enumerate()
    {
        scene.damage(at);
        scene.registry.forget_seen();
        let reply = match range {
            None => scene.larder.get(&scene.path).await,
            Some((start, last)) => {
                scene.larder.get_range(&scene.path, &format!("bytes={start}-{last}")).await
            }
        };
        let expected = range.map_or(0..500_000, |(start, last)| start..last + 1);
        assert!(reply.complete && reply.body == scene.bytes.slice(expected), "{at} {range:?}");
        assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1, "{at} {range:?}");
        scene.larder.settled().await;
        assert_eq!(scene.larder.metric("larder_read_repairs_total").await, n as f64 + 1.0);
        assert_eq!(scene.larder.metric("larder_store_quarantined_total").await, n as f64 + 1.0);
        scene.registry.forget_seen();
        assert_eq!(scene.larder.get(&scene.path).await.body, scene.bytes);
        assert!(scene.registry.seen().is_empty(), "and it is whole on disk again");
    }
    // Damage outside the range does not matter to this request.
    scene.damage(499_999);
    let reply = scene.larder.get_range(&scene.path, "bytes=0-1000").await;
    assert_eq!(reply.body, scene.bytes.slice(..1_001));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_upstream_away_a_damaged_blob_ends_short_and_no_wrong_byte_leaves() {
    let scene = scene().await;
    scene.damage(300_000);
    scene.registry.stop().await;
    let reply = scene.larder.get(&scene.path).await;
    assert!(!reply.is_well() && reply.body.len() < 300_001, "{} bytes", reply.body.len());
    assert_eq!(reply.body, scene.bytes[..reply.body.len()]);
    scene.registry.restart().await;
    let healed = scene.larder.get(&scene.path).await;
    assert!(healed.complete && healed.body == scene.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stores_nothing_fails_no_pull_and_caching_resumes_by_itself() {
    let scene = scene().await;
    let ingest = scene.store("ingest");
    // What lies in the way would be moved to quarantine.
    for directory in [&scene.store("quarantine"), &ingest] {
        std::fs::remove_dir_all(directory).unwrap();
        std::fs::write(directory, "in the way").unwrap();
    }
    let bytes = Bytes::from(noise(700_000, 2));
    let digest = scene.registry.put_blob("team/app", bytes.clone());
    let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    for _ in 0..2 {
        let whole = scene.larder.get(&path).await;
        assert!(whole.complete && whole.body == bytes, "{} {} bytes", whole.status, whole.body.len());
        let part = scene.larder.get_range(&path, "bytes=100000-199999").await;
        assert_eq!((part.status, part.body), (StatusCode::PARTIAL_CONTENT, bytes.slice(100_000..200_000)));
    }
    assert_eq!(scene.larder.get(&scene.path).await.body, scene.bytes, "what is cached is served");
    assert_eq!(scene.larder.metric("larder_store_caching").await, 0.0);
    for (reason, bytes) in [("disk", 1_400_000.0), ("byte_range", 200_000.0)] {
        let line = format!(r#"larder_passthrough_bytes_total{{reason="{reason}"}}"#);
        assert_eq!(scene.larder.metric(&line).await, bytes, "{reason}");
    }

    // A body that breaks off is resumed, a wrong one never ends complete.
    scene.registry.wrong_once("/blobs/", Fault::CloseAfter(10));
    scene.registry.wrong_once("/blobs/", Fault::CloseAfter(300_000));
    let resumed = scene.larder.get(&path).await;
    assert!(resumed.complete && resumed.body == bytes);
    scene.registry.wrong_at("/blobs/", Fault::Corrupt);
    let wrong = scene.larder.get(&path).await;
    assert!(!wrong.is_well() && wrong.body.len() <= 700_000 - 64 * 1024, "{} bytes", wrong.body.len());

    scene.registry.behave();
    std::fs::remove_file(&ingest).unwrap();
    scene.larder.clock.advance(Duration::from_secs(11));
    assert_eq!(scene.larder.get(&path).await.body, bytes);
    scene.larder.settled().await;
    scene.registry.forget_seen();
    assert_eq!(scene.larder.get(&path).await.body, bytes);
    assert!(scene.registry.seen().is_empty() && scene.larder.metric("larder_store_caching").await == 1.0);
    assert!(files_under(&ingest).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_pull_that_cannot_be_stored_fails_with_the_reason() {
    let scene = scene().await;
    let image = image::push(&scene.registry, "team/whole", "v1", 10_000);
    let order: Pull = serde_json::from_value(serde_json::json!({
        "images": [{"image": "reg.test/team/whole:v1", "secrets": []}], "secrets": [],
        "platforms": ["linux/amd64"], "all_platforms": false, "pin": false,
    }))
    .unwrap();
    let ingest = scene.store("ingest");
    // What lies in the way would be moved to quarantine.
    for directory in [&scene.store("quarantine"), &ingest] {
        std::fs::remove_dir_all(directory).unwrap();
        std::fs::write(directory, "in the way").unwrap();
    }
    let said = scene.failures(&order).await;
    assert!(matches!(&said[..], [error] if error.contains("could not be stored")), "{said:?}");

    // The disk takes the bytes and fails the rename, after the bytes were sent to the client.
    std::fs::remove_file(&ingest).unwrap();
    std::fs::create_dir(&ingest).unwrap();
    scene.larder.clock.advance(Duration::from_secs(11));
    assert_eq!(scene.failures(&order).await, [""; 0]);
    let layer = image.platforms[0].layers[1].hex();
    std::fs::remove_file(scene.store(&format!("blobs/sha256/{layer}"))).unwrap();
    let received = scene.store(&format!("refs/reg.test/_received/{layer}"));
    std::fs::remove_file(&received).unwrap();
    std::fs::create_dir(&received).unwrap();
    let said = scene.failures(&order).await;
    assert!(matches!(&said[..], [error] if error.contains("could not be stored")), "{said:?}");
}
