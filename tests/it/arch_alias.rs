//! Arch aliases and synthesized indexes: `arch_suffix`.

use http::{Method, StatusCode};
use larder::reference::{Digest, MediaType};

use crate::support::client::Reply;
use crate::support::image::{self, Image};
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::world::Larder;

const ARCHS: &str = r#"arch_suffix = ["amd64", "arm64", "s390x"]"#;
const ANN: (&str, &str) = ("ann", "ann-password");
const BOB: (&str, &str) = ("bob", "bob-password");

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    config: String,
    directory: tempfile::TempDir,
}

/// `app` has an index; `old` has an image for each architecture.
async fn scene() -> (Scene, Image, Image) {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let app = image::push(&registry, "team/app", "v1", 1_000);
    let old = image::push(&registry, "pool", "v1", 2_000);
    for (of, name) in old.platforms.iter().zip(["team/old-amd64", "team/old-arm64"]) {
        copy(&registry, of.manifest, name, "v1");
        for blob in of.layers.iter().chain([&of.config]) {
            registry.mount_blob("pool", name, *blob);
        }
    }
    let more = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [\"{}\"]\n{ARCHS}\n[[registry]]\nhost = \"plain.test\"\nendpoints = [\"{}\"]",
        registry.url(),
        registry.url()
    );
    let larder = Larder::start(directory.path(), &[], &more);
    (Scene { registry, larder, config: more, directory }, app, old)
}

fn copy(registry: &FakeRegistry, manifest: Digest, to: &str, tag: &str) {
    let bytes = registry.manifest("pool", manifest);
    registry.put_manifest(to, Some(tag), MediaType::OCI_MANIFEST, bytes);
}

impl Scene {
    async fn restart(self) -> Self {
        let Self { registry, larder, config, directory } = self;
        larder.settled().await;
        larder.stop().await;
        let larder = Larder::start(directory.path(), &[], &config);
        Self { registry, larder, config, directory }
    }

    async fn get(&self, what: &str) -> Reply {
        self.larder.get(&format!("/v2/team/{what}?ns=reg.test")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arch_alias_that_upstream_lacks_is_the_entry_of_the_index() {
    let (scene, app, _) = scene().await;
    let arm = &app.platforms[1];
    for _ in 0..2 {
        let resolved = scene.larder.head("/v2/team/app-arm64/manifests/v1?ns=reg.test").await;
        assert_eq!(resolved.header("docker-content-digest"), arm.manifest.to_string());
        assert_eq!(resolved.header("content-type"), MediaType::OCI_MANIFEST);
        let manifest = scene.get(&format!("app-arm64/manifests/{}", arm.manifest)).await;
        assert_eq!(manifest.digest(), arm.manifest);
        for blob in arm.layers.iter().chain([&arm.config]) {
            assert_eq!(scene.get(&format!("app-arm64/blobs/{blob}")).await.digest(), *blob);
            let head = scene.larder.head(&format!("/v2/team/app-arm64/blobs/{blob}?ns=reg.test")).await;
            assert_eq!(head.status, StatusCode::OK);
        }
    }
    scene.larder.settled().await;
    scene.registry.forget_seen();
    scene.get(&format!("app-arm64/blobs/{}", arm.config)).await;
    assert!(scene.registry.seen().is_empty(), "what is here under the other name is not asked for");
    assert_eq!(scene.get("app-s390x/manifests/v1").await.status, StatusCode::NOT_FOUND, "no such entry");
    assert_eq!(scene.get("app-mips/manifests/v1").await.status, StatusCode::NOT_FOUND, "no such rule");
    let plain = scene.larder.get("/v2/team/app-arm64/manifests/v1?ns=plain.test").await;
    assert_eq!(plain.status, StatusCode::NOT_FOUND, "a registry without the rule");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_upstream_lacks_is_an_index_synthesized_from_arch_aliases() {
    let (scene, _, old) = scene().await;
    let resolved = scene.larder.head("/v2/team/old/manifests/v1?ns=reg.test").await;
    let digest = resolved.header("docker-content-digest").to_owned();
    assert_eq!(resolved.header("content-type"), MediaType::OCI_INDEX);
    let index = scene.get(&format!("old/manifests/{digest}")).await;
    assert_eq!(index.digest().to_string(), digest);
    assert_eq!(index.body.len().to_string(), resolved.header("content-length"));
    let entries = index.json()["manifests"].as_array().unwrap().clone();
    let found: Vec<_> = entries.iter().map(|e| e["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(found, ["amd64", "arm64"]);
    for (entry, platform) in entries.iter().zip(&old.platforms) {
        assert_eq!(entry["digest"], platform.manifest.to_string());
        let manifest = scene.get(&format!("old/manifests/{}", platform.manifest)).await;
        assert_eq!(manifest.digest(), platform.manifest);
        assert_eq!(entry["size"], manifest.body.len());
        for blob in platform.layers.iter().chain([&platform.config]) {
            assert_eq!(scene.get(&format!("old/blobs/{blob}")).await.digest(), *blob);
        }
    }
    let again = scene.larder.head("/v2/team/old/manifests/v1?ns=reg.test").await;
    assert_eq!(again.header("docker-content-digest"), digest, "the same bytes each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_upstream_has_is_never_answered_by_an_alias() {
    let (scene, app, old) = scene().await;
    assert_eq!(scene.get("app/manifests/v1").await.body, app.index_bytes, "byte for byte");
    assert_eq!(scene.get("old-arm64/manifests/v1").await.digest(), old.platforms[1].manifest);
    copy(&scene.registry, old.platforms[1].manifest, "team/app-arm64", "v1");
    assert_eq!(scene.get("app-arm64/manifests/v1").await.digest(), old.platforms[1].manifest);
    // A name that may exist upstream is not answered by an alias while upstream is away.
    scene.get("app/manifests/v1").await;
    scene.registry.wrong_at("/v2/team/app-amd64/", Fault::Status(503, vec![]));
    assert_eq!(scene.get("app-amd64/manifests/v1").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_aliases_and_synthesized_indexes_are_served_stale() {
    let (scene, app, _) = scene().await;
    let arm = app.platforms[1].manifest;
    assert_eq!(scene.get("app-arm64/manifests/v1").await.digest(), arm);
    let composed = scene.get("old/manifests/v1").await.digest();
    scene.registry.stop().await;
    let stale = scene.get("app-arm64/manifests/v1").await;
    assert_eq!(stale.digest(), arm);
    assert!(stale.header("warning").starts_with("299"), "{:?}", stale.headers);
    assert_eq!(scene.get("old/manifests/v1").await.digest(), composed);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_aliases_and_synthesized_indexes_are_still_known() {
    let (scene, app, old) = scene().await;
    let arm = app.platforms[1].manifest;
    assert_eq!(scene.get("app-arm64/manifests/v1").await.digest(), arm);
    let composed = scene.get("old/manifests/v1").await.digest();
    let mut scene = scene.restart().await;
    let index = scene.get(&format!("old/manifests/{composed}")).await;
    assert_eq!(index.digest(), composed, "no resolve has to go before");
    assert_eq!(index.header("content-type"), MediaType::OCI_INDEX);

    scene = scene.restart().await;
    scene.registry.stop().await;
    assert_eq!(scene.get("app-arm64/manifests/v1").await.digest(), arm);
    assert_eq!(scene.get("old/manifests/v1").await.digest(), composed);
    assert_eq!(scene.get(&format!("old/manifests/{composed}")).await.digest(), composed);
    assert_eq!(
        scene.get(&format!("old/manifests/{}", old.platforms[0].manifest)).await.digest(),
        old.platforms[0].manifest
    );
    assert_eq!(scene.get("app-amd64/manifests/v1").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_upstream_got_meanwhile_is_not_answered_by_an_alias_in_an_outage() {
    let (scene, app, old) = scene().await;
    assert_eq!(scene.get("app-arm64/manifests/v1").await.digest(), app.platforms[1].manifest);
    copy(&scene.registry, old.platforms[1].manifest, "team/app-arm64", "v1");
    assert_eq!(scene.get("app-arm64/manifests/v1").await.digest(), old.platforms[1].manifest);
    let scene = scene.restart().await;
    scene.registry.wrong_at("/v2/team/app-arm64/", Fault::Status(503, vec![]));
    // Longer than stale_if_error, so that no stale record is served.
    scene.larder.get("/v2/team/app-arm64/manifests/v1?ns=reg.test").await;
    scene.larder.clock.advance(std::time::Duration::from_secs(400 * 86_400));
    let answer = scene.get("app-arm64/manifests/v1").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", answer.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_not_synthesized_without_an_image_that_could_not_be_asked_for() {
    let (scene, ..) = scene().await;
    scene.registry.wrong_at("/v2/team/old-arm64/", Fault::Status(503, vec![]));
    assert_eq!(scene.get("old/manifests/v1").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_may_not_read_one_image_gets_no_index_with_it() {
    let (scene, app, old) = scene().await;
    let all: &[&str] = &["team/app", "team/old-amd64", "team/old-arm64"];
    scene
        .registry
        .know(Accounts::new(&[("ann", "ann-password", all), ("bob", "bob-password", &["team/old-amd64"])]));
    let get = async |what: &str, who| scene.larder.get_as(&format!("/v2/team/{what}?ns=reg.test"), who).await;
    assert_eq!(get("app-arm64/manifests/v1", ANN).await.digest(), app.platforms[1].manifest);
    let composed = get("old/manifests/v1", ANN).await.digest();
    assert_eq!(get(&format!("old/manifests/{composed}"), ANN).await.digest(), composed);
    let (layer, arm) = (app.platforms[1].layers[1], &old.platforms[1]);
    assert_eq!(get(&format!("app-arm64/blobs/{layer}"), ANN).await.digest(), layer);
    assert_eq!(get(&format!("old/blobs/{}", arm.config), ANN).await.digest(), arm.config);
    for what in [
        "app-arm64/manifests/v1".to_owned(),
        format!("app-arm64/manifests/{}", app.platforms[1].manifest),
        format!("app-arm64/blobs/{layer}"),
        format!("old/manifests/{composed}"),
        format!("old/manifests/{}", arm.manifest),
        format!("old/blobs/{}", arm.config),
    ] {
        let status = get(&what, BOB).await.status;
        assert!([StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND].contains(&status), "{what}: {status}");
    }
    // The index for Bob has the one image that Bob may read.
    let readable = get("old/manifests/v1", BOB).await;
    assert_eq!(readable.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(scene.registry.count(Method::PUT, ""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_for_which_a_registry_answers_403_has_its_aliases_though_others_of_the_repository_are_read() {
    let (scene, _, old) = scene().await;
    assert_eq!(scene.get("app/manifests/v1").await.status, StatusCode::OK);
    for (of, name) in old.platforms.iter().zip(["team/app-amd64", "team/app-arm64"]) {
        copy(&scene.registry, of.manifest, name, "v0");
    }
    scene.registry.wrong_at("team/app/manifests/v0", Fault::Status(403, vec![]));
    let synthesized = scene.get("app/manifests/v0").await;
    assert_eq!(synthesized.status, StatusCode::OK, "{:?}", synthesized.body);
    assert_eq!(synthesized.json()["manifests"].as_array().unwrap().len(), 2);
}
