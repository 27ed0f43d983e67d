//! A tag that is not there, at registries that answer for it as if the whole repository were not there or were closed:
//! no right ends by that; and one that the registry did take away ends all the same.

use std::time::Duration;

use http::{Method, StatusCode};

use super::access::{A, B, Scene, scene};
use crate::support::image;
use crate::support::registry::Fault;

const GRANT_TTL: Duration = Duration::from_secs(300);
const MISSING: &str = "manifests/not-there";

/// What registries answer for a tag that is not there.
fn answers() -> [Fault; 2] {
    let unknown = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"Image not found"}]}"#;
    // Of registry.redhat.io and Katello, and of virtual repositories of Artifactory.
    [Fault::Answer(404, vec![], unknown.into()), Fault::Status(403, vec![])]
}

/// The registry answers so for the tag that is not there, once it knows who asks.
fn lack(scene: &Scene, answer: Fault) {
    scene.registry.wrong(move |seen| {
        let is_asked_as_someone = seen.headers.contains_key("authorization");
        (seen.path.ends_with(MISSING) && is_asked_as_someone).then(|| answer.clone())
    });
}

/// What of the image's manifests A gets while the registry is away: parts of blobs would be waited for.
async fn is_served_in_an_outage(scene: &Scene) -> Vec<StatusCode> {
    scene.registry.stop().await;
    scene.larder.clock.advance(2 * GRANT_TTL);
    let mut statuses = Vec::new();
    for what in &scene.everything()[..3] {
        statuses.push(scene.get("a/app", what, A).await.status);
    }
    statuses.dedup();
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_not_there_ends_no_right_to_those_that_are() {
    for answer in answers() {
        for restarted in [false, true] {
            let mut scene = scene("").await;
            scene.pull_as_a().await;
            if restarted {
                scene = scene.restart().await;
            }
            lack(&scene, answer.clone());
            for method in [Method::HEAD, Method::GET] {
                let reply = scene.larder.send_as(method, &Scene::path("a/app", MISSING), A).await;
                assert!([401, 404].contains(&reply.status.as_u16()), "{}", reply.status);
            }
            assert_eq!(is_served_in_an_outage(&scene).await, [StatusCode::OK], "restarted: {restarted}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_not_there_ends_no_right_because_a_neighbours_image_was_pulled_last() {
    for answer in answers() {
        let scene = scene("").await;
        let of_b = image::push(&scene.registry, "a/app", "of-b", 1_000).index.to_string();
        scene.registry.change(true, |accounts| {
            accounts.users.get_mut(B.0).unwrap().1.push("a/app".to_owned());
        });
        let denied = answer.clone();
        scene.registry.wrong(move |seen| {
            let is_missing = seen.path.ends_with(MISSING);
            let is_of_b = seen.path.ends_with("manifests/of-b") || seen.path.ends_with(&of_b);
            let shown = seen.headers.get("authorization")?.to_str().unwrap();
            (is_missing || is_of_b && !shown.contains(B.0)).then(|| denied.clone())
        });
        scene.pull_as_a().await;
        assert_eq!(scene.get("a/app", "manifests/of-b", B).await.status, StatusCode::OK);
        assert!(!scene.get("a/app", MISSING, A).await.status.is_success());
        assert_eq!(is_served_in_an_outage(&scene).await, [StatusCode::OK]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_not_there_closes_no_repository_that_is_open_to_all() {
    for answer in answers() {
        let scene = scene("").await;
        let path = |what| Scene::path("open/app", what);
        assert_eq!(scene.larder.get_unasked(&path("manifests/v1")).await.status, StatusCode::OK);
        lack(&scene, answer);
        let missing = scene.larder.get_unasked(&path(MISSING)).await;
        assert!(!missing.status.is_success());
        assert_eq!(scene.larder.get_unasked(&path("manifests/v1")).await.status, StatusCode::OK);
        scene.registry.stop().await;
        assert_eq!(scene.larder.get_unasked(&path("manifests/v1")).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_was_taken_away_is_closed_by_the_question_for_a_tag_that_is_not_there() {
    for answer in answers() {
        let scene = scene("").await;
        scene.pull_as_a().await;
        scene.registry.wrong_at("/v2/a/app/", answer);
        assert!(!scene.get("a/app", MISSING, A).await.status.is_success());
        let layer = scene.everything().pop().unwrap();
        let status = scene.get("a/app", &layer, A).await.status;
        assert!(!status.is_success(), "within grant_ttl: {status}");
        assert_eq!(is_served_in_an_outage(&scene).await, [StatusCode::SERVICE_UNAVAILABLE]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_say_that_the_repository_is_open_closes_it() {
    let gone = r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#;
    for doubt in [
        Fault::Status(500, vec![]),
        Fault::Status(429, vec![]),
        Fault::Status(401, vec![]),
        Fault::Answer(404, vec![], gone.into()),
        Fault::Answer(200, vec![], "<html>".into()),
        Fault::Hang,
    ] {
        for answer in answers() {
            let scene = scene("").await;
            scene.pull_as_a().await;
            scene.registry.wrong_at("/manifests/sha256:", doubt.clone());
            lack(&scene, answer);
            assert!(!scene.get("a/app", MISSING, A).await.status.is_success());
            assert_eq!(is_served_in_an_outage(&scene).await, [StatusCode::SERVICE_UNAVAILABLE]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_not_there_opens_nothing_to_another_tenant() {
    for answer in answers() {
        let scene = scene("").await;
        scene.pull_as_a().await;
        lack(&scene, answer);
        scene.registry.forget_seen();
        assert!(!scene.get("a/app", MISSING, B).await.status.is_success());
        let asked = scene.registry.seen().iter().filter(|seen| seen.path.contains("sha256:")).count();
        assert_eq!(asked, 0, "B has no right that could end");
        scene.is_refused_to_others("after a tag that is not there").await;
        scene.pull_as_a().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_there_ends_the_right_as_the_registry_says() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    scene.registry.wrong_at("manifests/v1", Fault::Status(403, vec![]));
    assert_eq!(scene.get("a/app", "manifests/v1", A).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(is_served_in_an_outage(&scene).await, [StatusCode::SERVICE_UNAVAILABLE]);
}
