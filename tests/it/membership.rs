//! What a repository may hand out: only what its own upstream delivered or its own registry confirmed.

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::{Digest, MediaType};

use crate::support::image::{self, noise};
use crate::support::registry::FakeRegistry;
use crate::support::world::Larder;

struct Scene {
    victim: FakeRegistry,
    evil: FakeRegistry,
    larder: Larder,
    directory: tempfile::TempDir,
}

async fn scene() -> Scene {
    let (victim, evil, directory) =
        (FakeRegistry::start().await, FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let registries = [("victim.test", victim.url()), ("evil.test", evil.url())];
    let larder = Larder::start(directory.path(), &registries, "");
    Scene { victim, evil, larder, directory }
}

impl Scene {
    async fn get(&self, registry: &str, what: &str) -> crate::support::client::Reply {
        self.larder.get(&format!("/v2/team/app/{what}?ns={registry}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lists_another_registrys_digests_gives_no_access() {
    let scene = scene().await;
    let secret = image::push(&scene.victim, "team/app", "v1", 100_000);
    let private = &secret.platforms[0];
    scene.get("victim.test", "manifests/v1").await;
    scene.get("victim.test", &format!("manifests/{}", private.manifest)).await;
    let layer = scene.get("victim.test", &format!("blobs/{}", private.layers[0])).await;
    assert_eq!(layer.status, StatusCode::OK);

    // The attacker's registry publishes the victim's index, and claims to have every blob in it.
    scene.evil.put_manifest("team/app", Some("mine"), MediaType::OCI_INDEX, secret.index_bytes.clone());
    let index = scene.get("evil.test", "manifests/mine").await;
    assert_eq!(index.status, StatusCode::OK, "its own index is its own");
    for what in [
        format!("manifests/{}", private.manifest),
        format!("blobs/{}", private.config),
        format!("blobs/{}", private.layers[0]),
        format!("blobs/{}", private.manifest),
    ] {
        assert_eq!(scene.get("evil.test", &what).await.status, StatusCode::NOT_FOUND, "{what}");
        let path = format!("/v2/team/app/{what}?ns=evil.test");
        assert_eq!(scene.larder.head(&path).await.status, StatusCode::NOT_FOUND, "{what}");
        assert_eq!(scene.larder.get_range(&path, "bytes=0-5").await.status, StatusCode::NOT_FOUND, "{what}");
    }
    scene.evil.stop().await;
    let away = scene.get("evil.test", &format!("blobs/{}", private.layers[0])).await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE, "an outage is no proof either");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_confirms_everything_still_has_to_deliver() {
    let scene = scene().await;
    let secret = Bytes::from(noise(100_000, 5));
    let digest = scene.victim.put_blob("team/app", secret.clone());
    assert_eq!(scene.get("victim.test", &format!("blobs/{digest}")).await.body, secret);

    // The registry answers every HEAD with 200, and every GET with other bytes.
    scene.evil.put_blob("team/app", secret.clone());
    scene.evil.wrong(|seen| {
        (seen.method == Method::GET && seen.path.contains("/blobs/"))
            .then_some(crate::support::registry::Fault::Corrupt)
    });
    let head = scene.larder.head(&format!("/v2/team/app/blobs/{digest}?ns=evil.test")).await;
    assert_eq!(head.status, StatusCode::OK, "what it says about itself is its own business");
    let reply = scene.get("evil.test", &format!("blobs/{digest}")).await;
    assert!(!reply.is_well(), "{:?}", reply.status);
    assert_ne!(reply.body, secret);

    // Once the registry delivers the bytes, its repository may hand them out.
    scene.evil.behave();
    assert_eq!(scene.get("evil.test", &format!("blobs/{digest}")).await.body, secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_of_the_same_registry_saves_the_transfer_only_after_upstream_confirmed_it() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(100_000, 6));
    let digest: Digest = registry.put_blob("team/base", bytes.clone());
    let at = |repository: &str| format!("/v2/{repository}/blobs/{digest}?ns=reg.test");
    assert_eq!(larder.get(&at("team/base")).await.body, bytes);

    assert_eq!(larder.get(&at("team/other")).await.status, StatusCode::NOT_FOUND, "upstream denies it");
    registry.put_blob("team/app", bytes.clone());
    registry.forget_seen();
    assert_eq!(larder.get(&at("team/app")).await.body, bytes);
    let methods: Vec<_> = registry.seen().iter().map(|s| s.method.clone()).collect();
    assert_eq!(methods, [Method::HEAD], "a question, and no second transfer");
    registry.forget_seen();
    assert_eq!(larder.get(&at("team/app")).await.body, bytes);
    assert!(registry.seen().is_empty(), "the yes is remembered");
    larder.metric_becomes("larder_store_blobs", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_a_download_from_another_repository_needs_its_own_right() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(1_000_000, 7));
    let digest = registry.put_blob("team/base", bytes.clone());
    registry.put_blob("team/app", bytes.clone());
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    registry.wrong(move |seen| {
        (seen.method == Method::GET)
            .then(|| crate::support::registry::Fault::HoldAfter(500_000, std::sync::Arc::clone(&gate)))
    });
    let at = |repository: &str| format!("/v2/{repository}/blobs/{digest}?ns=reg.test");
    let leader = crate::support::client::open(larder.address, Method::GET, &at("team/base"), &[]).await;
    assert_eq!(leader.status(), StatusCode::OK);
    assert_eq!(larder.get(&at("team/stranger")).await.status, StatusCode::NOT_FOUND);
    let joiner = crate::support::client::open(larder.address, Method::GET, &at("team/app"), &[]).await;
    assert_eq!(joiner.status(), StatusCode::OK);
    let second = crate::support::client::open(larder.address, Method::GET, &at("team/app"), &[]).await;
    assert_eq!(second.status(), StatusCode::OK);
    assert_eq!(
        registry.count(Method::HEAD, "team/app/blobs/"),
        2,
        "an answer without a digest proves no right"
    );
    assert_eq!(registry.count(Method::GET, "/blobs/"), 2, "the leader's, and the one that confirms a 404");
    assert_eq!(registry.count(Method::HEAD, "team/stranger/blobs/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_registry_does_not_hold_up_the_same_digest_from_another() {
    let scene = scene().await;
    let bytes = Bytes::from(noise(500_000, 8));
    let digest = scene.victim.put_blob("team/app", bytes.clone());
    scene.evil.put_blob("team/app", bytes.clone());
    scene.evil.wrong_at("/blobs/", crate::support::registry::Fault::StallAfter(100_000));
    let path = format!("/v2/team/app/blobs/{digest}?ns=evil.test");
    let stalled = crate::support::client::open(scene.larder.address, Method::GET, &path, &[]).await;
    assert_eq!(stalled.status(), StatusCode::OK);
    assert_eq!(scene.get("victim.test", &format!("blobs/{digest}")).await.body, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_names_on_two_registries_are_two_images() {
    let scene = scene().await;
    let one = image::push(&scene.victim, "team/app", "v1", 1_000);
    let other = image::push(&scene.evil, "team/app", "v1", 2_000);
    for _ in 0..20 {
        assert_eq!(scene.get("victim.test", "manifests/v1").await.body, one.index_bytes);
        assert_eq!(scene.get("evil.test", "manifests/v1").await.body, other.index_bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_of_bytes_that_the_registry_never_delivered_gives_no_access() {
    let mut scene = scene().await;
    let image = image::push(&scene.victim, "team/app", "v1", 1_000);
    let manifest = format!("manifests/{}", image.index);
    let layer = format!("blobs/{}", image.platforms[0].layers[0]);
    for what in [&manifest, &layer] {
        assert_eq!(scene.get("victim.test", what).await.status, StatusCode::OK);
    }
    scene.larder.settled().await;
    scene.larder.stop().await;
    // As after copying by hand, or after a loss of the registry's record of delivered bytes.
    let received = scene.directory.path().join("larder/store/refs/victim.test/_received");
    std::fs::remove_dir_all(received).unwrap();
    let registries = [("victim.test", scene.victim.url()), ("evil.test", scene.evil.url())];
    scene.larder = Larder::start(scene.directory.path(), &registries, "");
    scene.victim.forget_seen();
    for what in [&manifest, &layer] {
        assert_eq!(scene.get("victim.test", what).await.status, StatusCode::OK);
        assert_eq!(scene.victim.count(Method::GET, what), 1, "{what} has to be delivered again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_serves_under_any_name_is_handed_out_in_no_repository_that_does_not_have_it() {
    let (registry, mirror) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let marked = format!("{{ url = \"{}\", authoritative = true }}", registry.url());
    let endpoints = format!("[\"{}\", {marked}]", mirror.url());
    let more = format!("[[registry]]\nhost = \"reg.test\"\nendpoints = {endpoints}");
    let larder = Larder::start(directory.path(), &[], &more);
    // The caller may read its own repository.
    let own = image::push(&registry, "team/own", "v1", 10);
    let path = |what: &str| format!("/v2/team/own/{what}?ns=reg.test");
    assert_eq!(larder.get(&path(&format!("manifests/{}", own.index))).await.status, StatusCode::OK);
    // The mirror serves another repository's content under its name.
    let secret = image::push(&mirror, "team/own", "v1", 100_000);
    let (layer, manifest) = (secret.platforms[0].layers[0], secret.platforms[0].manifest);
    image::push(&registry, "team/secret", "v1", 100_000);
    let whats = [format!("blobs/{layer}"), format!("manifests/{manifest}")];
    for what in &whats {
        assert_eq!(larder.get(&path(what)).await.status, StatusCode::OK, "the mirror's own doing");
    }
    // Where the registry has it too, what the mirror delivered is served without another transfer.
    registry.forget_seen();
    let shared = Bytes::from(noise(100_000, 77));
    let digest = registry.put_blob("team/own", shared.clone());
    mirror.put_blob("team/own", shared.clone());
    let at = path(&format!("blobs/{digest}"));
    assert_eq!(larder.get(&at).await.body, shared);
    larder.settled().await;
    mirror.stop().await;
    assert_eq!(larder.get(&at).await.body, shared);
    assert_eq!(registry.count(Method::GET, "/blobs/"), 0);
    assert_eq!(registry.count(Method::HEAD, &digest.to_string()), 1, "it was asked whether it has it");
    for what in &whats {
        assert_eq!(larder.get(&path(what)).await.status, StatusCode::NOT_FOUND, "{what}");
    }
}
