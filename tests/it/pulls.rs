//! Whole pulls: cold, warm, after a restart, with upstream away.

use http::{Method, StatusCode};
use larder::reference::MediaType;
use serde_json::json;

use crate::support::client;
use crate::support::image::{self, Image};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::{Larder, files_under};

/// Sends containerd's requests in containerd's order, with `ns`; returns every body.
async fn pull(larder: &Larder, image: &Image, repository: &str, tag: &str) -> Vec<bytes::Bytes> {
    let base = format!("/v2/{repository}");
    let resolved = larder.head(&format!("{base}/manifests/{tag}?ns=reg.test")).await;
    assert_eq!(resolved.status, StatusCode::OK);
    assert_eq!(resolved.header("docker-content-digest"), image.index.to_string());
    assert_eq!(resolved.header("content-type"), MediaType::OCI_INDEX);
    assert_eq!(resolved.header("content-length"), image.index_bytes.len().to_string());
    let mut bodies = Vec::new();
    let mut wanted = vec![format!("{base}/manifests/{}", image.index)];
    for platform in &image.platforms {
        wanted.push(format!("{base}/manifests/{}", platform.manifest));
        wanted.extend([platform.config].iter().chain(&platform.layers).map(|d| format!("{base}/blobs/{d}")));
    }
    for path in wanted {
        let reply = larder.get(&format!("{path}?ns=reg.test")).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        assert!(reply.complete, "{path}");
        assert!(path.ends_with(&reply.digest().to_string()), "{path} has {}", reply.digest());
        assert_eq!(reply.header("docker-content-digest"), reply.digest().to_string());
        assert_eq!(reply.header("oci-namespace"), "reg.test");
        assert_eq!(reply.header("content-length"), reply.body.len().to_string());
        bodies.push(reply.body);
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_pull_a_warm_pull_and_one_after_a_restart_without_upstream_are_the_same_bytes() {
    let registry = FakeRegistry::start().await;
    let image = image::push(&registry, "team/app", "v1", 300_000);
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");

    let cold = pull(&larder, &image, "team/app", "v1").await;
    registry.forget_seen();
    let warm = pull(&larder, &image, "team/app", "v1").await;
    assert_eq!(cold, warm);
    let asked: Vec<_> = registry.seen().iter().map(|s| format!("{} {}", s.method, s.path)).collect();
    assert_eq!(asked, ["HEAD /v2/team/app/manifests/v1"], "warm, only the tag is asked about");

    larder.stop().await;
    registry.stop().await;
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let away = pull(&larder, &image, "team/app", "v1").await;
    assert_eq!(cold, away);
    let stale = larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert!(stale.header("warning").starts_with("299 - \"stale: last confirmed at "), "{:?}", stale.headers);
    assert!(
        larder.metric(r#"larder_requests_total{outcome="stale",registry="reg.test",route="manifest"}"#).await
            >= 2.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_reaches_its_registry_by_path_and_by_default_too() {
    let registry = FakeRegistry::start().await;
    let image = image::push(&registry, "library/busybox", "latest", 1_000);
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("docker.io", registry.url())], "");
    for path in [
        "/v2/library/busybox/manifests/latest?ns=docker.io",
        "/v2/docker.io/library/busybox/manifests/latest",
        "/v2/docker.io/busybox/manifests/latest",
        "/v2/library/busybox/manifests/latest",
        "/v2/busybox/manifests/latest",
    ] {
        let reply = larder.get(path).await;
        assert_eq!((reply.status, reply.body), (StatusCode::OK, image.index_bytes.clone()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_get_have_the_same_headers_hit_miss_and_error() {
    let registry = FakeRegistry::start().await;
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let layer = image.platforms[0].layers[0];
    for path in [
        "/v2/team/app/manifests/v1?ns=reg.test".to_owned(),
        format!("/v2/team/app/manifests/{}?ns=reg.test", image.index),
        format!("/v2/team/app/blobs/{layer}?ns=reg.test"),
        "/v2/team/app/manifests/nope?ns=reg.test".to_owned(),
        "/v2/team/app/manifests/nope".to_owned(),
        "/v2/".to_owned(),
    ] {
        for _ in 0..2 {
            let (head, get) = (larder.head(&path).await, larder.get(&path).await);
            let strip = |mut headers: http::HeaderMap| {
                headers.remove("date");
                headers
            };
            assert_eq!((head.status, strip(head.headers)), (get.status, strip(get.headers)), "{path}");
            assert!(head.body.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_is_followed_and_one_that_is_gone_is_not_served_from_memory() {
    let registry = FakeRegistry::start().await;
    let first = image::push(&registry, "team/app", "v1", 1_000);
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    assert_eq!(larder.head(path).await.header("docker-content-digest"), first.index.to_string());
    let second = image::push(&registry, "team/app", "v1", 2_000);
    assert_eq!(larder.head(path).await.header("docker-content-digest"), second.index.to_string());
    let old = larder.get(&format!("/v2/team/app/manifests/{}?ns=reg.test", first.index)).await;
    assert_eq!(old.body, first.index_bytes, "by digest the old one is still there");

    registry.remove_manifest("team/app", "v1");
    assert_eq!(larder.head(path).await.status, StatusCode::NOT_FOUND);
    registry.stop().await;
    assert_eq!(
        larder.get(path).await.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "a no is not forgotten in an outage"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_head_or_without_digest_headers_is_pulled_from_all_the_same() {
    let registry = FakeRegistry::start().await;
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    registry.wrong(|seen| (seen.method == Method::HEAD).then(|| Fault::Status(405, vec![])));
    let reply = larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.header("docker-content-digest"), image.index.to_string());

    registry.behave();
    let bytes = image.index_bytes.clone();
    registry.wrong_at(
        "/manifests/v1",
        Fault::Answer(200, vec![("content-type", MediaType::OCI_INDEX.into())], bytes),
    );
    let reply = larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.header("docker-content-digest"), image.index.to_string());

    let layer = image.platforms[0].layers[0];
    registry.wrong(|seen| (seen.method == Method::HEAD).then(|| Fault::Status(401, vec![])));
    let head = larder.head(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await;
    let get = larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await;
    assert_eq!(head.header("content-length"), get.body.len().to_string(), "the size by a range of one byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_endpoint_is_asked_when_the_first_is_down() {
    let (dead, alive) = (FakeRegistry::start().await, FakeRegistry::start().await);
    dead.stop().await;
    let image = image::push(&alive, "team/app", "v1", 1_000);
    let directory = tempfile::tempdir().unwrap();
    let mark = |url: String| format!("{{ url = \"{url}\", credentials = \"caller\", authoritative = true }}");
    let (dead, alive) = (mark(dead.url()), mark(alive.url()));
    let more = format!("[[registry]]\nhost = \"reg.test\"\nendpoints = [{dead}, {alive}]");
    let larder = Larder::start(directory.path(), &[], &more);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.body, image.index_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_in_the_form_of_the_specification() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for path in ["/v2/team/app/blobs/uploads/?ns=reg.test", "/v2/team/app/manifests/v1"] {
            let reply = client::send(larder.address, method.clone(), path, &[]).await;
            assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(reply.error_code(), "UNSUPPORTED");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_with_the_reason_and_never_sent_upstream() {
    let registry = FakeRegistry::start().await;
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("docker.io", registry.url())], "");
    for (path, status, code) in [
        ("/v2/UPPER/manifests/v1", 400, "NAME_INVALID"),
        ("/v2/a/../b/manifests/v1", 400, "NAME_INVALID"),
        ("/v2/a%2fb/manifests/v1", 404, "UNSUPPORTED"),
        ("/v2/a/manifests/sha256:beef", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha512:beef", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/blake3:beef", 404, "BLOB_UNKNOWN"),
        ("/v2/a/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/.hidden", 400, "MANIFEST_INVALID"),
        ("/v2/a/manifests/v1?ns=a&ns=b", 400, "UNSUPPORTED"),
        ("/v2/a/manifests/v1?ns=evil@docker.io", 400, "NAME_INVALID"),
        ("/v2/_catalog", 404, "UNSUPPORTED"),
        ("/", 404, "UNSUPPORTED"),
    ] {
        let reply = larder.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.error_code().as_str()), (status, code), "{path}");
        assert!(reply.json()["errors"][0]["message"].as_str().is_some_and(|m| m.len() > 10), "{path}");
    }
    assert!(registry.seen().is_empty(), "nothing of it went upstream");
    for part in ["refs", "blobs", "quarantine"] {
        assert!(files_under(&directory.path().join("larder/store").join(part)).is_empty(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_an_image_layout_that_other_tools_can_read() {
    let registry = FakeRegistry::start().await;
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    pull(&larder, &image, "team/app", "v1").await;
    larder.stop().await;
    let store = directory.path().join("larder/store");
    let index = std::fs::read_to_string(store.join("index.json")).unwrap();
    assert!(index.contains("reg.test/team/app:v1") && index.contains(&image.index.to_string()), "{index}");
    assert_eq!(std::fs::read_dir(store.join("ingest")).unwrap().count(), 0);
    for entry in std::fs::read_dir(store.join("blobs/sha256")).unwrap().flatten() {
        let content = std::fs::read(entry.path()).unwrap();
        assert_eq!(larder::reference::Digest::of(&content).hex(), entry.file_name().to_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_layer_that_is_read_as_a_whole_is_prefetched_once_and_for_less_nothing_is() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 100_000);
    let (amd64, arm64) = (&image.platforms[0], &image.platforms[1]);
    let at = |what: String| format!("/v2/team/app/{what}?ns=reg.test");
    larder.get(&at("manifests/v1".into())).await;
    larder.get(&at(format!("manifests/{}", image.index))).await;
    larder.head(&at(format!("manifests/{}", amd64.manifest))).await;
    larder.head(&at(format!("manifests/{}", arm64.manifest))).await;
    larder.settled().await;
    assert_eq!(registry.count(Method::GET, "/blobs/"), 0, "not after a tag, an index or a HEAD");

    let other = image::push(&registry, "team/two", "v1", 120_000);
    let manifest = other.platforms[0].manifest;
    larder.get(&format!("/v2/team/two/manifests/{manifest}?ns=reg.test")).await;
    let layer = format!("/v2/team/two/blobs/{}?ns=reg.test", other.platforms[0].layers[1]);
    larder.get(&format!("/v2/team/two/blobs/{}?ns=reg.test", other.platforms[0].config)).await;
    larder.settled().await;
    assert_eq!(registry.count(Method::GET, "/blobs/"), 1, "a scanner reads manifest and config");
    larder.get(&layer).await;
    larder.metric_becomes(r#"larder_fills_total{result="complete"}"#, 3.0).await;
    registry.forget_seen();
    for layer in &other.platforms[0].layers {
        assert_eq!(
            larder.get(&format!("/v2/team/two/blobs/{layer}?ns=reg.test")).await.status,
            StatusCode::OK
        );
    }
    assert!(registry.seen().is_empty(), "they are here already");
    larder.get(&format!("/v2/team/two/manifests/{manifest}?ns=reg.test")).await;
    larder.settled().await;
    assert!(registry.seen().is_empty(), "and not fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_read_lazily_is_not_downloaded_as_a_whole_because_its_small_layer_is_read() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    // An image of nydus: containerd downloads its bootstrap and is told not to download its data.
    let described = |kind: &str, content: &'static str| {
        let digest = registry.put_blob("team/app", content);
        json!({"mediaType": kind, "digest": digest.to_string(), "size": content.len()})
    };
    let config = described("application/vnd.oci.image.config.v1+json", "{}");
    let data = described("application/vnd.oci.image.layer.nydus.blob.v1", "the whole file system");
    let bootstrap = described("application/vnd.oci.image.layer.v1.tar+gzip", "where everything is");
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": config,
                          "layers": [data, bootstrap]});
    let manifest = registry.put_manifest("team/app", None, MediaType::OCI_MANIFEST, manifest.to_string());
    for what in [format!("manifests/{manifest}"), format!("blobs/{}", bootstrap["digest"].as_str().unwrap())]
    {
        let reply = larder.get(&format!("/v2/team/app/{what}?ns=reg.test")).await;
        assert_eq!(reply.status, StatusCode::OK, "{what}");
    }
    let digest = |of: &serde_json::Value| of["digest"].as_str().unwrap().to_owned();
    let asked = |of: &serde_json::Value| registry.count(Method::GET, &digest(of));
    while asked(&config) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    larder.settled().await;
    assert_eq!((asked(&bootstrap), asked(&data)), (1, 0), "its data is for who reads it");
}
