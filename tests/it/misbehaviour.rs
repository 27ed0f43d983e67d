//! Upstreams that fail, hang and answer nonsense: the client gets a clear error, nothing wrong is stored, and other
//! requests are not affected. Bodies are in `broken_bodies`, redirects in `redirects`.

use bytes::Bytes;
use http::StatusCode;
use larder::reference::{Digest, MANIFEST_BYTES_MAX, MediaType};

use crate::support::image;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::scene::Scene;
use crate::support::world::Larder;

const QUICK: &str = "[upstream]\nheader_timeout = \"400ms\"\nidle_timeout = \"300ms\"";

fn statuses(mirror: u16, direct: u16) -> (StatusCode, StatusCode) {
    (StatusCode::from_u16(mirror).unwrap(), StatusCode::from_u16(direct).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_of_upstream_has_its_status() {
    let scene = Scene::with(QUICK).await;
    let (_, blob) = scene.blob_of(10);
    for (status, mirror, direct) in [
        (401, 401, 401),
        (403, 401, 403),
        (404, 404, 404),
        (410, 404, 404),
        (400, 404, 502),
        (418, 404, 502),
        (500, 503, 503),
        (503, 503, 503),
    ] {
        // A registry that fails and names a time is left alone for it.
        let named = if status < 500 { vec![("retry-after", "86400".into())] } else { vec![] };
        scene.registry.wrong_at("/v2/", Fault::Status(status, named));
        let paths = ["/v2/team/app/manifests/v1", &blob, "/v2/team/app/tags/list"];
        // A 5xx is retried with a pause each time; one path is enough.
        for path in if status < 500 { &paths[..] } else { &paths[..1] } {
            // What a client may ask of a list is its registry's business.
            let is_of_the_query = status == 400 && path.ends_with("/list");
            let expected = if is_of_the_query { statuses(400, 400) } else { statuses(mirror, direct) };
            assert_eq!(scene.both(path).await, expected, "{status} for {path}");
        }
    }
    scene.registry.behave();
    scene.registry.wrong_at("/v2/", Fault::Hang);
    assert_eq!(scene.both("/v2/team/app/manifests/v1").await, statuses(503, 503));
    scene.registry.stop().await;
    let away = scene.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(away.header("retry-after"), "5");
    assert!(
        away.json()["errors"][0]["message"].as_str().unwrap().contains("cannot be reached"),
        "{:?}",
        away.body
    );
    assert_eq!(scene.blobs_stored(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_is_cut_off_by_our_own_bound_even_when_upstream_is_allowed_longer() {
    // The data plane answers within 25 s whatever upstream does; here `header_timeout` is shorter.
    let scene = Scene::with(QUICK).await;
    scene.registry.wrong_at("/manifests/", Fault::Hang);
    let reply = scene.larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(reply.header("www-authenticate").contains("cannot be reached: no response within"), "{reply:?}");
    let timeouts =
        scene.larder.metric(r#"larder_upstream_errors_total{reason="upstream_timeout",registry="reg.test"}"#);
    assert_eq!(timeouts.await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_wrong_blob_is_an_error_before_any_header() {
    let scene = Scene::with(QUICK).await;
    let (_, path) = scene.blob_of(1_000);
    scene.registry.wrong_at("/blobs/", Fault::Corrupt);
    assert_eq!(scene.both(&path).await, statuses(404, 502));
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_contradict_themselves_are_refused_and_not_stored() {
    let scene = Scene::with(QUICK).await;
    let image = image::push(&scene.registry, "team/app", "v1", 1_000);
    let manifest = image.platforms[0].manifest;
    let ambiguous = image.index_bytes.slice(..image.index_bytes.len() - 1);
    let ambiguous = [&ambiguous[..], br#","layers":[]}"#].concat();
    let (index, typed) = (image.index_bytes.clone(), |t: &str| vec![("content-type", t.to_owned())]);
    for (what, fault) in [
        ("no document", Fault::Answer(200, typed(MediaType::OCI_INDEX), Bytes::from_static(b"{}"))),
        ("another sound document", Fault::Answer(200, typed(MediaType::OCI_INDEX), index.clone())),
        ("html", Fault::Answer(200, typed("text/html"), Bytes::from_static(b"<html>sign in</html>"))),
        (
            "too large",
            Fault::Answer(200, typed(MediaType::OCI_INDEX), Bytes::from(vec![b' '; MANIFEST_BYTES_MAX + 1])),
        ),
        ("encoded", Fault::Answer(200, vec![("content-encoding", "gzip".into())], index.clone())),
        ("truncated", Fault::CloseAfter(100)),
    ] {
        scene.registry.behave();
        scene.registry.wrong_at("/manifests/", fault);
        let (mirror, direct) = scene.both(&format!("/v2/team/app/manifests/{manifest}")).await;
        assert!(!mirror.is_success() && !direct.is_success(), "{what}: {mirror} {direct}");
        assert_eq!(scene.blobs_stored(), 0, "{what}");
    }
    for (what, media_type, bytes) in [
        ("ambiguous", MediaType::OCI_INDEX, Bytes::from(ambiguous)),
        ("an index sent as an image", MediaType::OCI_MANIFEST, index),
    ] {
        scene.registry.behave();
        let digest = scene.registry.put_manifest("team/app", Some("odd"), media_type, bytes);
        for reference in ["odd".to_owned(), digest.to_string()] {
            let answered = scene.both(&format!("/v2/team/app/manifests/{reference}")).await;
            assert_eq!(answered, statuses(404, 502), "{what} {reference}");
        }
        assert_eq!(scene.blobs_stored(), 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_header_decides_nothing() {
    let scene = Scene::with(QUICK).await;
    let image = image::push(&scene.registry, "team/app", "v1", 1_000);
    for wrong in [
        Digest::of(b"wrong").to_string(),
        "sha512:00".to_owned(),
        "nonsense".to_owned(),
        format!("SHA256:{}", Digest::of(b"x").hex()),
    ] {
        let headers =
            vec![("content-type", MediaType::OCI_INDEX.to_owned()), ("docker-content-digest", wrong.clone())];
        scene.registry.behave();
        scene.registry.wrong_at("/manifests/v1", Fault::Answer(200, headers, image.index_bytes.clone()));
        let reply = scene.larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(reply.header("docker-content-digest"), image.index.to_string(), "{wrong}");
        assert_eq!(reply.header("content-length"), image.index_bytes.len().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_type_that_a_digest_first_came_with_stays() {
    let scene = Scene::with(QUICK).await;
    let odd = Bytes::from_static(br#"{"blobs":[]}"#);
    let digest = scene.registry.put_manifest("team/app", None, "application/vnd.first.v1+json", odd.clone());
    let path = format!("/v2/team/app/manifests/{digest}?ns=reg.test");
    assert_eq!(scene.larder.get(&path).await.header("content-type"), "application/vnd.first.v1+json");
    scene.registry.put_manifest("team/app", None, "application/vnd.second.v1+json", odd);
    // It is in memory too, which a restart forgets.
    let Scene { registry, larder, directory } = scene;
    larder.stop().await;
    std::fs::remove_file(directory.path().join(format!("larder/store/blobs/sha256/{}", digest.hex())))
        .unwrap();
    registry.forget_seen();
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], QUICK);
    assert_eq!(larder.get(&path).await.header("content-type"), "application/vnd.first.v1+json");
    assert_eq!(registry.count(http::Method::GET, "/manifests/"), 1, "it was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_cannot_be_asked_leave_nothing_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let store = directory.path().join("larder/store");
    for n in 0..10 {
        let reply = larder.get(&format!("/v2/a/manifests/v1?ns=r{n}.invalid")).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", reply.body);
    }
    assert_eq!(std::fs::read_dir(store.join("refs")).map_or(0, Iterator::count), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_failure_is_retried_and_a_long_one_is_not_retried_for_ever() {
    let scene = Scene::with(QUICK).await;
    let image = image::push(&scene.registry, "team/app", "v1", 1_000);
    scene.registry.wrong_once("/manifests/", Fault::Status(503, vec![]));
    let reply = scene.larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.header("docker-content-digest"), image.index.to_string());
    scene.registry.forget_seen();
    scene.registry.wrong_at("/manifests/", Fault::Status(503, vec![]));
    scene.larder.head("/v2/team/app/manifests/v2?ns=reg.test").await;
    assert_eq!(scene.registry.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_to_be_left_alone_gets_one_request() {
    let scene = Scene::with(QUICK).await;
    image::push(&scene.registry, "team/app", "v1", 1_000);
    scene.registry.wrong_at("/manifests/", Fault::Status(503, vec![("retry-after", "30".into())]));
    for _ in 0..3 {
        let reply = scene.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.header("retry-after"), "30", "the client is not told what the registry said");
    }
    assert_eq!(scene.registry.seen().len(), 1, "{:?}", scene.registry.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_second_fails_no_client_that_can_wait() {
    let scene = Scene::with(QUICK).await;
    let image = image::push(&scene.registry, "team/app", "v1", 1_000);
    scene.registry.wrong_once("/v2/", Fault::Status(503, vec![("retry-after", "1".into())]));
    let reply = scene.larder.get("/v2/reg.test/team/app/manifests/v1").await;
    assert_eq!(reply.body, image.index_bytes, "{}", reply.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_private_addresses_are_declined_before_any_request() {
    let (canary, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[], "");
    let port = canary.address.port();
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        "169.254.169.254".into(),
        "metadata".into(),
    ] {
        let mirror = larder.get(&format!("/v2/a/manifests/v1?ns={host}")).await;
        assert_eq!(mirror.status, StatusCode::NOT_FOUND, "{host}");
        assert!(
            mirror.json()["errors"][0]["message"].as_str().unwrap().contains("[[registry]]"),
            "{host}: {:?}",
            mirror.body
        );
    }
    let direct = larder.get(&format!("/v2/127.0.0.1:{port}/a/manifests/v1")).await;
    assert_eq!((direct.status, direct.error_code().as_str()), (StatusCode::FORBIDDEN, "DENIED"));
    assert!(canary.seen().is_empty());
}
