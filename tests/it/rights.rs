//! How a right ends: revoked upstream, by its time, by hand, with its credential; and how long it holds while the registry
//! cannot be asked.

use std::time::Duration;

use http::{Method, StatusCode};

use super::access::{A, Scene, scene};
use crate::support::client;
use crate::support::image;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_revoked_upstream_ends_with_grant_ttl() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    let layer = scene.everything().pop().unwrap();
    scene.registry.change(true, |accounts| drop(accounts.users.remove(A.0)));
    assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::OK, "within its time");
    scene.larder.clock.advance(Duration::from_secs(301));
    assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::UNAUTHORIZED, "after its time");
    scene.registry.stop().await;
    for what in scene.everything() {
        let status = scene.get("a/app", &what, A).await.status;
        assert!(!status.is_success(), "an outage brings no ended right back: {what} {status}");
    }
    let (layer, scene) = (scene.everything().pop().unwrap(), scene.restart().await);
    let status = scene.get("a/app", &layer, A).await.status;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "nor does a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_always_asked_for_and_ends_the_right_at_once() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    scene.registry.change(true, |accounts| drop(accounts.users.remove(A.0)));
    assert_eq!(scene.get("a/app", "manifests/v1", A).await.status, StatusCode::UNAUTHORIZED);
    let layer = scene.everything().pop().unwrap();
    assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::UNAUTHORIZED, "by digest too");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_time_at_all_every_resolve_is_checked_with_a_fresh_token() {
    let scene = scene("[access]\ngrant_ttl = \"0s\"").await;
    scene.pull_as_a().await;
    let digest = format!("manifests/{}", scene.image.index);
    scene.registry.forget_seen();
    let head = scene.larder.send_as(Method::HEAD, &Scene::path("a/app", &digest), A).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(scene.registry.count(Method::HEAD, &digest), 1, "a resolve by digest is a resolve");
    assert_eq!(scene.registry.count(Method::GET, "/token"), 1, "no proof rests on an old token");
    scene.registry.forget_seen();
    for what in &scene.everything()[1..] {
        assert_eq!(scene.get("a/app", what, A).await.status, StatusCode::OK);
    }
    assert!(scene.registry.seen().is_empty(), "the digests of one pull are covered");
    scene.larder.clock.advance(Duration::from_secs(61));
    let layer = scene.everything().pop().unwrap();
    assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::OK);
    assert!(!scene.registry.seen().is_empty(), "and those of the next one are not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_right_holds_in_an_outage_for_outage_grace_and_no_longer() {
    let scene = scene("[access]\noutage_grace = \"1d\"").await;
    scene.pull_as_a().await;
    assert_eq!(scene.get("open/app", "manifests/v1", ("", "")).await.status, StatusCode::OK);
    scene.registry.stop().await;
    scene.larder.clock.advance(Duration::from_secs(23 * 3_600));
    scene.pull_as_a().await;
    let held = scene.get("a/app", "manifests/v1", A).await;
    assert!(held.header("warning").contains("299"), "it is marked: {:?}", held.headers);
    scene.larder.clock.advance(Duration::from_secs(2 * 3_600));
    for what in scene.everything() {
        assert_eq!(scene.get("a/app", &what, A).await.status, StatusCode::SERVICE_UNAVAILABLE, "{what}");
    }
    let public = scene.get("open/app", "manifests/v1", ("", "")).await;
    assert_eq!(public.status, StatusCode::OK, "what is public stays public");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_stretches_a_callers_right_by_minutes_only() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    scene.registry.wrong_at("/", Fault::Status(429, vec![]));
    scene.larder.clock.advance(Duration::from_secs(10 * 60));
    scene.pull_as_a().await;
    scene.larder.clock.advance(Duration::from_secs(11 * 60));
    let layer = scene.everything().pop().unwrap();
    assert_eq!(scene.get("a/app", &layer, A).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_revoked_by_hand_end_in_an_outage_too() {
    use larder::admin::control::{Revoke, send};
    let scene = scene("").await;
    scene.pull_as_a().await;
    assert_eq!(scene.get("open/app", "manifests/v1", ("", "")).await.status, StatusCode::OK);
    scene.registry.stop().await;
    let socket = scene.directory.path().join("larder/larder.sock");
    let done = send(&socket, &Revoke { repository: Some("reg.test/a/app".into()) }).await.unwrap();
    assert_eq!(done.revoked, 1);
    for what in scene.everything() {
        assert_eq!(scene.get("a/app", &what, A).await.status, StatusCode::SERVICE_UNAVAILABLE, "{what}");
    }
    assert_eq!(
        scene.get("open/app", "manifests/v1", ("", "")).await.status,
        StatusCode::OK,
        "others keep theirs"
    );
    assert_eq!(send(&socket, &Revoke { repository: None }).await.unwrap().revoked, 1);
    let scene = scene.restart().await;
    assert_eq!(scene.get("open/app", "manifests/v1", ("", "")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(send(&socket, &Revoke { repository: Some("nonsense".into()) }).await.is_err());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_under_way_is_not_read_by_whom_its_right_has_ended_since() {
    use larder::admin::control::{Revoke, send};
    for end in ["by hand", "by a tag", "by its time"] {
        let scene = scene("").await;
        assert_eq!(scene.get("a/app", "manifests/v1", A).await.status, StatusCode::OK);
        let layer = scene.registry.put_blob("a/app", image::noise(1_000_000, 3));
        let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
        scene.registry.wrong_at("/blobs/", Fault::HoldAfter(500_000, std::sync::Arc::clone(&gate)));
        let (path, header) = (Scene::path("a/app", &format!("blobs/{layer}")), client::basic(A.0, A.1));
        let authorization = [("authorization", header.as_str())];
        let mut leader = client::open(scene.larder.address, Method::GET, &path, &authorization).await;
        assert_eq!(leader.status(), StatusCode::OK);
        let joiner = client::open(scene.larder.address, Method::GET, &path, &authorization).await;
        assert_eq!(joiner.status(), StatusCode::OK, "the right is fresh");
        scene.registry.change(true, |accounts| drop(accounts.users.remove(A.0)));
        match end {
            "by hand" => {
                let socket = scene.directory.path().join("larder/larder.sock");
                send(&socket, &Revoke { repository: Some("reg.test/a/app".into()) }).await.unwrap();
            }
            "by a tag" => {
                let status = scene.get("a/app", "manifests/v1", A).await.status;
                assert_eq!(status, StatusCode::UNAUTHORIZED);
            }
            _ => scene.larder.clock.advance(Duration::from_secs(301)),
        }
        let again = client::open(scene.larder.address, Method::GET, &path, &authorization).await;
        assert_eq!(
            again.status(),
            StatusCode::UNAUTHORIZED,
            "a right that ended {end} reads the whole layer"
        );
        gate.add_permits(1_000);
        assert_eq!(client::rest(&mut leader).await.len(), 1_000_000, "the answer that had begun goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http_headers_of_the_nodes_config_opened_is_not_open_for_ever() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&registry, "team/app", "v1", 10_000);
    registry.wrong(|seen| (!seen.headers.contains_key("x-key")).then(|| Fault::Status(404, vec![])));
    let config = directory.path().join("config.json");
    std::fs::write(&config, r#"{"auths": {"reg.test": {"auth": "dTpw"}}, "HttpHeaders": {"X-Key": "k"}}"#)
        .unwrap();
    let more = format!("[credentials]\nnode = [{config:?}]");
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &more);
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    assert_eq!(larder.get(path).await.status, StatusCode::OK);
    registry.stop().await;
    assert_eq!(larder.get(path).await.status, StatusCode::OK, "while the node has it");
    std::fs::write(&config, r#"{"auths": {}}"#).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(larder.get(path).await.status, StatusCode::SERVICE_UNAVAILABLE);
}
