//! What is a no of the registry and what is not, what a no costs, and how old a yes is.

use std::time::Duration;

use http::{Method, StatusCode};
use larder::admin::control::{Revoke, send};

use super::access::{A, Scene, scene};
use crate::support::client;
use crate::support::registry::Fault;

const GRANT_TTL: Duration = Duration::from_secs(300);

/// Logins that the token server saw: requests for a token with a credential.
fn logins(scene: &Scene) -> usize {
    let is_login = |path: &str, has_credential| path == "/token" && has_credential;
    let seen = scene.registry.seen();
    seen.iter().filter(|seen| is_login(&seen.path, seen.headers.contains_key("authorization"))).count()
}

async fn is_served_in_an_outage(scene: Scene, after: &str) {
    scene.registry.stop().await;
    scene.larder.clock.advance(2 * GRANT_TTL);
    for what in scene.everything() {
        let reply = scene.get("a/app", &what, A).await;
        assert_eq!(reply.status, StatusCode::OK, "after {after}, in an outage: {what}: {:?}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_is_answered_ends_no_right_to_content() {
    for list in ["tags/list".to_owned(), format!("referrers/sha256:{}", "0".repeat(64))] {
        for status in [401, 403, 404] {
            let scene = scene("").await;
            scene.pull_as_a().await;
            let part = list.split('/').next().unwrap().to_owned();
            let unknown = r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#;
            scene.registry.wrong_at(&part, Fault::Answer(status, vec![], unknown.into()));
            assert!(!scene.get("a/app", &list, A).await.status.is_success());
            let layer = scene.everything().pop().unwrap();
            assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::OK, "{list} {status}");
            is_served_in_an_outage(scene, &format!("{status} to {list}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_is_answered_gives_no_right_to_content() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    // Its registry lets B list the tags and read nothing.
    scene.registry.wrong_at("a/app/tags/list", Fault::Answer(200, vec![], r#"{"name":"a/app"}"#.into()));
    let b = ("tenant-b", "secret-b");
    assert_eq!(scene.get("a/app", "tags/list", b).await.status, StatusCode::OK);
    for what in &scene.everything()[1..] {
        assert_eq!(scene.get("a/app", what, b).await.status, StatusCode::UNAUTHORIZED, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_server_answers_ends_no_right_unless_it_refuses_the_login() {
    for fault in [
        Fault::Status(404, vec![]),
        Fault::Status(302, vec![("location", "http://evil.test/".into())]),
        Fault::Status(400, vec![]),
        Fault::Status(500, vec![]),
        Fault::Answer(200, vec![], "<html>".into()),
    ] {
        let scene = scene("").await;
        scene.pull_as_a().await;
        scene.larder.clock.advance(2 * GRANT_TTL);
        scene.registry.change(true, |_| {});
        scene.registry.wrong_at("/token", fault);
        let _ = scene.get("a/app", "manifests/v1", A).await;
        let _ = scene.get("a/app", &scene.everything()[2], A).await;
        is_served_in_an_outage(scene, "a token server that is broken").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_for_everything_ends_no_right() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    scene.larder.clock.advance(2 * GRANT_TTL);
    scene.registry.wrong_at("/", Fault::Answer(404, vec![], "<html>no such page</html>".into()));
    for what in scene.everything() {
        assert!(!scene.get("a/app", &what, A).await.status.is_success(), "{what}");
    }
    is_served_in_an_outage(scene, "404 for everything").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_404_for_a_tag_takes_it_from_no_outage_behind_it() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    let (path, text) = (Scene::path("a/app", "manifests/v1"), [("content-type", "text/plain".to_owned())]);
    scene.registry.wrong_at("/v2/", Fault::Answer(404, text.into(), "404 page not found\n".into()));
    for method in [Method::HEAD, Method::GET] {
        let reply = scene.larder.send_as(method, &path, A).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "as the registry answers");
    }
    is_served_in_an_outage(scene, "a gateway's 404").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_is_as_old_as_the_token_that_proved_it() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    scene.larder.clock.advance(GRANT_TTL - Duration::from_secs(60));
    scene.registry.forget_seen();
    assert_eq!(scene.get("a/app", "manifests/v1", A).await.status, StatusCode::OK);
    assert_eq!(logins(&scene), 0, "the token is still good for a proof");
    scene.larder.clock.advance(Duration::from_secs(61));
    let layer = scene.everything().pop().unwrap();
    assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::OK);
    assert_eq!(logins(&scene), 1, "a right that outlives grant_ttl since its token was issued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_revoked_by_hand_is_proved_again_by_a_new_token_only() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    let socket = scene.directory.path().join("larder/larder.sock");
    for (repository, again) in [(Some("reg.test/b/app"), 0), (Some("reg.test/a/app"), 1), (None, 1)] {
        scene.registry.forget_seen();
        send(&socket, &Revoke { repository: repository.map(str::to_owned) }).await.unwrap();
        let layer = scene.everything().pop().unwrap();
        assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::OK);
        assert_eq!(logins(&scene), again, "{repository:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pull_costs_the_registry_what_it_costs_without_a_cache() {
    let scene = scene("[freshness]\nnegative_ttl = \"3s\"").await;
    let wrong = (A.0, "wrong");
    // As containerd pulls: first without a credential, then with the pod's, for the tag and again in the fetch.
    let path = Scene::path("a/app", "manifests/v1");
    let challenged = client::head(scene.larder.address, &path).await;
    assert_eq!(challenged.status, StatusCode::UNAUTHORIZED);
    scene.registry.forget_seen();
    for method in [Method::HEAD, Method::GET, Method::HEAD] {
        let reply = scene.larder.send_as(method, &path, wrong).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    let (requests, failed) = (scene.registry.seen().len(), logins(&scene));
    assert!(requests <= 3 && failed == 1, "{requests} requests and {failed} failed logins");
    // A runtime by itself makes three requests and two failed logins.
    let right = scene.larder.send_as(Method::HEAD, &path, A).await;
    assert_eq!(right.status, StatusCode::OK, "the right password is not taken for the wrong one");
}
