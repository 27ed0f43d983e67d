//! Rate limits: after a 429 no request is sent, what is cached is served, and the last requests of a limit are left to
//! images that are not cached.

use http::{Method, StatusCode};

use crate::support::image::{self, Image};
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::world::Larder;

const TAG: &str = "/v2/team/app/manifests/v1?ns=reg.test";

struct Scene {
    registry: FakeRegistry,
    image: Image,
    larder: Larder,
    _directory: tempfile::TempDir,
}

async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    Scene { registry, image, larder, _directory: directory }
}

fn limited(retry_after: Option<&str>) -> Fault {
    Fault::Status(429, retry_after.map(|said| ("retry-after", said.to_owned())).into_iter().collect())
}

fn left(remaining: u64) -> Vec<(&'static str, String)> {
    vec![
        ("ratelimit-limit", "100;w=21600".to_owned()),
        ("ratelimit-remaining", format!("{remaining};w=21600")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_is_a_503_with_its_reason_and_time_and_no_storm() {
    for said in [Some("86400"), Some("Fri, 01 Jan 2100 00:00:00 GMT")] {
        let scene = scene().await;
        let (ns, direct) = ("/v2/team/app/manifests/v2?ns=reg.test", "/v2/reg.test/team/app/manifests/v2");
        scene.registry.wrong_at("/v2/", limited(said));
        for n in 0..20 {
            let path = if n % 2 == 0 { ns } else { direct };
            let reply = scene.larder.get(path).await;
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{said:?}");
            let message = reply.json()["errors"][0]["message"].as_str().unwrap().to_owned();
            assert!(message.contains("rate limit is used up; it is asked again in 5m"), "{message}");
            let seconds: u64 = reply.header("retry-after").parse().unwrap();
            assert!((290..=330).contains(&seconds), "believed, and not for a day: {seconds}");
        }
        assert_eq!(scene.registry.seen().len(), 1, "{said:?}: it is left alone");
        let gauge =
            r#"larder_upstream_ratelimit_retry_timestamp_seconds{principal="anonymous",registry="reg.test"}"#;
        assert!(scene.larder.metric(gauge).await > scene.larder.clock.now().0 as f64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_without_a_time_counts_for_a_moment() {
    let scene = scene().await;
    scene.registry.wrong_once("/manifests/", limited(Some("garbage")));
    assert_eq!(scene.larder.get(TAG).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        scene.larder.get(TAG).await.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "not asked again at once"
    );
    assert_eq!(scene.registry.seen().len(), 1);
    for _ in 0..500 {
        if scene.larder.get(TAG).await.body == scene.image.index_bytes {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it is never asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_served_stale_while_the_limit_is_used_up() {
    let scene = scene().await;
    assert_eq!(scene.larder.get(TAG).await.status, StatusCode::OK);
    scene.larder.clock.advance(std::time::Duration::from_secs(600));
    scene.registry.wrong_at("/v2/", limited(Some("3600")));
    scene.registry.forget_seen();
    for _ in 0..10 {
        let reply = scene.larder.get(TAG).await;
        assert_eq!(reply.body, scene.image.index_bytes);
        assert!(reply.header("warning").contains("answered 429"), "{:?}", reply.headers);
        assert_eq!(reply.header("age"), "600");
    }
    assert_eq!(scene.registry.seen().len(), 1);
    assert_eq!(scene.larder.metric(r#"larder_stale_age_seconds_count{registry="reg.test"}"#).await, 10.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_of_one_repository_makes_no_tag_of_another_stale() {
    let scene = scene().await;
    assert_eq!(scene.larder.get(TAG).await.status, StatusCode::OK);
    let moved = image::push(&scene.registry, "team/app", "v1", 2_000);
    // As a registry does that hands on the 429 of another one.
    scene.registry.wrong(|seen| seen.path.contains("/hub-proxy/").then(|| limited(Some("3600"))));
    let limited = scene.larder.get("/v2/hub-proxy/nginx/manifests/v1?ns=reg.test").await;
    assert_eq!(limited.status, StatusCode::SERVICE_UNAVAILABLE);
    let reply = scene.larder.get(TAG).await;
    assert_eq!(reply.body, moved.index_bytes);
    assert_eq!(reply.header("warning"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_while_its_new_manifest_is_refused_keeps_its_old_one() {
    let scene = scene().await;
    assert_eq!(scene.larder.get(TAG).await.body, scene.image.index_bytes);
    image::push(&scene.registry, "team/app", "v1", 2_000);
    // As Docker Hub does: HEAD is free, GET is not.
    scene.registry.wrong(|seen| (seen.method == Method::GET).then(|| limited(Some("3600"))));
    let reply = scene.larder.get(TAG).await;
    assert_eq!(reply.body, scene.image.index_bytes);
    assert!(reply.header("warning").contains("answered 429"), "{:?}", reply.headers);
    assert_eq!(reply.header("docker-content-digest"), scene.image.index.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_requests_of_a_rate_limit_are_left_to_images_that_are_not_cached() {
    let scene = scene().await;
    assert_eq!(scene.larder.get(TAG).await.status, StatusCode::OK);
    let moved = image::push(&scene.registry, "team/app", "v1", 2_000);
    let new = image::push(&scene.registry, "team/other", "v1", 1_000);
    // The answer to every HEAD says how many requests are left; the HEAD of an unknown tag is one too.
    scene.registry.wrong(|seen| seen.path.ends_with("/nothing").then(|| Fault::Status(404, left(3))));
    scene.larder.get("/v2/team/app/manifests/nothing?ns=reg.test").await;
    let gauge = |what: &str| {
        format!(r#"larder_upstream_ratelimit_{what}{{principal="anonymous",registry="reg.test"}}"#)
    };
    assert_eq!(scene.larder.metric(&gauge("limit")).await, 100.0);
    assert_eq!(scene.larder.metric(&gauge("remaining")).await, 3.0);

    let reply = scene.larder.get(TAG).await;
    assert_eq!(reply.body, scene.image.index_bytes, "what it was");
    assert!(reply.header("warning").contains("nearly used up"), "{:?}", reply.headers);
    let other = scene.larder.get("/v2/team/other/manifests/v1?ns=reg.test").await;
    assert_eq!(other.status, StatusCode::OK, "what is not here is worth it");
    let unasked = scene.larder.get_unasked("/v2/team/third/manifests/v1?ns=reg.test").await;
    assert_eq!(unasked.status, StatusCode::UNAUTHORIZED, "a pod's own account has a limit of its own");
    let amd = &new.platforms[0];
    for what in [format!("manifests/{}", amd.manifest), format!("blobs/{}", amd.layers[0])] {
        let reply = scene.larder.get(&format!("/v2/team/other/{what}?ns=reg.test")).await;
        assert!(reply.is_well(), "{what}");
    }
    scene.larder.settled().await;
    let ahead = scene.registry.count(Method::GET, &amd.layers[1].to_string());
    assert_eq!(ahead, 0, "a layer that was not asked for was fetched ahead");

    scene.registry.behave();
    scene.registry.wrong(|seen| seen.path.ends_with("/nothing").then(|| Fault::Status(404, left(90))));
    scene.larder.get("/v2/team/app/manifests/nothing?ns=reg.test").await;
    assert_eq!(scene.larder.get(TAG).await.body, moved.index_bytes, "there is enough again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_one_credential_does_not_stop_another() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    registry.know(Accounts::new(&[
        ("ann", "ann-password", &["team/app"]),
        ("bob", "bob-password", &["team/app"]),
    ]));
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    registry.wrong(|seen| {
        let of_ann =
            seen.headers.get("authorization").is_some_and(|a| a.to_str().unwrap().contains("tok.ann."));
        of_ann.then(|| limited(Some("3600")))
    });
    for _ in 0..3 {
        let ann = larder.get_as(TAG, ("ann", "ann-password")).await;
        assert_eq!(ann.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(larder.get_as(TAG, ("bob", "bob-password")).await.body, image.index_bytes);
    }
    let of_ann = |seen: &crate::support::registry::Seen| {
        seen.headers.get("authorization").is_some_and(|a| a.to_str().unwrap().contains("tok.ann."))
    };
    assert_eq!(registry.seen().iter().filter(|seen| of_ann(seen)).count(), 1);
}
