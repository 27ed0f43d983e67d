//! Who may read what: tenants, the node's credential, unknown users; cold, warm, in flight, in an outage. `rights` has the
//! tests of how rights end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::MediaType;
use tokio::sync::Semaphore;

use crate::support::client::{self, ANONYMOUS, Reply};
use crate::support::image::{self, Image, noise};
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::world::Larder;

pub(super) const A: (&str, &str) = ("tenant-a", "secret-a");
pub(super) const B: (&str, &str) = ("tenant-b", "secret-b");
pub(super) const NODE: (&str, &str) = ("node", "secret-node");

pub(super) struct Scene {
    pub(super) registry: FakeRegistry,
    pub(super) larder: Larder,
    pub(super) directory: tempfile::TempDir,
    pub(super) image: Image,
    more: String,
}

/// A registry where A reads a/app, B reads b/app, the node's account reads node/app, and open/app is public.
pub(super) async fn scene(more: &str) -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "a/app", "v1", 100_000);
    for repository in ["b/app", "node/app", "open/app"] {
        image::push(&registry, repository, "v1", 50_000);
    }
    let users = [(A.0, A.1, &["a/app"][..]), (B.0, B.1, &["b/app"]), (NODE.0, NODE.1, &["node/app"])];
    registry.know(Accounts { public: vec!["open/app".into()], ..Accounts::new(&users) });
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    Scene { registry, larder, directory, image, more: more.to_owned() }
}

impl Scene {
    pub(super) fn everything(&self) -> Vec<String> {
        let image = &self.image.platforms[0];
        vec![
            "manifests/v1".to_owned(),
            format!("manifests/{}", self.image.index),
            format!("manifests/{}", image.manifest),
            format!("blobs/{}", image.config),
            format!("blobs/{}", image.layers[0]),
            format!("blobs/{}", image.layers[1]),
        ]
    }

    pub(super) fn path(repository: &str, what: &str) -> String {
        format!("/v2/{repository}/{what}?ns=reg.test")
    }

    pub(super) async fn get(&self, repository: &str, what: &str, user: (&str, &str)) -> Reply {
        self.larder.get_as(&Self::path(repository, what), user).await
    }

    pub(super) async fn pull_as_a(&self) {
        for what in self.everything() {
            let reply = self.get("a/app", &what, A).await;
            assert_eq!((reply.status, reply.complete), (StatusCode::OK, true), "{what}");
        }
        self.larder.settled().await;
    }

    /// Only A gets content of a/app, whichever way others authenticate.
    pub(super) async fn is_refused_to_others(&self, when: &str) {
        self.is_refused(when, 1).await;
    }

    /// The same for each `step`th path: a request to a registry that is down takes a moment each time.
    async fn is_refused(&self, when: &str, step: usize) {
        let (wrong, none) = (client::basic(A.0, "wrong"), ANONYMOUS.1.to_owned());
        let more = ["tags/list".to_owned(), format!("referrers/{}", self.image.index)];
        for what in self.everything().iter().chain(&more).step_by(step) {
            for header in [client::basic(B.0, B.1), wrong.clone(), none.clone()] {
                for (method, range) in
                    [(Method::GET, None), (Method::HEAD, None), (Method::GET, Some("bytes=0-5"))]
                {
                    let mut headers = vec![("authorization", header.as_str())];
                    headers.extend(range.map(|range| ("range", range)));
                    let path = Self::path("a/app", what);
                    let reply = client::send(self.larder.address, method.clone(), &path, &headers).await;
                    let refused =
                        [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE];
                    assert!(refused.contains(&reply.status), "{when}: {method} {what}: {}", reply.status);
                    assert!(!reply.headers.contains_key("docker-content-digest"), "{when}: {what}");
                }
            }
            let unasked = self.larder.get_unasked(&Self::path("a/app", what)).await;
            assert_eq!(unasked.status, StatusCode::UNAUTHORIZED, "{when}: {what}");
            assert!(unasked.header("www-authenticate").starts_with("Bearer realm="), "{when}: {what}");
            assert!(
                unasked.json()["errors"][0]["message"]
                    .as_str()
                    .unwrap()
                    .starts_with("authentication required: ")
            );
            // The same layers through repositories that the caller may read.
            if what.starts_with("blobs/") && !what.ends_with(&self.image.platforms[0].config.hex()) {
                for (repository, user) in [("b/app", B), ("open/app", B), ("open/app", ("", ""))] {
                    let reply = self.get(repository, what, user).await;
                    let through = format!("{when}: {what} through {repository}");
                    assert!(!reply.status.is_success(), "{through}: {}", reply.status);
                }
            }
        }
    }

    pub(super) async fn restart(self) -> Self {
        let Self { registry, larder, directory, image, more } = self;
        larder.stop().await;
        let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &more);
        Self { registry, larder, directory, image, more }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_private_image_is_not_served_to_another_tenant() {
    let scene = scene("").await;
    scene.is_refused_to_others("cold").await;
    scene.pull_as_a().await;
    scene.is_refused_to_others("warm").await;
    scene.pull_as_a().await;
    let scene = scene.restart().await;
    scene.is_refused_to_others("after a restart").await;
    scene.registry.stop().await;
    scene.is_refused("upstream down", 4).await;
    scene.pull_as_a().await;
    assert!(scene.larder.metric(r#"larder_rights_total{event="held",principal="caller"}"#).await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_hides_with_403_or_404_hides_what_is_cached_too() {
    for denial in [403, 404] {
        let scene = scene("").await;
        scene.registry.change(false, |accounts| accounts.denial = denial);
        scene.pull_as_a().await;
        scene.is_refused_to_others(&format!("denied with {denial}")).await;
        scene.pull_as_a().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_registries_work_like_token_registries() {
    let scene = scene("").await;
    scene.registry.change(false, |accounts| accounts.basic = true);
    scene.pull_as_a().await;
    scene.is_refused_to_others("basic").await;
    assert_eq!(scene.get("open/app", "manifests/v1", ("", "")).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lists_another_tenants_digests_gives_no_access() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    // B publishes A's index in B's repository, and on a registry of B's where everything is public.
    scene.registry.put_manifest("b/app", Some("mine"), MediaType::OCI_INDEX, scene.image.index_bytes.clone());
    let evil = FakeRegistry::start().await;
    evil.put_manifest("b/app", Some("mine"), MediaType::OCI_INDEX, scene.image.index_bytes.clone());
    let registries = [("reg.test", scene.registry.url()), ("evil.test", evil.url())];
    let Scene { larder, directory, .. } = scene;
    larder.stop().await;
    let larder = Larder::start(directory.path(), &registries, "");
    for registry in ["reg.test", "evil.test"] {
        let index = larder.get_as(&format!("/v2/b/app/manifests/mine?ns={registry}"), B).await;
        assert_eq!(index.status, StatusCode::OK, "{registry}: its own index is its own");
        let parts = &scene.image.platforms[0];
        for what in [
            format!("manifests/{}", parts.manifest),
            format!("blobs/{}", parts.manifest),
            format!("blobs/{}", parts.layers[0]),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let reply = larder.send_as(method, &format!("/v2/b/app/{what}?ns={registry}"), B).await;
                assert_eq!(reply.status, StatusCode::NOT_FOUND, "{registry}: {what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_under_way_is_joined_only_by_callers_that_may_read_it() {
    let scene = scene("").await;
    let bytes = Bytes::from(noise(1_000_000, 3));
    let digest = scene.registry.put_blob("a/app", bytes.clone());
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    scene.registry.wrong(move |seen| {
        let authorized = seen.headers.get("authorization").is_some_and(|h| h.to_str().unwrap().contains(A.0));
        (authorized && seen.method == Method::GET && seen.path.contains("/blobs/"))
            .then(|| Fault::HoldAfter(500_000, Arc::clone(&held)))
    });
    let path = Scene::path("a/app", &format!("blobs/{digest}"));
    let a = client::basic(A.0, A.1);
    let authorization = [("authorization", a.as_str())];
    let leader = client::open(scene.larder.address, Method::GET, &path, &authorization).await;
    assert_eq!(leader.status(), StatusCode::OK);
    for headers in
        [vec![("authorization", client::basic(B.0, B.1))], vec![("authorization", ANONYMOUS.1.to_owned())]]
    {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let reply = client::send(scene.larder.address, Method::GET, &path, &headers).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(scene.larder.get_unasked(&path).await.status, StatusCode::UNAUTHORIZED);
    let joiner = client::open(scene.larder.address, Method::GET, &path, &authorization).await;
    assert_eq!(joiner.status(), StatusCode::OK);
    gate.add_permits(10);
    let downloads = scene.registry.seen();
    let of_a =
        |h: &http::HeaderMap| h.get("authorization").is_some_and(|h| h.to_str().unwrap().contains(A.0));
    let count = downloads
        .iter()
        .filter(|s| s.method == Method::GET && s.path.contains("/blobs/") && of_a(&s.headers));
    assert_eq!(count.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_an_open_policy_every_pod_reads_what_is_cached_and_upstream_is_asked_for_the_rest() {
    let directory_of = |scene: &Scene| scene.directory.path().to_owned();
    let closed = scene("").await;
    closed.pull_as_a().await;
    let directory = directory_of(&closed);
    let Scene { registry, larder, image, directory: keep, .. } = closed;
    larder.stop().await;
    let larder = Larder::start(&directory, &[("reg.test", registry.url())], "[access]\npolicy = \"open\"");
    let scene = Scene { registry, larder, directory: keep, image, more: String::new() };
    for what in scene.everything() {
        assert_eq!(scene.get("a/app", &what, B).await.status, StatusCode::OK, "{what}");
        let unasked = scene.larder.get_unasked(&Scene::path("a/app", &what)).await;
        assert_eq!(unasked.status, StatusCode::OK, "{what}");
    }
    let not_cached = scene.image.platforms[1].layers[1];
    let reply = scene.get("a/app", &format!("blobs/{not_cached}"), B).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_right_cannot_make_larder_forget_a_tag() {
    let scene = scene("").await;
    scene.registry.change(false, |accounts| accounts.denial = 404);
    scene.pull_as_a().await;
    assert_eq!(scene.get("a/app", "manifests/v1", B).await.status, StatusCode::NOT_FOUND);
    scene.registry.stop().await;
    assert_eq!(scene.get("a/app", "manifests/v1", A).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_gone_is_forgotten_however_long_ago_it_was_pulled() {
    let scene = scene("").await;
    scene.pull_as_a().await;
    scene.larder.clock.advance(Duration::from_secs(86_400));
    scene.registry.remove_manifest("a/app", "v1");
    assert_eq!(scene.get("a/app", "manifests/v1", A).await.status, StatusCode::NOT_FOUND);
    scene.registry.stop().await;
    let status = scene.get("a/app", "manifests/v1", A).await.status;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "an outage does not bring it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_right_is_gone_cannot_make_larder_forget_a_tag_of_others() {
    let scene = scene("").await;
    scene.registry.change(true, |accounts| {
        accounts.denial = 404;
        accounts.users.get_mut(B.0).unwrap().1.push("a/app".to_owned());
    });
    for tenant in [A, B] {
        assert_eq!(scene.get("a/app", "manifests/v1", tenant).await.status, StatusCode::OK);
    }
    scene.larder.clock.advance(Duration::from_secs(86_400));
    scene.registry.change(true, |accounts| {
        accounts.users.get_mut(B.0).unwrap().1.retain(|repository| repository != "a/app");
    });
    assert_eq!(scene.get("a/app", "manifests/v1", B).await.status, StatusCode::NOT_FOUND);
    scene.registry.stop().await;
    assert_eq!(scene.get("a/app", "manifests/v1", A).await.status, StatusCode::OK, "A still has its right");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_leaves_no_grant_for_a_caller() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&registry, "open/app", "v1", 10_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    for n in 0..20 {
        let user = format!("invented-{n}");
        let reply = larder.get_as("/v2/open/app/manifests/v1?ns=reg.test", (&user, "x")).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    let grants =
        std::fs::read_dir(directory.path().join("larder/store/refs/reg.test/open/app/_grants")).unwrap();
    assert_eq!(grants.count(), 1, "unknown users leave no grants");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_delivers_bytes_and_never_proves_a_right() {
    let scene = scene("").await;
    let mirror = FakeRegistry::start().await;
    let copy = image::push(&mirror, "a/app", "v1", 100_000);
    assert_eq!(copy.index, scene.image.index);
    let url = scene.registry.url();
    let more = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [\"{}\", {{ url = \"{url}\", credentials = \"caller\", authoritative = true }}]",
        mirror.url()
    );
    let Scene { larder, directory, image, registry, .. } = scene;
    larder.stop().await;
    let larder = Larder::start(directory.path(), &[], &more);
    let scene = Scene { registry, larder, directory, image, more };
    scene.is_refused_to_others("with a mirror that is public").await;
    assert!(mirror.seen().is_empty());
    scene.registry.forget_seen();
    scene.pull_as_a().await;
    assert!(mirror.count(Method::GET, "/blobs/") > 0, "the mirror delivers");
    assert_eq!(scene.registry.count(Method::GET, "/blobs/"), 0);
    assert!(mirror.seen().iter().all(|s| !s.headers.contains_key("authorization")), "and is shown nothing");
    scene.is_refused_to_others("delivered by a mirror").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_rate_limit_that_is_nearly_used_up_is_left_to_callers_without_an_account() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&registry, "open/app", "v1", 10_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let path = "/v2/open/app/manifests/v1?ns=reg.test";
    assert_eq!(larder.get_unasked(path).await.status, StatusCode::OK);
    let left =
        vec![("ratelimit-limit", "100;w=21600".to_owned()), ("ratelimit-remaining", "3;w=21600".to_owned())];
    registry.wrong_once("/manifests/", Fault::Status(404, left));
    larder.get(path).await;
    let reply = larder.get_unasked(path).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "authentication required");
    assert_eq!(larder.get(path).await.status, StatusCode::OK, "the anonymous caller is served all the same");
}
