//! Lazy snapshotters: small ranges of large layers are fetched once, kept, and completed when most of the layer is here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::Digest;
use tokio::sync::Semaphore;

use crate::support::client;
use crate::support::image::{self, noise};
use crate::support::registry::{Accounts, FakeRegistry, Fault};
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
    async fn range_as(&self, user: (&str, &str), start: usize, end: usize) -> client::Reply {
        let basic = client::basic(user.0, user.1);
        let range = format!("bytes={start}-{}", end - 1);
        let headers = [("authorization", basic.as_str()), ("range", range.as_str())];
        client::send(self.larder.address, Method::GET, &self.path, &headers).await
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

/// Clients that ask for these ranges at the same time, while upstream sends nothing; every answer must be right. Returns the
/// ranges that upstream was asked for.
async fn at_the_same_time(scene: &Scene, ranges: &[(usize, usize)]) -> Vec<String> {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    scene.registry.wrong(move |seen| {
        (seen.method == Method::GET && seen.path.contains("/blobs/"))
            .then(|| Fault::HoldAfter(100, Arc::clone(&held)))
    });
    scene.registry.forget_seen();
    let readers = ranges.iter().map(|(start, end)| async move {
        let reply = scene.range_as(ANN, *start, *end).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{start}..{end}");
        assert!(reply.complete && reply.body == scene.bytes.slice(*start..*end), "{start}..{end}");
    });
    let opener = async {
        while scene.registry.count(Method::GET, "/blobs/") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.add_permits(1_000);
    };
    tokio::join!(futures_util::future::join_all(readers), opener);
    scene.registry.behave();
    let seen = scene.registry.seen().into_iter().filter(|seen| seen.path.contains("/blobs/"));
    let mut asked: Vec<_> =
        seen.filter_map(|seen| Some(seen.headers.get("range")?.to_str().unwrap().to_owned())).collect();
    asked.sort();
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_part_is_fetched_once_for_all_who_ask_for_it_at_the_same_time() {
    let scene = scene().await;
    // Of a layer of which nothing is here, and of one of which something is.
    for start in [1_000_000, 2_000_000] {
        let asked = at_the_same_time(&scene, &[(start, start + 50_000); 20]).await;
        assert_eq!(asked, [format!("bytes={start}-{}", start + 49_999)]);
    }
    let overlapping =
        [(3_000_000, 3_050_000), (3_020_000, 3_070_000), (2_990_000, 3_000_100), (3_000_000, 3_000_001)];
    let asked = at_the_same_time(&scene, &overlapping).await;
    let bytes: usize = asked
        .iter()
        .map(|range| {
            let (start, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            last.parse::<usize>().unwrap() + 1 - start.parse::<usize>().unwrap()
        })
        .sum();
    assert_eq!(bytes, 80_000, "no byte is fetched twice: {asked:?}");
    assert!(scene.read(2_990_000, 3_070_000).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_whose_first_reader_leaves_or_sleeps_is_there_for_the_others() {
    let scene = scene().await;
    let basic = client::basic(ANN.0, ANN.1);
    let range = [("authorization", basic.as_str()), ("range", "bytes=5000000-5999999")];
    // It reads nothing of the body, and stays.
    let sleeper = client::open(scene.larder.address, Method::GET, &scene.path, &range).await;
    assert_eq!(sleeper.status(), StatusCode::PARTIAL_CONTENT);
    assert!(scene.read(5_000_000, 6_000_000).await.is_empty());
    drop(sleeper);
    let range = [range[0], ("range", "bytes=7000000-7999999")];
    drop(client::open(scene.larder.address, Method::GET, &scene.path, &range).await);
    assert!(scene.read(7_000_000, 8_000_000).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_its_first_reader_could_not_have_is_fetched_by_the_next() {
    let scene = scene().await;
    scene.read(0, 1_000).await;
    // The download of this part breaks off and cannot be resumed.
    scene.registry.wrong(|seen| {
        let range = seen.headers.get("range")?.to_str().ok()?;
        match range.strip_prefix("bytes=")?.split_once('-')?.0.parse::<u64>().ok()? {
            5_000_000 => Some(Fault::CloseAfter(10_000)),
            5_000_001..6_000_000 => Some(Fault::Status(404, vec![])),
            _ => None,
        }
    });
    scene.registry.wrong(|seen| {
        let is_whole = seen.path.contains("/blobs/") && !seen.headers.contains_key("range");
        is_whole.then(|| Fault::Status(404, vec![]))
    });
    let short = scene.range_as(ANN, 5_000_000, 5_500_000).await;
    assert!(!short.complete, "what did not come");
    scene.registry.behave();
    let asked = scene.read(5_000_000, 5_500_000).await;
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(
        asked[0].ends_with("-5499999") && asked[0] != "bytes=5000000-5499999",
        "what had come is kept: {asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_range_of_which_only_the_beginning_is_kept_is_no_small_part() {
    let scene = scene().await;
    scene.read(0, 4_096).await;
    let reply = scene.range_as(ANN, 0, 20 * MIB).await;
    assert!(reply.complete && reply.body == scene.bytes.slice(..20 * MIB));
    scene.larder.metric_becomes("larder_store_blobs", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_layer_is_kept_however_it_is_asked_for() {
    let scene = scene().await;
    assert_eq!(scene.read(SIZE - 5_000, SIZE).await.len(), 1);
    scene.registry.forget_seen();
    let basic = client::basic(ANN.0, ANN.1);
    for range in ["bytes=-5000", &format!("bytes={}-", SIZE - 5_000), "bytes=-1"] {
        let headers = [("authorization", basic.as_str()), ("range", range)];
        let reply = client::send(scene.larder.address, Method::GET, &scene.path, &headers).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert!(scene.bytes.ends_with(&reply.body) && !reply.body.is_empty(), "{range}");
    }
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 0);
}

/// Object stores say so of what was put there with that header; the bytes are those of the layer all the same.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_layer_with_a_content_encoding_are_right_or_the_layer_is_fetched_whole() {
    let scene = scene().await;
    let bytes = scene.bytes.clone();
    scene.registry.wrong(move |seen| {
        let range = seen.headers.get("range").and_then(|range| range.to_str().ok());
        let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (start, end) = range.map_or((0, SIZE), |(start, last)| {
            (start.parse().unwrap(), last.parse::<usize>().map_or(SIZE, |last| last + 1))
        });
        let mut headers = vec![("content-encoding", "gzip".to_owned())];
        headers.extend(range.map(|_| ("content-range", format!("bytes {start}-{}/{SIZE}", end - 1))));
        let status = if range.is_some() { 206 } else { 200 };
        seen.path.contains("/blobs/").then(|| Fault::Answer(status, headers, bytes.slice(start..end)))
    });
    assert_eq!(scene.read(5_000_000, 5_004_096).await, ["bytes=5000000-5004095"]);
    assert!(scene.read(5_000_000, 5_004_096).await.is_empty());
    // One that was coded on its way has another size than the manifest says: all of the layer proves itself.
    let image = image::push_layers(&scene.registry, "team/app", "v3", &[noise(4 * MIB, 5)]);
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", image[0]);
    let whole: Bytes = noise(4 * MIB, 5).into();
    scene.registry.behave();
    let right = whole.clone();
    scene.registry.wrong(move |seen| {
        if !seen.path.contains("/blobs/") {
            return None;
        }
        if !seen.headers.contains_key("range") {
            return Some(Fault::Answer(200, vec![], right.clone()));
        }
        let headers = vec![
            ("content-encoding", "gzip".to_owned()),
            ("content-range", "bytes 100-199/3000000".to_owned()),
        ];
        Some(Fault::Answer(206, headers, Bytes::from_static(&[7; 100])))
    });
    let manifest = scene.larder.get_as("/v2/team/app/manifests/v3?ns=reg.test", ANN).await;
    assert_eq!(manifest.status, StatusCode::OK);
    let basic = client::basic(ANN.0, ANN.1);
    let headers = [("authorization", basic.as_str()), ("range", "bytes=100-199")];
    let reply = client::send(scene.larder.address, Method::GET, &path, &headers).await;
    assert_eq!((reply.status, reply.body), (StatusCode::PARTIAL_CONTENT, whole.slice(100..200)));
}
