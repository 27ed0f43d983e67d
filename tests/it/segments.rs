//! Large blobs over several upstream connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::support::client;
use crate::support::image::noise;
use crate::support::registry::{FakeRegistry, Fault, Seen};
use crate::support::world::Larder;

/// Four seconds at the speed of one connection.
const SIZE: usize = 40 * 1024 * 1024 + 5;
/// Bytes each hundredth of a second.
const PACE: usize = 100 * 1024;

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    bytes: Bytes,
    path: String,
    _directory: tempfile::TempDir,
}

/// A registry that sends whole blobs slowly, and ranges of them as `part` says.
async fn scene(part: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(SIZE, 7));
    let digest = registry.put_blob("team/app", bytes.clone());
    registry.wrong(move |seen| {
        let blob = seen.method == Method::GET && seen.path.contains("/blobs/");
        let bounded = range_of(seen).is_some_and(|range| !range.ends_with('-'));
        blob.then(|| if bounded { part(seen) } else { Fault::Slow(PACE) })
    });
    let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    Scene { registry, larder, bytes, path, _directory: directory }
}

fn range_of(seen: &Seen) -> Option<String> {
    Some(seen.headers.get("range")?.to_str().unwrap().to_owned())
}

impl Scene {
    async fn pull(&self) {
        let reply = client::get(self.larder.address, &self.path).await;
        assert!(reply.complete && reply.status == StatusCode::OK && reply.body == self.bytes);
        self.registry.forget_seen();
        let warm = client::get(self.larder.address, &self.path).await;
        assert!(warm.body == self.bytes, "the same bytes");
        // A body in several parts proves no right, so that its registry may be asked whether this caller may have it.
        let asked: Vec<_> = self
            .registry
            .seen()
            .into_iter()
            .filter(|seen| seen.method != Method::HEAD)
            .map(|seen| (seen.method.clone(), seen.path.clone(), range_of(&seen)))
            .collect();
        assert!(asked.is_empty(), "stored, and yet fetched: {asked:?}");
    }

    async fn received(&self) -> f64 {
        self.larder.metric(r#"larder_upstream_received_bytes_total{registry="reg.test"}"#).await
    }

    async fn parts(&self) -> f64 {
        self.larder.metric("larder_fill_segments_total").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_download_gets_more_connections_and_no_byte_is_fetched_twice() {
    let scene = scene(|_| Fault::Slow(PACE)).await;
    scene.pull().await;
    // The number of connections depends on their speed, and so on the machine: `pull::blob::fill::concurrency` has tests of it.
    assert!(scene.parts().await >= 1.0);
    let more = scene.received().await / SIZE as f64;
    assert!((1.0..1.01).contains(&more), "{more} times the blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_ignores_or_refuses_ranges_is_asked_once() {
    let faults = [Fault::IgnoreRange, Fault::Status(416, vec![]), Fault::Status(429, vec![]), Fault::Hang];
    let all = faults.map(|fault| async move {
        let scene = scene(move |_| fault.clone()).await;
        scene.pull().await;
        assert!(scene.parts().await <= 1.0);
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_break_off_for_good_leave_the_rest_to_one_connection() {
    let count = AtomicUsize::new(0);
    let scene = scene(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0..=2 => Fault::Slow(PACE),
        3 => Fault::CloseAfter(1_000_000),
        _ => Fault::Status(503, vec![]),
    })
    .await;
    scene.pull().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_with_wrong_bytes_is_found_by_the_digest() {
    let spoilt = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&spoilt);
    let scene = scene(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Fault::Corrupt,
        _ => Fault::Slow(PACE),
    })
    .await;
    let reply = client::get(scene.larder.address, &scene.path).await;
    // A segment that comes too late to be used is dropped, wrong or not; what is used is checked.
    assert!(!reply.is_well() || reply.body == scene.bytes, "a whole body with wrong bytes");
    assert!(spoilt.load(Ordering::Relaxed) > 0);
    // The same registry is asked once more, over one connection from the start.
    scene.larder.settled().await;
    scene.pull().await;
    scene.registry.wrong(|_| Some(Fault::Slow(SIZE)));
    scene.pull().await;
}
