//! What a registry has and does not hand out, by a policy of its own: never served from the cache against its word, and
//! nothing else of the repository is lost by it.

use std::time::Duration;

use http::StatusCode;

use super::access::{A, B, Scene, scene};
use crate::support::image;
use crate::support::registry::{Fault, Seen};

const GRANT_TTL: Duration = Duration::from_secs(300);
const HARBOR: &str = r#"{"errors":[{"code":"PROJECTPOLICYVIOLATION","message":"4 vulnerabilities"}]}"#;
const AZURE: &str = r#"{"errors":[{"code":"REGISTRY_DISALLOWED_OPERATION"}]}"#;

fn harbor() -> Fault {
    Fault::Answer(412, vec![], HARBOR.into())
}

/// What registries answer for an image that they withhold.
fn answers() -> Vec<(&'static str, Fault)> {
    vec![
        ("a policy of Harbor", harbor()),
        ("a lock of Azure", Fault::Answer(405, vec![], AZURE.into())),
        ("for want of a payment", Fault::Status(402, vec![])),
        ("for legal reasons", Fault::Status(451, vec![])),
    ]
}

/// The image was pulled, and `grant_ttl` has passed since; another image of the repository was pulled just now.
async fn pulled(more: &str) -> Scene {
    let scene = scene(more).await;
    image::push(&scene.registry, "a/app", "other", 1_000);
    scene.pull_as_a().await;
    scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    assert_eq!(status(&scene, "manifests/other").await, StatusCode::OK);
    scene
}

fn index(scene: &Scene) -> String {
    format!("manifests/{}", scene.image.index)
}

/// The registry withholds the image, by its tag and by its digest, from those whom `is_meant` says.
fn withhold(scene: &Scene, answer: Fault, is_meant: impl Fn(&Seen) -> bool + Send + Sync + 'static) {
    let index = index(scene);
    scene.registry.wrong(move |seen| {
        let is_image = seen.path.ends_with("manifests/v1") || seen.path.ends_with(&index);
        (is_image && is_meant(seen)).then(|| answer.clone())
    });
}

async fn status(scene: &Scene, what: &str) -> StatusCode {
    scene.get("a/app", what, A).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_its_registry_withholds_is_not_served_from_the_cache() {
    for (why, answer) in answers() {
        let scene = pulled("").await;
        withhold(&scene, answer, |_| true);
        // A mirror client asks the registry itself then, and says what that says.
        assert_eq!(status(&scene, &index(&scene)).await, StatusCode::UNAUTHORIZED, "{why}: by its digest");
        assert_eq!(status(&scene, "manifests/v1").await, StatusCode::UNAUTHORIZED, "{why}: by its tag");
        let direct = scene.larder.get_as("/v2/reg.test/a/app/manifests/v1", A).await;
        assert_eq!(direct.status, StatusCode::FORBIDDEN, "{why}");
        let text = direct.json()["errors"][0]["message"].to_string();
        assert!(text.contains("withholds it: it answered 4"), "{why}: {text}");
        let layer = scene.everything().pop().unwrap();
        for other in ["manifests/other", layer.as_str()] {
            assert_eq!(status(&scene, other).await, StatusCode::OK, "{why}: {other} is not withheld");
        }
        scene.registry.stop().await;
        scene.larder.clock.advance(2 * GRANT_TTL);
        is_withheld_in_an_outage(&scene, why).await;
        is_withheld_in_an_outage(&scene.restart().await, why).await;
    }
}

async fn is_withheld_in_an_outage(scene: &Scene, why: &str) {
    for what in ["manifests/v1".to_owned(), index(scene)] {
        let status = status(scene, &what).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}: {what} comes back in an outage");
    }
    let other = status(scene, "manifests/other").await;
    assert_eq!(other, StatusCode::OK, "{why}: the right to other images has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tag_named_is_not_served_by_its_digest_once_the_tag_is_withheld() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    withhold(&scene, harbor(), |_| true);
    assert_eq!(status(&scene, &index(&scene)).await, StatusCode::OK, "it was resolved a moment ago");
    assert_eq!(status(&scene, "manifests/v1").await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&scene, &index(&scene)).await, StatusCode::UNAUTHORIZED);
    scene.registry.behave();
    for what in scene.everything() {
        assert_eq!(status(&scene, &what).await, StatusCode::OK, "{what}: the policy is content again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_withheld_from_one_caller_is_served_to_another() {
    let scene = pulled("").await;
    scene.registry.change(true, |accounts| {
        accounts.users.get_mut(B.0).unwrap().1.push("a/app".to_owned());
    });
    withhold(&scene, harbor(), |seen| {
        seen.headers.get("authorization").is_some_and(|shown| shown.to_str().unwrap().contains(A.0))
    });
    for _ in 0..2 {
        assert_eq!(scene.get("a/app", "manifests/v1", B).await.status, StatusCode::OK);
        assert_eq!(status(&scene, "manifests/v1").await, StatusCode::UNAUTHORIZED);
    }
    // By its digest it is served for grant_ttl since it was resolved, as what was deleted is.
    scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
    assert_eq!(status(&scene, "manifests/other").await, StatusCode::OK);
    assert_eq!(status(&scene, &index(&scene)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(scene.get("a/app", &index(&scene), B).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_withheld_is_not_served_where_what_is_cached_is_open_to_every_pod() {
    let scene = pulled("[access]\npolicy = \"open\"").await;
    withhold(&scene, harbor(), |_| true);
    for reply in [
        scene.get("a/app", "manifests/v1", A).await,
        scene.get("a/app", &index(&scene), A).await,
        scene.get("a/app", "manifests/v1", ("", "")).await,
        scene.larder.get_unasked(&Scene::path("a/app", "manifests/v1")).await,
    ] {
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{:?}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_cannot_answer_keeps_nobody_from_what_is_cached() {
    let page = || "<html>405 Not Allowed</html>".into();
    let large = format!("{AZURE}{}", " ".repeat(100_000)).into();
    let longer = vec![("content-length", (AZURE.len() + 1).to_string())];
    for (why, fault) in [
        ("a cache that cannot ask its source", Fault::Status(424, vec![])),
        ("a gateway that knows no GET", Fault::Answer(405, vec![], page())),
        ("a document that is too large to be read", Fault::Answer(405, vec![], large)),
        ("a document that breaks off", Fault::Answer(405, longer, AZURE.into())),
        ("too early", Fault::Status(425, vec![])),
        ("a server of other names", Fault::Status(421, vec![])),
        ("a proxy that wants a login", Fault::Status(407, vec![])),
        ("no status at all", Fault::Status(999, vec![])),
    ] {
        let scene = scene("").await;
        scene.pull_as_a().await;
        scene.larder.clock.advance(2 * GRANT_TTL);
        scene.registry.wrong_at("/v2/a/app/", fault);
        for what in scene.everything() {
            let reply = scene.get("a/app", &what, A).await;
            assert_eq!(reply.status, StatusCode::OK, "{why}: {what}: {:?}", reply.body);
            assert!(reply.header("warning").contains("299"), "{why}: {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_withheld_from_everyone_is_not_served_because_a_callers_own_login_cannot_be_asked() {
    for trouble in [503, 429] {
        let scene = scene("").await;
        let nobody = ("", "");
        image::push(&scene.registry, "open/app", "other", 1_000);
        let index = format!("manifests/{}", image::push(&scene.registry, "open/app", "v1", 50_000).index);
        for what in ["manifests/v1", index.as_str()] {
            assert_eq!(scene.get("open/app", what, nobody).await.status, StatusCode::OK, "{what}");
        }
        scene.larder.clock.advance(GRANT_TTL + Duration::from_secs(1));
        assert_eq!(scene.get("open/app", "manifests/other", nobody).await.status, StatusCode::OK);
        let asked = index.clone();
        scene.registry.wrong(move |seen| {
            let has_login = |shown: &http::HeaderValue| shown.to_str().unwrap().contains(A.0);
            let is_by_a = seen.headers.get("authorization").is_some_and(has_login);
            let answer = if is_by_a { Fault::Status(trouble, vec![]) } else { harbor() };
            seen.path.ends_with(&asked).then_some(answer)
        });
        for _ in 0..2 {
            let status = scene.get("open/app", &index, A).await.status;
            assert_ne!(status, StatusCode::OK, "{trouble}: it is served against the registry's word");
        }
    }
}
