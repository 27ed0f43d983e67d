//! Ranges of blobs that are being downloaded: near the readable offset they wait, far ahead they are requested alone.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use larder::reference::MediaType;
use tokio::sync::Semaphore;

use crate::support::client::{self, ANONYMOUS};
use crate::support::image::noise;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

const SIZE: usize = 20_000_000;

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    _directory: tempfile::TempDir,
    bytes: Bytes,
    path: String,
    gate: Arc<Semaphore>,
}

/// A registry that stops in the middle of a whole body until the gate is opened. What is left by then is too little for
/// a second connection, which would be opened if the gate stayed shut for long.
async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(SIZE, 4));
    let digest = registry.put_blob("team/app", bytes.clone());
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    registry.wrong(move |seen| {
        let whole = seen.method == Method::GET
            && seen.path.contains("/blobs/")
            && !seen.headers.contains_key("range");
        whole.then(|| Fault::HoldAfter(4_000_000, Arc::clone(&held)))
    });
    let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    Scene { registry, larder, _directory: directory, bytes, path, gate }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_far_ahead_does_not_wait_for_the_fill() {
    let scene = scene().await;
    let leader = client::open(scene.larder.address, Method::GET, &scene.path, &[ANONYMOUS]).await;
    assert_eq!(leader.status(), StatusCode::OK);
    for start in [15_000_000, 19_999_990] {
        let reply = scene.larder.get_range(&scene.path, &format!("bytes={start}-")).await;
        assert!(reply.complete && reply.body == scene.bytes.slice(start..), "{start}");
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/{SIZE}", SIZE - 1));
    }
    let part = scene.larder.get_range(&scene.path, "bytes=13000000-13000999").await;
    assert_eq!(part.body, scene.bytes.slice(13_000_000..13_001_000));
    assert!(
        scene.larder.metric(r#"larder_passthrough_bytes_total{reason="out_of_order"}"#).await >= 5_000_000.0
    );
    scene.gate.add_permits(1);
    let whole = leader.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(whole, scene.bytes);
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 4);
    // The last five million bytes were stored before the fill reached them.
    let received = scene.larder.metric(r#"larder_upstream_received_bytes_total{registry="reg.test"}"#).await;
    assert!(received < 21_500_000.0, "{received} bytes were received");
    let warm = scene.larder.get_range(&scene.path, "bytes=14000000-").await;
    assert!(warm.body == scene.bytes.slice(14_000_000..), "what was kept is what is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_ignores_or_refuses_ranges_is_waited_for_instead() {
    for fault in [Fault::IgnoreRange, Fault::Status(429, vec![]), Fault::Status(404, vec![])] {
        waits_for_the_fill(fault).await;
    }
}

async fn waits_for_the_fill(fault: Fault) {
    let scene = scene().await;
    scene.registry.wrong(move |seen| seen.headers.contains_key("range").then(|| fault.clone()));
    let leader = client::open(scene.larder.address, Method::GET, &scene.path, &[ANONYMOUS]).await;
    let (address, path) = (scene.larder.address, scene.path.clone());
    let far = tokio::spawn(async move {
        client::send(address, Method::GET, &path, &[("range", "bytes=15000000-15000009"), ANONYMOUS]).await
    });
    while scene.registry.count(Method::GET, "/blobs/") < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    scene.gate.add_permits(1);
    assert_eq!(far.await.unwrap().body, scene.bytes.slice(15_000_000..15_000_010));
    drop(leader);
}

/// containerd 2.1 and later with `concurrent_layer_fetch_buffer`: every `GET` has `Range: bytes=0-`, chunks are
/// open-ended, and the connection is closed in the middle of the body.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fetches_in_parallel_open_ended_chunks_gets_the_right_bytes_cold_and_warm() {
    const CHUNK: usize = 3_000_000;
    let scene = scene().await;
    scene.gate.add_permits(100);
    for temperature in ["cold", "warm"] {
        let chunks = (0..SIZE.div_ceil(CHUNK)).map(|n| {
            let (address, path) = (scene.larder.address, scene.path.clone());
            tokio::spawn(async move {
                let range = format!("bytes={}-", n * CHUNK);
                let mut response =
                    client::open(address, Method::GET, &path, &[("range", range.as_str()), ANONYMOUS]).await;
                assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
                let wanted = CHUNK.min(SIZE - n * CHUNK);
                let mut got = Vec::new();
                while got.len() < wanted {
                    let frame = response.body_mut().frame().await.unwrap().unwrap();
                    got.extend_from_slice(&frame.into_data().unwrap());
                }
                got.truncate(wanted);
                got
            })
        });
        let mut all = Vec::new();
        for chunk in chunks.collect::<Vec<_>>() {
            all.extend(chunk.await.unwrap());
        }
        assert!(all == scene.bytes, "{temperature}");
        scene.larder.settled().await;
    }
    let failed = scene.larder.metric(r#"larder_errors_total{reason="abandoned"}"#).await;
    assert_eq!(failed, 0.0, "a client that leaves is no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_part_of_a_cold_blob_comes_alone_and_a_larger_one_downloads_all_of_it() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(33 * 1024 * 1024, 5));
    let size = bytes.len();
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", registry.put_blob("team/app", bytes.clone()));
    for (start, last) in [(0, 0), (1_000, 300_999), (30_000_000, 30_500_000), (size - 10, size + 10)] {
        let reply = larder.get_range(&path, &format!("bytes={start}-{last}")).await;
        let end = (last + 1).min(size);
        assert!(reply.complete && reply.body == bytes.slice(start..end), "{start}-{last}");
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/{size}", end - 1));
    }
    assert_eq!(larder.metric("larder_store_blobs").await, 0.0);
    let asked: Vec<_> =
        registry.seen().iter().filter_map(|seen| seen.headers.get("range").cloned()).collect();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert_eq!(larder.get_range(&path, &format!("bytes={}-{}", size + 5, size + 9)).await.status, 416);
    registry.forget_seen();
    let reply = larder.get_range(&path, "bytes=0-2000000").await;
    assert_eq!(reply.body, bytes.slice(..2_000_001));
    assert!(client::get(larder.address, &path).await.body == bytes);
    assert_eq!(registry.count(Method::GET, "/blobs/"), 1, "a larger part fetches all of it, once");
    let small = Bytes::from(noise(1_000_000, 6));
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", registry.put_blob("team/app", small.clone()));
    assert_eq!(larder.get_range(&path, "bytes=5-9").await.body, small.slice(5..10));
    assert!(client::get(larder.address, &path).await.body == small);
    assert_eq!(registry.count(Method::GET, "/blobs/"), 3, "the part, and the whole blob");
    let little = Bytes::from(noise(10_000, 7));
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", registry.put_blob("team/app", little.clone()));
    for range in ["bytes=5-4100", "bytes=10-19"] {
        assert_eq!(larder.get_range(&path, range).await.status, StatusCode::PARTIAL_CONTENT);
        larder.settled().await;
    }
    assert_eq!(registry.count(Method::GET, "/blobs/"), 5, "the part that told the size, and the whole blob");
}

/// A layer that comes without a length and stops after 300,000 bytes until the gate is opened, in an image whose manifest
/// says that it has `declared` bytes: a client that has begun to read all of it as a range.
async fn begun_without_a_length(bytes: &Bytes, declared: usize) -> (Larder, Begun) {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let digest = registry.put_blob("team/app", bytes.clone());
    let config = registry.put_blob("team/app", &b"{}"[..]);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{0}","layers":[{{"mediaType":"x/y","digest":"{digest}","size":{declared}}}],"config":{{"mediaType":"x/y","digest":"{config}","size":2}}}}"#,
        MediaType::OCI_MANIFEST
    );
    registry.put_manifest("team/app", Some("v1"), MediaType::OCI_MANIFEST, manifest);
    let gate = Arc::new(Semaphore::new(0));
    registry.wrong_at(&digest.to_string(), Fault::ChunkedHoldAfter(300_000, Arc::clone(&gate)));
    assert_eq!(larder.get("/v2/team/app/manifests/v1?ns=reg.test").await.status, StatusCode::OK);
    let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    let head = client::open(larder.address, Method::GET, &path, &[("range", "bytes=0-"), ANONYMOUS]);
    let head = tokio::time::timeout(std::time::Duration::from_secs(10), head).await;
    let mut response = head.expect("the head waits for the whole layer");
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(response.headers()["content-range"], format!("bytes 0-{}/{declared}", declared - 1));
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    let first = frame.into_data().unwrap();
    assert!(!first.is_empty() && first == bytes.slice(..first.len()));
    gate.add_permits(1);
    (larder, Begun { response, first, path, _directory: directory, _registry: registry })
}

struct Begun {
    response: http::Response<hyper::body::Incoming>,
    first: Bytes,
    path: String,
    _directory: tempfile::TempDir,
    _registry: FakeRegistry,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_range_does_not_wait_for_all_of_a_layer_that_comes_without_a_length() {
    let bytes = Bytes::from(noise(1_000_000, 9));
    let (larder, mut begun) = begun_without_a_length(&bytes, bytes.len()).await;
    let rest = client::rest(&mut begun.response).await;
    assert!([begun.first, rest].concat() == bytes);
    larder.settled().await;
    assert_eq!(larder.get_range(&begun.path, "bytes=5-9").await.body, bytes.slice(5..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_a_manifest_states_wrongly_completes_no_wrong_body() {
    let bytes = Bytes::from(noise(1_000_000, 9));
    for declared in [900_000, 1_200_000] {
        let (larder, begun) = begun_without_a_length(&bytes, declared).await;
        assert!(
            begun.response.into_body().collect().await.is_err(),
            "{declared}: it ends as if it were whole"
        );
        larder.settled().await;
        let again = larder.get_range(&begun.path, "bytes=0-").await;
        assert!(again.complete && again.body == bytes, "{declared}: stored, it is served as it is");
    }
}
