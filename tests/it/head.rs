//! Registries and object stores whose `HEAD` is refused or says something else than their `GET`: what `GET` brings is
//! served, and nothing is ended, forgotten or served stale for what `HEAD` said.

use http::{Method, StatusCode};
use larder::reference::Digest;

use crate::support::accounts::Accounts;
use crate::support::client;
use crate::support::fault::redirect;
use crate::support::image::{self, Image};
use crate::support::registry::{FakeRegistry, Fault, Seen};
use crate::support::world::Larder;

const ALICE: (&str, &str) = ("alice", "secret-a");

struct Scene {
    registry: FakeRegistry,
    image: Image,
    larder: Larder,
    _directory: tempfile::TempDir,
}

/// A registry with two repositories that share an image; only alice reads `team/app`.
async fn scene(more: &str) -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 100_000);
    image::push(&registry, "open/app", "v1", 100_000);
    let mut accounts = Accounts::new(&[(ALICE.0, ALICE.1, &["team/app"])]);
    accounts.public = vec!["open/app".to_owned()];
    registry.know(accounts);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    Scene { registry, image, larder, _directory: directory }
}

impl Scene {
    async fn send(&self, method: Method, repository: &str, what: &str) -> client::Reply {
        let path = format!("/v2/{repository}/{what}?ns=reg.test");
        if repository == "team/app" {
            return self.larder.send_as(method, &path, ALICE).await;
        }
        client::send(self.larder.address, method, &path, &[client::ANONYMOUS]).await
    }

    fn layer(&self) -> Digest {
        self.image.platforms[0].layers[0]
    }

    /// Makes the fault on every `HEAD` whose path contains `part`.
    fn refuse(&self, part: &'static str, fault: Fault) {
        self.registry.wrong(move |seen: &Seen| {
            (seen.method == Method::HEAD && seen.path.contains(part)).then(|| fault.clone())
        });
    }
}

/// What HEAD is answered with where GET works.
fn faults() -> Vec<(&'static str, Fault)> {
    let status = |status| Fault::Status(status, vec![]);
    let ok = |headers: &[(&'static str, &str)]| {
        Fault::Status(200, headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    };
    let other = Digest::of(b"other").to_string();
    vec![
        ("400", status(400)),
        ("401", status(401)),
        ("403", status(403)),
        ("404", status(404)),
        ("405", status(405)),
        ("501", status(501)),
        ("503", status(503)),
        ("a yes that says nothing", ok(&[])),
        ("a length of 0", ok(&[("content-length", "0")])),
        ("an odd digest", ok(&[("content-length", "5"), ("docker-content-digest", "sha256:5")])),
        ("no redirect target", status(307)),
        ("another digest", ok(&[("content-length", "5"), ("docker-content-digest", &other)])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_to_head_refuses_no_manifest_that_it_gives_to_get() {
    for (name, fault) in faults() {
        if name == "another digest" {
            continue; // Of a tag, nothing tells it from the right one.
        }
        let scene = scene("").await;
        scene.refuse("/manifests/", fault);
        for repository in ["open/app", "team/app"] {
            for method in [Method::HEAD, Method::GET] {
                let reply = scene.send(method.clone(), repository, "manifests/v1").await;
                assert_eq!(reply.status, StatusCode::OK, "{name}: {method} {repository}");
                assert_eq!(reply.header("docker-content-digest"), scene.image.index.to_string());
                assert_eq!(reply.header("content-length"), scene.image.index_bytes.len().to_string());
                assert_eq!(reply.header("warning"), "", "{name}: served stale");
            }
        }
        let moved = image::push(&scene.registry, "open/app", "v1", 2_000);
        let reply = scene.send(Method::GET, "open/app", "manifests/v1").await;
        assert_eq!(reply.body, moved.index_bytes, "{name}: a moved tag is served as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_to_head_ends_no_right_that_it_gives_to_get() {
    for (name, fault) in faults() {
        let scene = scene("[access]\ngrant_ttl = \"0s\"").await;
        let manifest = format!("manifests/{}", scene.image.index);
        let blob = format!("blobs/{}", scene.layer());
        for what in ["manifests/v1", &manifest, &blob] {
            assert_eq!(scene.send(Method::GET, "team/app", what).await.status, StatusCode::OK, "{name}");
        }
        scene.larder.settled().await;
        scene.refuse("team/app", fault);
        scene.larder.clock.advance(std::time::Duration::from_secs(120));
        for what in [&manifest, &blob] {
            let reply = scene.send(Method::GET, "team/app", what).await;
            assert_eq!(reply.status, StatusCode::OK, "{name}: {what}");
            assert_eq!(reply.header("warning"), "", "{name}: {what} is served stale");
        }
        scene.registry.stop().await;
        let reply = scene.send(Method::GET, "team/app", &blob).await;
        assert_eq!(reply.status, StatusCode::OK, "{name}: the right has ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_to_head_keeps_no_repository_from_a_layer_that_another_one_shares() {
    for (name, fault) in faults() {
        let scene = scene("").await;
        let blob = format!("blobs/{}", scene.layer());
        assert_eq!(scene.send(Method::GET, "open/app", &blob).await.status, StatusCode::OK);
        scene.larder.settled().await;
        scene.refuse("/blobs/", fault);
        let (size, bytes) = {
            let whole = scene.send(Method::GET, "team/app", &blob).await;
            assert!(whole.is_well(), "{name}: {}", whole.status);
            (whole.body.len(), whole.body)
        };
        assert_eq!(Digest::of(&bytes), scene.layer());
        let other = scene.image.platforms[1].layers[1];
        let head = scene.send(Method::HEAD, "team/app", &format!("blobs/{other}")).await;
        assert_eq!(head.status, StatusCode::OK, "{name}");
        assert!(head.header("content-length").parse::<usize>().unwrap() > size / 2, "{name}: a wrong size");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_signed_url_is_for_get_costs_one_request_and_not_two_each_time() {
    let store = FakeRegistry::start().await;
    let scene = scene(&format!("[upstream]\ntrusted_redirects = [\"{}\"]", store.address)).await;
    image::push(&store, "open/app", "v1", 100_000);
    store.wrong(|seen| (seen.method == Method::HEAD).then(|| Fault::Status(403, vec![])));
    let url = store.url();
    scene.registry.wrong(move |seen| {
        let content = seen.path.contains("/manifests/") || seen.path.contains("/blobs/");
        content.then(|| redirect(format!("{url}{}", seen.path)))
    });
    let both = || vec![Method::HEAD, Method::GET];
    // One alone may be a bad moment.
    for expected in [both(), both(), vec![Method::GET]] {
        store.forget_seen();
        let reply = scene.send(Method::HEAD, "open/app", "manifests/v1").await;
        assert_eq!(reply.status, StatusCode::OK);
        let sent: Vec<_> = store.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(sent, expected, "a store whose HEAD is of no use is asked by HEAD again");
    }
    let blob = format!("blobs/{}", scene.layer());
    let head = scene.send(Method::HEAD, "open/app", &blob).await;
    let whole = scene.send(Method::GET, "open/app", &blob).await;
    assert_eq!(head.header("content-length"), whole.body.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_get_does_not_have_either_is_gone() {
    let scene = scene("").await;
    assert_eq!(scene.send(Method::GET, "open/app", "manifests/v1").await.status, StatusCode::OK);
    scene.registry.remove_manifest("open/app", "v1");
    assert_eq!(scene.send(Method::GET, "open/app", "manifests/v1").await.status, StatusCode::NOT_FOUND);
    scene.registry.stop().await;
    let reply = scene.send(Method::GET, "open/app", "manifests/v1").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "its record outlived it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_for_people_proves_no_right_and_is_no_manifest() {
    let scene = scene("").await;
    let page = Fault::Answer(200, vec![("content-type", "text/html".into())], "<html>log in</html>".into());
    scene.registry.wrong_at("/open/app/manifests/", page);
    let reply = scene.send(Method::GET, "open/app", "manifests/v1").await;
    assert!(!reply.status.is_success(), "{}", reply.status);
    let grants = scene.larder.metric(r#"larder_rights_total{event="proved",principal="anonymous"}"#);
    assert_eq!(grants.await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_for_people_in_place_of_a_blob_opens_no_private_repository() {
    let html = "text/html";
    for (name, method, media_type) in [
        ("a page to HEAD", Method::HEAD, html),
        ("a page to GET", Method::GET, html),
        ("an unlabelled page to HEAD", Method::HEAD, "application/octet-stream"),
        ("an unlabelled page to GET", Method::GET, "application/octet-stream"),
    ] {
        let scene = scene("").await;
        let (manifest, blob) =
            (format!("manifests/{}", scene.image.index), format!("blobs/{}", scene.layer()));
        for what in [&manifest, &blob] {
            assert_eq!(scene.send(Method::GET, "team/app", what).await.status, StatusCode::OK, "{name}");
        }
        scene.larder.settled().await;
        let page = Fault::Answer(200, vec![("content-type", media_type.into())], "<html>sorry</html>".into());
        scene.registry.wrong(move |_| Some(page.clone()));
        let anonymous = |method, what: String| {
            let path = format!("/v2/team/app/{what}?ns=reg.test");
            let address = scene.larder.address;
            async move { client::send(address, method, &path, &[client::ANONYMOUS]).await }
        };
        for digest in [Digest::of(b"any"), scene.layer()] {
            let reply = anonymous(method.clone(), format!("blobs/{digest}")).await;
            assert!(method == Method::HEAD || !reply.is_well(), "{name}: {}", reply.status);
        }
        for what in [manifest, blob] {
            let reply = anonymous(Method::GET, what.clone()).await;
            assert!(!reply.is_well(), "{name}: {what} is served to all");
        }
        let grants = scene.larder.metric(r#"larder_rights_total{event="proved",principal="anonymous"}"#);
        assert_eq!(grants.await, 0.0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_states_no_digest_proves_a_right_by_content_and_by_the_known_size() {
    for is_stored in [false, true] {
        let store = FakeRegistry::start().await;
        let scene = scene(&format!("[upstream]\ntrusted_redirects = [\"{}\"]", store.address)).await;
        let blob = format!("blobs/{}", scene.layer());
        let from = if is_stored { &scene } else { &self::scene("").await };
        let bytes = from.send(Method::GET, "open/app", &blob).await.body;
        from.larder.settled().await;
        let plain = Fault::Answer(200, vec![("content-type", "application/octet-stream".into())], bytes);
        store.wrong(move |_| Some(plain.clone()));
        let url = store.url();
        scene.registry.wrong(move |seen| {
            let is_blob = seen.path.contains("/blobs/") && seen.headers.contains_key("authorization");
            is_blob.then(|| redirect(format!("{url}{}", seen.path)))
        });
        let reply = scene.send(Method::GET, "team/app", &blob).await;
        assert_eq!((reply.status, Digest::of(&reply.body)), (StatusCode::OK, scene.layer()));
        let proved = r#"larder_rights_total{event="proved",principal="caller"}"#;
        scene.larder.metric_becomes(proved, 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_a_registry_says_to_head_is_not_believed_where_a_manifest_says_it() {
    let scene = scene("").await;
    let image = &scene.image.platforms[0];
    let manifest = format!("manifests/{}", image.manifest);
    let reply = scene.larder.head(&format!("/v2/open/app/{manifest}?ns=reg.test")).await;
    assert_eq!(reply.status, StatusCode::OK);
    scene.refuse("/blobs/", Fault::Status(200, vec![("content-length", "7".into())]));
    let head = scene.send(Method::HEAD, "open/app", &format!("blobs/{}", image.layers[1])).await;
    let manifest: serde_json::Value =
        serde_json::from_slice(&scene.registry.manifest("open/app", image.manifest)).unwrap();
    let size = manifest["layers"][1]["size"].as_u64().unwrap();
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, &*size.to_string()));
}
