//! What the conformance suite of the distribution specification asks of a registry that is only read, and the requests
//! that each version of containerd was seen to make in a pull.

use http::{Method, StatusCode};
use larder::reference::{Digest, MediaType};

use crate::support::client::{self, ANONYMOUS, Reply};
use crate::support::image::{self, Image, noise};
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    image: Image,
    _directory: tempfile::TempDir,
}

async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 300_000);
    Scene { registry, larder, image, _directory: directory }
}

impl Scene {
    async fn ask(&self, method: Method, what: &str) -> Reply {
        let path = format!("/v2/reg.test/team/app/{what}");
        client::send(self.larder.address, method, &path, &[ANONYMOUS]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_questions_of_the_conformance_suite_about_pulls_are_answered() {
    let scene = scene().await;
    let platform = &scene.image.platforms[0];
    assert_eq!(scene.larder.get("/v2/").await.status, StatusCode::OK);
    for (what, digest, media_type) in [
        ("manifests/v1".to_owned(), scene.image.index, MediaType::OCI_INDEX),
        (format!("manifests/{}", scene.image.index), scene.image.index, MediaType::OCI_INDEX),
        (format!("manifests/{}", platform.manifest), platform.manifest, MediaType::OCI_MANIFEST),
        (format!("blobs/{}", platform.config), platform.config, MediaType::OCTET_STREAM),
        (format!("blobs/{}", platform.layers[0]), platform.layers[0], MediaType::OCTET_STREAM),
    ] {
        // Cold and warm.
        for _ in 0..2 {
            let (head, get) = (scene.ask(Method::HEAD, &what).await, scene.ask(Method::GET, &what).await);
            assert_eq!((head.status, get.status), (StatusCode::OK, StatusCode::OK), "{what}");
            assert_eq!(get.digest(), digest, "{what}");
            for reply in [&head, &get] {
                assert_eq!(reply.header("docker-content-digest"), digest.to_string(), "{what}");
                assert_eq!(reply.header("content-length"), get.body.len().to_string(), "{what}");
                assert_eq!(reply.header("content-type"), media_type, "{what}");
            }
            assert!(head.body.is_empty());
        }
    }
    let missing = Digest::of(b"missing");
    for (what, code) in [
        ("manifests/missing".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("manifests/{missing}"), "MANIFEST_UNKNOWN"),
        (format!("blobs/{missing}"), "BLOB_UNKNOWN"),
    ] {
        assert_eq!(scene.ask(Method::HEAD, &what).await.status, StatusCode::NOT_FOUND, "{what}");
        let get = scene.ask(Method::GET, &what).await;
        assert_eq!((get.status, get.error_code().as_str()), (StatusCode::NOT_FOUND, code), "{what}");
    }
    for what in ["manifests/sha256:totallywrong", "blobs/sha256:totallywrong"] {
        let status = scene.ask(Method::GET, what).await.status;
        assert!([StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND].contains(&status), "{what}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_questions_about_discovery_and_writes_are_answered() {
    let scene = scene().await;
    let tags = scene.ask(Method::GET, "tags/list").await;
    assert_eq!(tags.json(), serde_json::json!({"name": "team/app", "tags": ["v1"]}));
    for tag in ["v2", "v3", "v4"] {
        image::push(&scene.registry, "team/app", tag, 100);
    }
    for (query, expected, has_more) in [
        ("?n=2", &["v1", "v2"][..], true),
        ("?n=2&last=v2", &["v3", "v4"], false),
        ("?last=v3", &["v4"], false),
        ("?n=9", &["v1", "v2", "v3", "v4"], false),
        ("?n=0", &[], false),
    ] {
        let page = scene.ask(Method::GET, &format!("tags/list{query}")).await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (StatusCode::OK, "application/json"),
            "{query}"
        );
        assert_eq!(page.json()["tags"], serde_json::json!(expected), "{query}");
        assert_eq!(page.headers.contains_key("link"), has_more, "{query}");
    }
    assert_eq!(scene.ask(Method::HEAD, "tags/list").await.status, StatusCode::OK);
    let nothing = scene.larder.get("/v2/reg.test/team/nothing/manifests/v1").await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    let referrers = format!("referrers/{}", scene.image.index);
    assert_eq!(scene.ask(Method::GET, &referrers).await.status, StatusCode::NOT_FOUND);
    scene.registry.support_referrers();
    let found = scene.ask(Method::GET, &referrers).await;
    assert_eq!((found.status, found.header("content-type")), (StatusCode::OK, MediaType::OCI_INDEX));
    assert_eq!(found.json()["manifests"], serde_json::json!([]));
    for query in ["", "?artifactType=application%2Fx"] {
        let of_nothing = format!("referrers/{}{query}", Digest::of(b"missing"));
        let found = scene.ask(Method::GET, &of_nothing).await;
        assert_eq!((found.status, found.header("content-type")), (StatusCode::OK, MediaType::OCI_INDEX));
        assert_eq!(found.json()["schemaVersion"], 2);
    }
    let bad = scene.ask(Method::GET, "referrers/sha256:totallywrong").await;
    assert_eq!((bad.status, bad.error_code().as_str()), (StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
    let range = format!("/v2/reg.test/team/app/blobs/{}", scene.image.platforms[0].layers[0]);
    let part =
        client::send(scene.larder.address, Method::GET, &range, &[ANONYMOUS, ("range", "bytes=10-19")]).await;
    assert_eq!((part.status, part.body.len()), (StatusCode::PARTIAL_CONTENT, 10));
    for (method, what) in [
        (Method::POST, "blobs/uploads/".to_owned()),
        (Method::PUT, "manifests/v2".to_owned()),
        (Method::DELETE, "manifests/v1".to_owned()),
        (Method::DELETE, format!("blobs/{}", scene.image.platforms[0].config)),
        (Method::PATCH, "blobs/uploads/x".to_owned()),
    ] {
        let reply = scene.ask(method, &what).await;
        let answer = (reply.status, reply.error_code());
        assert_eq!(answer, (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED".to_owned()), "{what}");
    }
    assert!(scene.registry.seen().iter().all(|seen| [Method::GET, Method::HEAD].contains(&seen.method)));
}

/// A version of containerd by what it sends.
struct Version {
    agent: &'static str,
    encoding: &'static str,
    /// Whether every `GET` has `Range: bytes=0-` (`concurrent_layer_fetch_buffer`).
    parallel: bool,
    /// Whether it asks for its token by a form first.
    posts: bool,
}

const RESOLVE_ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
const VERSIONS: [Version; 5] = [
    Version { agent: "containerd/1.6.20~ds1", encoding: "gzip", parallel: false, posts: true },
    Version { agent: "containerd/v1.7.34", encoding: "gzip", parallel: false, posts: true },
    Version {
        agent: "containerd/v2.1.9",
        encoding: "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5",
        parallel: false,
        posts: true,
    },
    Version {
        agent: "containerd/v2.1.9",
        encoding: "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5",
        parallel: true,
        posts: true,
    },
    Version {
        agent: "containerd/v2.3.4",
        encoding: "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5",
        parallel: true,
        posts: false,
    },
];

impl Version {
    async fn send(
        &self,
        scene: &Scene,
        method: Method,
        what: &str,
        accept: &str,
        token: Option<&str>,
    ) -> Reply {
        let path = format!("/v2/team/app/{what}?ns=reg.test");
        let token = token.map(|token| format!("Bearer {token}"));
        let mut headers =
            vec![("user-agent", self.agent), ("accept", accept), ("accept-encoding", self.encoding)];
        headers.extend(token.as_deref().map(|token| ("authorization", token)));
        if self.parallel && method == Method::GET {
            headers.push(("range", "bytes=0-"));
        }
        client::send(scene.larder.address, method, &path, &headers).await
    }

    async fn token(&self, scene: &Scene) -> String {
        let reply = if self.posts {
            let form = "client_id=containerd-client&grant_type=password&password=right&scope=repository%3Ateam%2Fapp%3Apull&service=larder&username=ada";
            client::post_form(scene.larder.address, "/token?ns=reg.test", form).await
        } else {
            let basic = client::basic("ada", "right");
            let path = "/token?ns=reg.test&scope=repository%3Ateam%2Fapp%3Apull&service=larder";
            client::send(scene.larder.address, Method::GET, path, &[("authorization", basic.as_str())]).await
        };
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// A pull as it was seen: a challenge for the resolve and one for the fetch, each with a token of its own.
    async fn pull(&self, scene: &Scene) {
        let challenged = self.send(scene, Method::HEAD, "manifests/v1", RESOLVE_ACCEPT, None).await;
        assert_eq!(challenged.status, StatusCode::UNAUTHORIZED);
        let token = self.token(scene).await;
        let resolved = self.send(scene, Method::HEAD, "manifests/v1", RESOLVE_ACCEPT, Some(&token)).await;
        assert_eq!(resolved.status, StatusCode::OK);
        let size = resolved.header("content-length").to_owned();
        let index = resolved.header("docker-content-digest").to_owned();
        assert_eq!(index, scene.image.index.to_string());
        assert_eq!(resolved.header("content-type"), MediaType::OCI_INDEX);
        let accept = format!("{}, */*", MediaType::OCI_INDEX);
        let what = format!("manifests/{index}");
        assert_eq!(
            self.send(scene, Method::GET, &what, &accept, None).await.status,
            StatusCode::UNAUTHORIZED
        );
        let token = self.token(scene).await;
        let get = |what: String, accept: String| {
            let token = token.clone();
            async move {
                let reply = self.send(scene, Method::GET, &what, &accept, Some(&token)).await;
                assert!(reply.status.is_success() && reply.complete, "{what}: {}", reply.status);
                assert!(!reply.headers.contains_key("content-encoding"));
                assert_eq!(reply.header("content-length"), reply.body.len().to_string());
                let digest = what.rsplit('/').next().unwrap().to_owned();
                assert_eq!(reply.digest().to_string(), digest);
                reply
            }
        };
        assert_eq!(get(what, accept).await.body.len().to_string(), size);
        let platform = &scene.image.platforms[0];
        get(format!("manifests/{}", platform.manifest), format!("{}, */*", MediaType::OCI_MANIFEST)).await;
        let config = "application/vnd.oci.image.config.v1+json, */*".to_owned();
        get(format!("blobs/{}", platform.config), config).await;
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip, */*".to_owned();
        let layers = platform.layers.iter().map(|digest| get(format!("blobs/{digest}"), layer.clone()));
        for reply in futures_util::future::join_all(layers).await {
            let expected = if self.parallel { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
            assert_eq!(reply.status, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_containerd_pulls_by_the_requests_that_it_was_seen_to_make() {
    for version in VERSIONS {
        let scene = scene().await;
        let accounts = Accounts::new(&[("ada", "right", &["team/app"])]);
        scene.registry.know(accounts);
        for _ in ["cold", "warm"] {
            version.pull(&scene).await;
            scene.larder.settled().await;
        }
        let blobs = scene.registry.count(Method::GET, "/blobs/");
        assert_eq!(blobs, 3, "{}: the config and two layers, once", version.agent);
    }
}

/// containerd 2.1 and later with the parallel fetch asks for the next part of a layer while upstream is away for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_layer_that_is_begun_waits_for_an_upstream_that_is_away_for_a_moment() {
    let scene = scene().await;
    let layer = scene.registry.put_blob("team/app", noise(40 * 1024 * 1024, 5));
    let path = format!("/v2/team/app/blobs/{layer}?ns=reg.test");
    let first = scene.larder.get_range(&path, "bytes=0-4095").await;
    assert_eq!(first.status, StatusCode::PARTIAL_CONTENT);
    scene.registry.stop().await;
    let (address, path) = (scene.larder.address, path.clone());
    let second = tokio::spawn(async move {
        client::send(address, Method::GET, &path, &[("range", "bytes=8000000-8004095"), ANONYMOUS]).await
    });
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert!(!second.is_finished(), "the pull would have ended");
    scene.registry.restart().await;
    let second = second.await.unwrap();
    assert_eq!((second.status, second.body.len()), (StatusCode::PARTIAL_CONTENT, 4_096));
}
