//! Content that was deleted upstream: served no longer than `grant_ttl` to those who pull it by its digest; and what is no
//! deletion ends nothing.

use std::time::Duration;

use http::{Method, StatusCode};

use super::access::{A, Scene, scene};
use crate::support::registry::Fault;

const GRANT_TTL: Duration = Duration::from_secs(300);
const B: (&str, &str) = ("tenant-b", "secret-b");

fn index(scene: &Scene) -> String {
    format!("manifests/{}", scene.image.index)
}

fn platform(scene: &Scene) -> String {
    format!("manifests/{}", scene.image.platforms[0].manifest)
}

/// Every digest of the image was pulled, and `grant_ttl` has passed since; a pull by tag proved the right again.
async fn pulled_a_while_ago() -> Scene {
    let scene = scene("").await;
    crate::support::image::push(&scene.registry, "a/app", "other", 1_000);
    scene.pull_as_a().await;
    scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    let other = scene.get("a/app", "manifests/other", A).await;
    assert_eq!(other.status, StatusCode::OK);
    scene.registry.forget_seen();
    scene
}

/// Takes the index away from the registry, with its tag.
fn delete(scene: &Scene) {
    for reference in ["v1".to_owned(), scene.image.index.to_string()] {
        scene.registry.remove_manifest("a/app", &reference);
    }
}

async fn status(scene: &Scene, what: &str) -> StatusCode {
    scene.get("a/app", what, A).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_deleted_is_served_for_grant_ttl_and_not_in_a_later_outage_or_after_a_restart() {
    let scene = pulled_a_while_ago().await;
    let digest = index(&scene);
    assert_eq!(status(&scene, &digest).await, StatusCode::OK);
    delete(&scene);
    assert_eq!(status(&scene, &digest).await, StatusCode::OK, "it was there a moment ago");
    scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    assert_eq!(status(&scene, "manifests/other").await, StatusCode::OK, "the right is fresh");
    let head = scene.larder.send_as(Method::HEAD, &Scene::path("a/app", &digest), A).await;
    assert_eq!(head.status, StatusCode::NOT_FOUND, "deleted content is served for ever");
    assert_eq!(status(&scene, &digest).await, StatusCode::NOT_FOUND);
    scene.registry.stop().await;
    assert_eq!(status(&scene, &digest).await, StatusCode::SERVICE_UNAVAILABLE, "an outage brings it back");
    assert_eq!(status(&scene, "manifests/other").await, StatusCode::OK, "what was not deleted is served");
    let scene = scene.restart().await;
    assert_eq!(status(&scene, &digest).await, StatusCode::SERVICE_UNAVAILABLE, "a restart brings it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_pushed_again_is_served_again() {
    let scene = pulled_a_while_ago().await;
    let digest = index(&scene);
    delete(&scene);
    assert_eq!(status(&scene, &digest).await, StatusCode::NOT_FOUND);
    scene.registry.put_manifest(
        "a/app",
        Some("v1"),
        larder::reference::MediaType::OCI_INDEX,
        scene.image.index_bytes.clone(),
    );
    assert_eq!(status(&scene, &digest).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_asked_for_once_in_grant_ttl_and_what_an_index_lists_not_at_all() {
    let scene = pulled_a_while_ago().await;
    for _ in 0..3 {
        assert_eq!(status(&scene, &platform(&scene)).await, StatusCode::OK);
    }
    let asked = scene.registry.count(Method::HEAD, &platform(&scene));
    assert_eq!(asked, 1, "a pull by digest costs one question");
    scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    scene.registry.forget_seen();
    for what in scene.everything() {
        assert_eq!(status(&scene, &what).await, StatusCode::OK, "{what}");
    }
    let seen: Vec<_> = scene.registry.seen().iter().map(|seen| seen.path.clone()).collect();
    let content = seen.iter().filter(|path| path.starts_with("/v2/a/")).count();
    assert_eq!(content, 1, "a pull by tag costs the question for its tag: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_for_is_served_as_it_was_and_marked() {
    let scene = pulled_a_while_ago().await;
    scene.registry.wrong_at("/manifests/", Fault::Status(502, vec![]));
    let reply = scene.get("a/app", &index(&scene), A).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    assert!(!reply.header("warning").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_word_of_the_registry_about_its_content_deletes_nothing() {
    let name_unknown = r#"{"errors": [{"code": "NAME_UNKNOWN"}]}"#;
    for (what, fault) in [
        ("a page for people", Fault::Answer(404, vec![], "<html>MANIFEST_UNKNOWN</html>".into())),
        ("an empty 404", Fault::Status(404, vec![])),
        ("another error", Fault::Answer(404, vec![], r#"{"errors": [{"code": "DENIED"}]}"#.into())),
        ("a 405", Fault::Status(405, vec![])),
        ("the repository is hidden", Fault::Answer(404, vec![], name_unknown.into())),
    ] {
        let scene = pulled_a_while_ago().await;
        scene.registry.wrong_at("/manifests/sha256:", fault);
        let digest = index(&scene);
        let _ = status(&scene, &digest).await;
        scene.registry.behave();
        // Who could read it reads it again, also while nothing is to be had from the registry.
        assert_eq!(status(&scene, "manifests/v1").await, StatusCode::OK, "{what}");
        scene.registry.stop().await;
        assert_eq!(status(&scene, &digest).await, StatusCode::OK, "{what} deleted the manifest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_a_repository_deletes_nothing_there() {
    let scene = pulled_a_while_ago().await;
    // A registry that hides by 404 what a credential must not read.
    let unknown = r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#;
    scene.registry.wrong(move |seen| {
        let token = seen.headers.get("authorization").and_then(|h| h.to_str().ok()).unwrap_or_default();
        let hides = seen.path.starts_with("/v2/a/") && token.contains("tok.tenant-b.");
        hides.then(|| Fault::Answer(404, vec![], unknown.into()))
    });
    for what in [index(&scene), platform(&scene), scene.everything().pop().unwrap()] {
        let reply = scene.get("a/app", &what, B).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{what}");
    }
    scene.registry.stop().await;
    for what in [index(&scene), platform(&scene), scene.everything().pop().unwrap()] {
        assert_eq!(status(&scene, &what).await, StatusCode::OK, "another tenant's 404 took {what} away");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_deleted_is_not_served_after_the_registry_said_so() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    let layer = scene.image.platforms[0].layers[0];
    let path = format!("blobs/{layer}");
    scene.registry.remove_blob("a/app", layer);
    assert_eq!(status(&scene, &path).await, StatusCode::OK, "the right is fresh");
    scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    assert_eq!(status(&scene, &path).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&scene, "manifests/v1").await, StatusCode::OK, "the right is fresh again");
    assert_eq!(status(&scene, &path).await, StatusCode::NOT_FOUND, "a blob that is gone is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_pushed_again_is_served_without_a_question_each_time_and_in_an_outage() {
    // Its bytes are still here, or they come again.
    for is_evicted in [false, true] {
        let scene = scene("").await;
        scene.pull_as_a().await;
        let layer = scene.image.platforms[0].layers[0];
        let path = format!("blobs/{layer}");
        scene.registry.remove_blob("a/app", layer);
        scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
        assert_eq!(status(&scene, &path).await, StatusCode::NOT_FOUND);
        crate::support::image::push(&scene.registry, "a/app", "v1", 100_000);
        if is_evicted {
            let file = scene.directory.path().join("larder/store/blobs/sha256").join(layer.hex());
            std::fs::remove_file(file).unwrap();
        }
        // The registry's no is remembered for a moment.
        tokio::time::sleep(Duration::from_millis(3_100)).await;
        assert_eq!(status(&scene, "manifests/v1").await, StatusCode::OK, "the right is fresh again");
        assert_eq!(status(&scene, &path).await, StatusCode::OK, "{is_evicted}");
        scene.larder.settled().await;
        scene.registry.forget_seen();
        for method in [Method::GET, Method::HEAD] {
            let reply = scene.larder.send_as(method, &Scene::path("a/app", &path), A).await;
            assert_eq!(reply.status, StatusCode::OK, "{is_evicted}");
        }
        let seen: Vec<_> = scene.registry.seen().into_iter().map(|seen| seen.path).collect();
        assert!(!seen.iter().any(|path| path.contains("/blobs/")), "it is asked for each time: {seen:?}");
        scene.registry.stop().await;
        assert_eq!(status(&scene, &path).await, StatusCode::OK, "{is_evicted}: an outage takes it away");
        let scene = scene.restart().await;
        assert_eq!(status(&scene, &path).await, StatusCode::OK, "{is_evicted}: a restart takes it away");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_lacks_is_not_deleted_and_what_it_still_has_is() {
    use crate::support::registry::FakeRegistry;
    use crate::support::world::Larder;
    let (mirror, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let image = crate::support::image::push(&registry, "open/app", "v1", 1_000);
    let sections = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [{{ url = \"{}\" }}, {{ url = \"{}\", authoritative = true }}]\n",
        mirror.url(),
        registry.url()
    );
    let larder = Larder::start(directory.path(), &[], &sections);
    let digest = Scene::path("open/app", &format!("manifests/{}", image.index));
    assert_eq!(larder.get(&Scene::path("open/app", "manifests/v1")).await.status, StatusCode::OK);
    for _ in 0..3 {
        assert_eq!(larder.get(&digest).await.status, StatusCode::OK);
        larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    }
    registry.stop().await;
    assert_eq!(larder.get(&digest).await.status, StatusCode::OK, "a mirror's 404 took it away");
    registry.restart().await;
    crate::support::image::push(&mirror, "open/app", "v1", 1_000);
    crate::support::image::push(&registry, "open/app", "other", 2_000);
    registry.remove_manifest("open/app", &image.index.to_string());
    larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    let other = larder.get(&Scene::path("open/app", "manifests/other")).await;
    assert_eq!(other.status, StatusCode::OK, "the right is fresh");
    for _ in 0..2 {
        assert_eq!(
            larder.get(&digest).await.status,
            StatusCode::NOT_FOUND,
            "a mirror brings back what was deleted"
        );
    }
}
