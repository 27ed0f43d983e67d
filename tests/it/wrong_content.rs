//! A mirror that delivers wrong content, before a registry that has the right one: the pull goes on at the registry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::{Digest, MediaType};
use tokio::sync::Semaphore;

use crate::support::client::{self, Reply};
use crate::support::fault::redirect;
use crate::support::image::{self, noise};
use crate::support::registry::{FakeRegistry, Fault, Seen};
use crate::support::world::Larder;

/// Larger than what is withheld past the disk while a mirror delivers it.
const LARGE: usize = 9_000_000;
/// Larger than the tail that is withheld.
const LAYER: usize = 1_000_000;
/// Withheld whole.
const CONFIG: usize = 1_000;

struct Scene {
    mirror: FakeRegistry,
    registry: FakeRegistry,
    larder: Larder,
    _directory: tempfile::TempDir,
}

/// A mirror and then the registry itself, as endpoints of `reg.test`.
async fn scene(more: &str) -> Scene {
    let (mirror, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let marked =
        format!("{{ url = \"{}\", credentials = \"caller\", authoritative = true }}", registry.url());
    let endpoints = format!("[\"{}\", {marked}]", mirror.url());
    let more = format!("{more}\n[[registry]]\nhost = \"reg.test\"\nendpoints = {endpoints}");
    let larder = Larder::start(directory.path(), &[], &more);
    Scene { mirror, registry, larder, _directory: directory }
}

impl Scene {
    /// A blob that both have, and a right to the repository, so that the mirror may deliver it.
    async fn blob(&self, len: usize, seed: u64) -> (Bytes, String) {
        let image = image::push(&self.registry, "team/app", "v1", 10);
        let reply = self.larder.get(&format!("/v2/team/app/manifests/{}?ns=reg.test", image.index)).await;
        assert_eq!(reply.body, image.index_bytes);
        let bytes = Bytes::from(noise(len, seed));
        self.registry.put_blob("team/app", bytes.clone());
        let digest = self.mirror.put_blob("team/app", bytes.clone());
        for endpoint in [&self.mirror, &self.registry] {
            endpoint.forget_seen();
        }
        (bytes, path_of(digest))
    }

    fn asked(&self) -> (usize, usize) {
        let of = |endpoint: &FakeRegistry| endpoint.count(Method::GET, "/blobs/");
        (of(&self.mirror), of(&self.registry))
    }

    async fn wrong(&self, reason: &str) -> f64 {
        let host = self.mirror.address;
        let name = "larder_upstream_wrong_content_total";
        let labels = format!(r#"{{endpoint="{host}",reason="{reason}",registry="reg.test"}}"#);
        self.larder.metric(&format!("{name}{labels}")).await
    }

    /// The next pull is served from the store.
    async fn is_stored(&self, path: &str, bytes: &Bytes) {
        self.larder.settled().await;
        let before = self.asked();
        let reply = self.larder.get(path).await;
        assert!(is_whole(&reply, bytes));
        assert_eq!(self.asked(), before, "it was not stored");
    }
}

fn path_of(digest: Digest) -> String {
    format!("/v2/team/app/blobs/{digest}?ns=reg.test")
}

fn is_whole(reply: &Reply, bytes: &Bytes) -> bool {
    reply.status == StatusCode::OK && reply.complete && reply.body == bytes
}

fn html() -> Fault {
    let headers = vec![("content-type", "text/html".to_owned())];
    Fault::Answer(200, headers, Bytes::from_static(b"<html>sign in</html>"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_damaged_config_never_reaches_a_client() {
    let scene = scene("").await;
    let encoded = Fault::Answer(200, vec![("content-encoding", "gzip".into())], Bytes::from_static(b"x"));
    for (seed, fault, reason) in [
        (1, Fault::Corrupt, "digest"),
        (2, html(), "digest"),
        (3, Fault::Answer(200, vec![], Bytes::new()), "digest"),
        (4, Fault::Answer(200, vec![], Bytes::from(noise(CONFIG + 1, 9))), "digest"),
        (5, Fault::CloseAfter(100), "broken_off"),
        (6, encoded, ""),
        (7, Fault::Status(404, vec![]), ""),
    ] {
        let (bytes, path) = scene.blob(CONFIG, seed).await;
        scene.mirror.behave();
        scene.mirror.wrong_at("/blobs/", fault);
        let before = scene.wrong(reason).await;
        assert!(is_whole(&scene.larder.get(&path).await, &bytes), "{seed}");
        assert_eq!(scene.asked(), (1, 1), "{seed}: each endpoint is asked once");
        let counted = if reason.is_empty() { 0.0 } else { 1.0 };
        assert_eq!(scene.wrong(reason).await - before, counted, "{seed}: {reason}");
        scene.is_stored(&path, &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_says_of_a_manifests_type_is_not_its_registrys_word() {
    let scene = scene("").await;
    // A right to the repository, so that the mirror is asked.
    scene.blob(10, 1).await;
    let said = [
        MediaType::OCI_MANIFEST,
        MediaType::DOCKER_LIST,
        MediaType::DOCKER_SCHEMA_1_SIGNED,
        "binary/octet-stream",
        "text/html",
    ];
    for (n, said) in said.into_iter().enumerate() {
        let image = image::push(&scene.registry, "team/app", &format!("v{n}"), 20 + n);
        let answer = Fault::Answer(200, vec![("content-type", said.to_owned())], image.index_bytes.clone());
        scene.mirror.wrong_at("/manifests/", answer);
        let reply = scene.larder.get(&format!("/v2/team/app/manifests/{}?ns=reg.test", image.index)).await;
        assert_eq!(reply.body, image.index_bytes, "{said}");
        assert_eq!(reply.header("content-type"), MediaType::OCI_INDEX, "{said}");
        assert_eq!(scene.mirror.count(Method::GET, "/manifests/"), n + 1, "the mirror is asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_a_mirror_damages_or_breaks_off_is_pulled_all_the_same() {
    let scene = scene("[upstream]\nidle_timeout = \"300ms\"").await;
    for (seed, fault, reason) in [
        (1, Fault::DamagedEnd, "digest"),
        (2, Fault::CloseAfter(300_000), "broken_off"),
        (4, Fault::CloseAfter(0), "broken_off"),
        (5, Fault::Corrupt, "digest"),
        (3, Fault::StallAfter(300_000), "broken_off"),
    ] {
        let (bytes, path) = scene.blob(LAYER, seed).await;
        scene.mirror.behave();
        scene.mirror.wrong_at("/blobs/", fault);
        let before = scene.wrong(reason).await;
        assert!(is_whole(&scene.larder.get(&path).await, &bytes), "{seed}");
        assert_eq!(scene.asked(), (1, 1), "{seed}");
        assert_eq!(scene.wrong(reason).await - before, 1.0, "{seed}: {reason}");
        scene.is_stored(&path, &bytes).await;
    }
    // A mirror that stalls is not waited for a second time.
    let (bytes, path) = scene.blob(LAYER, 6).await;
    assert!(is_whole(&scene.larder.get(&path).await, &bytes));
    assert_eq!(scene.asked(), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_layer_that_a_mirror_damages_anywhere_is_pulled_all_the_same() {
    let scene = scene("").await;
    for (seed, fault) in [(1, Fault::Corrupt), (2, Fault::DamagedEnd)] {
        let (bytes, path) = scene.blob(LARGE, seed).await;
        scene.mirror.behave();
        scene.mirror.wrong_at("/blobs/", fault);
        assert!(is_whole(&scene.larder.get(&path).await, &bytes), "{seed}");
        assert_eq!(scene.asked(), (1, 1), "{seed}");
        scene.is_stored(&path, &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_sent_a_mirrors_wrong_bytes_is_cut_off_and_others_are_served() {
    // Past the disk a blob of this size goes out as it comes.
    let scene = scene("[store]\nmax_bytes = \"1MiB\"").await;
    let (bytes, path) = scene.blob(LARGE, 1).await;
    let gate = Arc::new(Semaphore::new(0));
    // The byte in the middle is wrong, and sent before the rest arrives.
    scene.mirror.wrong_at("/blobs/", Fault::CorruptAfter(8_000_000, Arc::clone(&gate)));
    let mut early = client::begin(scene.larder.address, &path).await;
    early.read(7_000_000).await;
    gate.add_permits(1);
    let early = early.finish().await;
    assert!(!early.complete && early.body.len() < bytes.len(), "a whole body of wrong content");
    let asked = scene.asked().0;
    let late = scene.larder.get(&path).await;
    assert!(is_whole(&late, &bytes), "a client that came later");
    assert_eq!(scene.asked().0, asked, "the mirror is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_sent_a_mirrors_right_bytes_goes_on_with_the_registrys() {
    let scene = scene("[store]\nmax_bytes = \"1MiB\"").await;
    let (bytes, path) = scene.blob(LARGE, 1).await;
    let gate = Arc::new(Semaphore::new(0));
    scene.mirror.wrong_at("/blobs/", Fault::DamagedEndAfter(500_000, Arc::clone(&gate)));
    let mut early = client::begin(scene.larder.address, &path).await;
    early.read(400_000).await;
    gate.add_permits(1);
    let early = early.finish().await;
    assert!(early.complete && early.body == bytes, "{} bytes", early.body.len());
    assert_eq!(scene.asked(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_wrong_manifest_is_neither_served_nor_taken_for_an_answer() {
    let scene = scene("").await;
    for (seed, fault) in [
        html(),
        Fault::Answer(
            200,
            vec![("content-type", MediaType::OCI_INDEX.to_owned())],
            Bytes::from_static(b"{}"),
        ),
        Fault::CloseAfter(50),
        Fault::Answer(200, vec![], Bytes::new()),
    ]
    .into_iter()
    .enumerate()
    {
        let image = image::push(&scene.registry, "team/app", "v1", 1_000 + seed);
        image::push(&scene.mirror, "team/app", "v1", 1_000 + seed);
        let resolved = scene.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(resolved.body, image.index_bytes);
        scene.mirror.behave();
        scene.mirror.wrong_at("/manifests/", fault);
        let manifest = image.platforms[0].manifest;
        let reply = scene.larder.get(&format!("/v2/team/app/manifests/{manifest}?ns=reg.test")).await;
        assert_eq!((reply.status, Digest::of(&reply.body)), (StatusCode::OK, manifest), "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_open_ranges_is_asked_for_a_closed_one_and_then_for_the_whole() {
    for refuses_all in [false, true] {
        let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
        let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
        let bytes = Bytes::from(noise(LAYER, 3));
        let path = path_of(registry.put_blob("team/app", bytes.clone()));
        registry.wrong(move |seen| {
            let range = range_of(seen)?;
            (refuses_all || range.ends_with('-')).then_some(Fault::Status(416, vec![]))
        });
        registry.wrong_once("/blobs/", Fault::CloseAfter(300_000));
        assert!(is_whole(&larder.get(&path).await, &bytes));
        let ranges: Vec<_> = registry.seen().iter().map(|seen| range_of(seen).unwrap_or_default()).collect();
        let expected = ["", "bytes=300000-", "bytes=300000-999999", ""];
        assert_eq!(ranges, expected[..if refuses_all { 4 } else { 3 }]);
    }
}

fn range_of(seen: &Seen) -> Option<String> {
    Some(seen.headers.get("range")?.to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_that_expired_is_replaced_by_a_new_one() {
    let (registry, store) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let trusted = format!("[upstream]\ntrusted_redirects = [\"{}\"]", store.address);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &trusted);
    for (n, status) in [400_u16, 401, 403, 404, 410].into_iter().enumerate() {
        registry.behave();
        store.behave();
        let bytes = Bytes::from(noise(LAYER, n as u64));
        let digest = registry.put_blob("team/app", bytes.clone());
        store.put_blob("bucket", bytes.clone());
        let target = format!("{}/v2/bucket/blobs/{digest}?sig=secret", store.url());
        registry.wrong(move |seen| seen.path.contains("/blobs/").then(|| redirect(target.clone())));
        // The first URL breaks off, and has expired when the rest is asked for; so has the next one.
        store.wrong_once("/blobs/", Fault::Status(status, vec![]));
        store.wrong_once("/blobs/", Fault::CloseAfter(300_000));
        registry.forget_seen();
        assert!(is_whole(&larder.get(&path_of(digest)).await, &bytes), "{status}");
        assert_eq!(registry.count(Method::GET, "/blobs/"), 3, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_for_a_moment_fails_no_pull_in_mid_body() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(LAYER, 3));
    let path = path_of(registry.put_blob("team/app", bytes.clone()));
    registry.wrong_once("/blobs/", Fault::StallAfter(300_000));
    let mut reply = client::begin(larder.address, &path).await;
    reply.read(200_000).await;
    registry.stop().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    registry.restart().await;
    let reply = reply.finish().await;
    assert!(reply.complete && reply.body == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_through_past_the_store_goes_on_at_the_next_endpoint_too() {
    let scene = scene("[store]\nmax_bytes = \"1MiB\"").await;
    for (seed, fault, whole) in [
        (1, Fault::DamagedEnd, true),
        (2, Fault::CloseAfter(300_000), true),
        (3, Fault::Answer(200, vec![], Bytes::from(noise(10, 9))), true),
        (4, Fault::Corrupt, false),
    ] {
        let (bytes, path) = scene.blob(LARGE, seed).await;
        scene.mirror.behave();
        scene.mirror.wrong_at("/blobs/", fault);
        let reply = scene.larder.get(&path).await;
        assert_eq!(is_whole(&reply, &bytes), whole, "{seed}: {} bytes", reply.body.len());
        assert!(whole || !reply.complete, "a whole body of wrong content");
        // The mirror is not asked for it any more.
        let mirror_before = scene.asked().0;
        assert!(is_whole(&scene.larder.get(&path).await, &bytes), "{seed}: the next pull");
        assert_eq!(scene.asked().0, mirror_before, "{seed}");
    }
}
