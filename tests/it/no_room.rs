//! A store without room costs a pull nothing: upstream is asked no more often than by clients alone, and clients of one
//! blob share its body.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use larder::reference::Digest;
use tokio::sync::Semaphore;

use crate::support::client;
use crate::support::image::{self, noise};
use crate::support::registry::Fault;
use crate::support::scene::Scene;
use crate::support::world::files_under;

/// A daemon on a filesystem that others have filled.
async fn without_room() -> Scene {
    Scene::with("[store]\nmin_free = \"100%\"").await
}

impl Scene {
    fn path_of(&self, bytes: &Bytes) -> String {
        format!("/v2/team/app/blobs/{}?ns=reg.test", self.registry.put_blob("team/app", bytes.clone()))
    }

    async fn received_bytes(&self) -> u64 {
        let status = client::get(self.larder.admin, "/v1/status").await.json();
        status["served"]["received_bytes"].as_u64().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_without_room_asks_upstream_exactly_what_the_client_asks() {
    let scene = without_room().await;
    let image = image::push(&scene.registry, "team/app", "v1", 200_000);
    let platform = &image.platforms[0];
    let path = |what: String| format!("/v2/team/app/{what}?ns=reg.test");
    assert!(scene.larder.head(&path("manifests/v1".to_owned())).await.is_well());
    for digest in [image.index, platform.manifest] {
        assert_eq!(scene.larder.get(&path(format!("manifests/{digest}"))).await.digest(), digest);
    }
    let blobs: Vec<Digest> = platform.layers.iter().chain([&platform.config]).copied().collect();
    let get = |digest: Digest| {
        let (larder, path) = (&scene.larder, path(format!("blobs/{digest}")));
        async move {
            let reply = larder.get(&path).await;
            assert!(reply.complete && reply.digest() == digest);
        }
    };
    join_all(blobs.iter().map(|digest| get(*digest))).await;
    scene.larder.settled().await;
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), blobs.len(), "one for each blob");
    let manifests =
        scene.registry.count(Method::GET, "/manifests/") + scene.registry.count(Method::HEAD, "/manifests/");
    assert_eq!(manifests, 3, "as many as the client asked");
    assert!(files_under(&scene.directory.path().join("larder/store/blobs")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_of_a_blob_that_cannot_be_stored_cost_one_download() {
    let scene = without_room().await;
    let bytes = Bytes::from(noise(8 * 1024 * 1024, 1));
    let path = scene.path_of(&bytes);
    let gate = Arc::new(Semaphore::new(0));
    scene.registry.wrong_at("/blobs/", Fault::HoldAfter(100_000, Arc::clone(&gate)));
    let anonymous = [client::ANONYMOUS];
    let opened =
        join_all((0..20).map(|_| client::open(scene.larder.address, Method::GET, &path, &anonymous))).await;
    // The body goes on when all of them are there.
    gate.add_permits(1_000);
    let clients = opened.into_iter().map(|mut response| async move { client::rest(&mut response).await });
    for body in join_all(clients).await {
        assert!(body == bytes);
    }
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1);
    assert_eq!(scene.received_bytes().await, bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_outgrows_the_store_is_passed_on_from_there_without_asking_again() {
    let scene = Scene::with("[store]\nmax_bytes = \"1MiB\"").await;
    let bytes = Bytes::from(noise(4_000_000, 1));
    let path = scene.path_of(&bytes);
    // Without a length it begins to be stored.
    scene.registry.wrong_at("/blobs/", Fault::Chunked);
    let replies = join_all((0..10).map(|_| scene.larder.get(&path))).await;
    for reply in replies {
        assert!(reply.complete && reply.body == bytes);
    }
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1);
    scene.larder.settled().await;
    assert!(files_under(&scene.directory.path().join("larder/store/ingest")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_without_room_costs_that_range() {
    let scene = without_room().await;
    let bytes = Bytes::from(noise(3_000_000, 1));
    let path = scene.path_of(&bytes);
    let reply = scene.larder.get_range(&path, "bytes=1000000-1004095").await;
    assert_eq!((reply.status, reply.body), (StatusCode::PARTIAL_CONTENT, bytes.slice(1_000_000..1_004_096)));
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 1);
    assert_eq!(scene.received_bytes().await, 4_096);
    // From a byte to the end: the answer tells the size.
    let reply = scene.larder.get_range(&path, "bytes=2990000-").await;
    assert_eq!((reply.status, reply.body), (StatusCode::PARTIAL_CONTENT, bytes.slice(2_990_000..)));
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 2);
    assert_eq!(scene.registry.count(Method::HEAD, "/blobs/"), 0);
    assert_eq!(scene.received_bytes().await, 4_096 + 10_000);
    for beyond in ["bytes=3000000-", "bytes=3000000-3000009"] {
        let reply = scene.larder.get_range(&path, beyond).await;
        assert_eq!(
            (reply.status, reply.header("content-range")),
            (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */3000000")
        );
    }
    // A registry that refuses bytes which are there, as the size shows that it says, is another matter.
    scene
        .registry
        .wrong_at("/blobs/", Fault::Status(416, vec![("content-range", "bytes */3000000".to_owned())]));
    assert_eq!(scene.larder.get_range(&path, "bytes=1000-1009").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_of_a_blob_whose_size_nobody_says_are_answered_with_all_of_it_and_not_refused() {
    let scene = without_room().await;
    let bytes = Bytes::from(noise(300_000, 1));
    let path = scene.path_of(&bytes);
    scene.registry.wrong_at("/blobs/", Fault::Unsized);
    for ranges in ["bytes=0-9,1000-1009", "bytes=0-9,-10", "bytes=5-9"] {
        let reply = scene.larder.get_range(&path, ranges).await;
        assert!(reply.complete && reply.status == StatusCode::OK, "{ranges}: {:?}", reply.status);
        assert!(reply.body == bytes && !reply.headers.contains_key("content-range"), "{ranges}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runtimes_that_ask_for_every_layer_by_range_share_its_body_without_room() {
    let scene = without_room().await;
    let bytes = Bytes::from(noise(4 * 1024 * 1024, 1));
    let path = scene.path_of(&bytes);
    let gate = Arc::new(Semaphore::new(0));
    scene.registry.wrong_at("/blobs/", Fault::HoldAfter(100_000, Arc::clone(&gate)));
    let range = [("range", "bytes=0-"), client::ANONYMOUS];
    let opened =
        join_all((0..20).map(|_| client::open(scene.larder.address, Method::GET, &path, &range))).await;
    // The body goes on when all of them are there.
    gate.add_permits(1_000);
    let clients = opened
        .into_iter()
        .map(|mut response| async move { (response.status(), client::rest(&mut response).await) });
    for (status, body) in join_all(clients).await {
        assert!(status == StatusCode::PARTIAL_CONTENT && body == bytes);
    }
    let asked = scene.registry.count(Method::GET, "/blobs/") + scene.registry.count(Method::HEAD, "/blobs/");
    assert_eq!(asked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_that_is_shared_past_the_disk_is_complete_for_no_client() {
    let scene = without_room().await;
    let bytes = Bytes::from(noise(2_000_000, 1));
    let path = scene.path_of(&bytes);
    scene.registry.wrong_at("/blobs/", Fault::Corrupt);
    for reply in join_all((0..5).map(|_| scene.larder.get(&path))).await {
        assert!(!reply.is_well() && reply.body.len() <= 2_000_000 - 64 * 1024, "{} bytes", reply.body.len());
    }
}
