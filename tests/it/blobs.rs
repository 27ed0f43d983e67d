//! Blobs: ranges, one download for many readers, and readers that stall or leave.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use crate::support::client;
use crate::support::image::noise;
use crate::support::registry::{FakeRegistry, Fault, Seen};
use crate::support::scene::{Blob, Scene};
use crate::support::world::Larder;

/// A blob of so many bytes, and where it is asked for.
fn blob(scene: &Scene, len: usize) -> (Bytes, String) {
    let Blob { bytes, path, .. } = scene.blob(len, len as u64);
    (bytes, path)
}

/// Holds every download of a blob after `count` bytes until the permit is given.
fn hold_after(scene: &Scene, count: usize) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    scene.registry.wrong_at("/blobs/", Fault::HoldAfter(count, Arc::clone(&gate)));
    gate
}

async fn read(response: &mut http::Response<hyper::body::Incoming>, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        let frame = response.body_mut().frame().await.expect("more bytes").expect("a whole body");
        got.extend_from_slice(&frame.into_data().unwrap());
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_of_one_cold_blob_cost_one_upstream_request() {
    let scene = Scene::new().await;
    let (bytes, path) = blob(&scene, 3_000_000);
    let gate = hold_after(&scene, 1_000_000);
    let address = scene.larder.address;
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move { client::get(address, &path).await })
        })
        .collect();
    while scene.registry.count(Method::GET, "/blobs/") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.add_permits(100);
    for client in clients {
        let reply = client.await.unwrap();
        assert!(reply.complete && reply.body == bytes);
    }
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1);
    assert_eq!(scene.registry.count(Method::HEAD, "/blobs/"), 0);
    let received = scene.larder.metric(r#"larder_upstream_received_bytes_total{registry="reg.test"}"#).await;
    assert_eq!(received, 3_000_000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_readers_of_one_cold_blob_cost_one_transfer_and_the_slowest_delays_no_other() {
    // This process has both ends of every connection.
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: nofile.maximum, ..nofile };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let scene = Scene::new().await;
    let (bytes, path) = blob(&scene, 3_000_000);
    let gate = hold_after(&scene, 1_000_000);
    let address = scene.larder.address;
    let mut slowest = client::open(address, Method::GET, &path, &[]).await;
    let readers: Vec<_> = (0..1_000)
        .map(|_| {
            let (path, bytes) = (path.clone(), bytes.clone());
            tokio::spawn(async move {
                let mut response = client::open(address, Method::GET, &path, &[]).await;
                let mut at = 0;
                while let Some(frame) = response.body_mut().frame().await {
                    let piece = frame.unwrap().into_data().unwrap();
                    assert!(bytes[at..].starts_with(&piece), "other bytes at {at}");
                    at += piece.len();
                }
                at
            })
        })
        .collect();
    gate.add_permits(1);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 3_000_000);
    }
    assert_eq!(read(&mut slowest, 3_000_000).await, bytes);
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1);
    let received = scene.larder.metric(r#"larder_upstream_received_bytes_total{registry="reg.test"}"#).await;
    assert_eq!(received, 3_000_000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_passed_on_while_upstream_is_still_sending() {
    let scene = Scene::new().await;
    let (bytes, path) = blob(&scene, 1_000_000);
    let gate = hold_after(&scene, 500_000);
    let mut response = client::open(scene.larder.address, Method::GET, &path, &[]).await;
    assert_eq!(response.headers()["content-length"], "1000000");
    let early = read(&mut response, 500_000).await;
    assert_eq!(early, bytes[..early.len()], "half of it, before upstream has sent the rest");
    gate.add_permits(1);
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!([&early[..], &rest[..]].concat(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_is_withheld_until_the_digest_is_verified() {
    let scene = Scene::new().await;
    let (bytes, path) = blob(&scene, 1_000_000);
    let gate = hold_after(&scene, 999_999);
    let mut response = client::open(scene.larder.address, Method::GET, &path, &[]).await;
    let withheld = 64 * 1024;
    let early = read(&mut response, 1_000_000 - withheld).await;
    assert_eq!(early.len(), 1_000_000 - withheld);
    let more = tokio::time::timeout(Duration::from_millis(300), response.body_mut().frame()).await;
    assert!(more.is_err(), "all but one byte has arrived, and the tail is still withheld");
    gate.add_permits(1);
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, bytes[early.len()..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_or_sleeps_changes_nothing_for_the_others_and_the_fill_goes_on() {
    let scene = Scene::new().await;
    let (bytes, path) = blob(&scene, 8_000_000);
    let gate = hold_after(&scene, 1_000_000);
    let mut leaver = client::open(scene.larder.address, Method::GET, &path, &[]).await;
    let sleeper = client::open(scene.larder.address, Method::GET, &path, &[]).await;
    read(&mut leaver, 1).await;
    drop(leaver);
    gate.add_permits(1);
    let reply = scene.larder.get(&path).await;
    assert!(reply.complete && reply.body == bytes, "the stalled reader delays no other");
    scene.larder.settled().await;
    let late = sleeper.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(late, bytes, "and gets its own bytes when it wakes");
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1);

    let (bytes, path) = blob(&scene, 2_000_000);
    scene.registry.behave();
    let gate = hold_after(&scene, 1_000_000);
    drop(client::open(scene.larder.address, Method::GET, &path, &[]).await);
    gate.add_permits(1);
    scene.larder.settled().await;
    scene.registry.stop().await;
    assert_eq!(scene.larder.get(&path).await.body, bytes, "it was stored although no client waited for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_the_same_bytes_cold_in_flight_and_warm() {
    let scene = Scene::new().await;
    let (bytes, path) = blob(&scene, 1_000_000);
    let gate = hold_after(&scene, 400_000);
    let address = scene.larder.address;
    let cases = [
        ("bytes=0-", 0, 1_000_000),
        ("bytes=70000-299999", 70_000, 300_000),
        ("bytes=-5", 999_995, 1_000_000),
    ];
    let mut in_flight = Vec::new();
    for (range, start, end) in cases {
        let path = path.clone();
        let ask = async move { client::send(address, Method::GET, &path, &[("range", range)]).await };
        in_flight.push((tokio::spawn(ask), start, end));
        // The download must have begun: a small range that came before it would be fetched alone.
        while scene.registry.count(Method::GET, "/blobs/") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.add_permits(10);
    let check = |reply: client::Reply, start: usize, end: usize| {
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/1000000", end - 1));
        assert_eq!(reply.header("content-length"), (end - start).to_string());
        assert!(reply.complete && reply.body == bytes[start..end]);
    };
    for (asked, start, end) in in_flight {
        check(asked.await.unwrap(), start, end);
    }
    scene.larder.settled().await;
    for (range, start, end) in cases {
        check(scene.larder.get_range(&path, range).await, start, end);
    }
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_at_the_edges() {
    let scene = Scene::new().await;
    let (bytes, path) = blob(&scene, 1_000);
    let reply = scene.larder.get_range(&path, "bytes=1000-").await;
    assert_eq!(reply.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(reply.header("content-range"), "bytes */1000");
    for ignored in ["bytes=5-2", "lines=0-1"] {
        let reply = scene.larder.get_range(&path, ignored).await;
        assert_eq!((reply.status, &reply.body), (StatusCode::OK, &bytes), "{ignored}");
    }
    let both = [("range", "bytes=0-1"), ("if-range", "\"x\"")];
    let reply = client::send(scene.larder.address, Method::GET, &path, &both).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("accept-ranges"), "bytes");

    let (_, empty) = blob(&scene, 0);
    let reply = scene.larder.get_range(&empty, "bytes=0-").await;
    assert_eq!(
        (reply.status, reply.body.len()),
        (StatusCode::OK, 0),
        "containerd's parallel mode asks like this"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_without_a_length_arrives_whole_and_can_be_ranged_over() {
    let scene = Scene::new().await;
    for len in [10, 65_536, 65_537, 1_000_000] {
        let (bytes, path) = blob(&scene, len);
        scene.registry.wrong_at("/blobs/", Fault::Chunked);
        let reply = scene.larder.get_range(&path, "bytes=1-").await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{len}");
        assert_eq!(reply.body, bytes[1..]);
        let (bytes, path) = blob(&scene, len + 7);
        let reply = scene.larder.get(&path).await;
        assert!(reply.complete && reply.body == bytes, "{len}");
        assert_eq!(scene.larder.get(&path).await.body, bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_blob_has_its_length_though_its_registry_says_none() {
    let scene = Scene::new().await;
    scene.registry.wrong_at("/blobs/", Fault::Unsized);
    for (len, seed) in [(10, 1), (65_536, 1), (1_000_000, 1), (1_000_000, 2)] {
        let Blob { bytes, path, digest } = scene.blob(len, seed);
        for _ in ["cold", "warm"] {
            let reply = scene.larder.head(&path).await;
            assert_eq!(reply.status, StatusCode::OK, "{len}");
            assert_eq!(reply.header("content-length"), len.to_string());
            assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        }
        assert_eq!(scene.larder.get(&path).await.body, bytes);
        let whole = |seen: &&Seen| seen.method == Method::GET && !seen.headers.contains_key("range");
        let seen = scene.registry.seen();
        let asked = seen.iter().filter(|seen| seen.path.contains(&digest.to_string())).filter(whole);
        assert_eq!(asked.count(), 1, "it was fetched for its size, and again for its bytes");
    }
    // What is wrong has no length.
    scene.registry.behave();
    scene.registry.wrong_at("/blobs/", Fault::Answer(200, vec![], Bytes::from_static(b"something else")));
    scene.registry.wrong(|seen| {
        (seen.method == Method::HEAD || seen.headers.contains_key("range"))
            .then(|| Fault::Status(404, vec![]))
    });
    let Blob { path, .. } = scene.blob(1_000, 3);
    assert!(!scene.larder.head(&path).await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_one_registry_that_stall_leave_every_other_registry_its_places() {
    let scene = Scene::new().await;
    let other = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    let registries = [("reg.test", scene.registry.url()), ("other.test", other.url())];
    let scene = Scene { larder: Larder::start(directory.path(), &registries, ""), ..scene };
    let (bytes, warm) = blob(&scene, 200_000);
    assert_eq!(scene.larder.get(&warm).await.body, bytes);
    scene.registry.wrong_at("/blobs/", Fault::StallAfter(1));
    let address = scene.larder.address;
    let asked: Vec<_> = (0..500)
        .map(|n| {
            let (_, path) = blob(&scene, 300_000 + n);
            tokio::spawn(async move { client::open(address, Method::GET, &path, &[]).await })
        })
        .collect();
    let mut held = Vec::new();
    for asked in asked {
        held.push(asked.await.unwrap());
    }
    let turned_away = held.iter().filter(|r| r.status() == StatusCode::SERVICE_UNAVAILABLE).count();
    assert_eq!(
        turned_away,
        500 - 192 - 192,
        "some are passed through past the disk, the rest get 503 at once"
    );
    assert_eq!(scene.larder.get(&warm).await.body, bytes, "and what is here is served all the same");
    let theirs = Bytes::from(noise(300_000, 7));
    let path = format!("/v2/team/app/blobs/{}?ns=other.test", other.put_blob("team/app", theirs.clone()));
    for _ in 0..2 {
        assert_eq!(scene.larder.get(&path).await.body, theirs, "another registry has a place");
    }
    assert_eq!(other.count(Method::GET, "/blobs/"), 1, "in the store, too");
}
