//! Manifests that Larder does not understand, or only in part: they go out as their registry has them.

use http::StatusCode;
use larder::reference::{Digest, MediaType};

use crate::support::image;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

const ACME: &str = "application/vnd.acme.manifest.v1+json";

async fn scene() -> (FakeRegistry, Larder, tempfile::TempDir) {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    (registry, larder, directory)
}

fn descriptor(more: &str) -> String {
    let digest = Digest::of(b"layer");
    format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":5{more}}}"#)
}

/// Manifests with their `Content-Type`, each odd in one way.
fn odd() -> Vec<(&'static str, &'static str, String)> {
    let d = descriptor("");
    let blake = d.replace("sha256:", "blake3:");
    let untyped = d.replace(r#""mediaType":"application/vnd.oci.image.layer.v1.tar","#, "");
    let head = format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{d}"#, MediaType::OCI_MANIFEST);
    let layers = vec![d.clone(); 10_000].join(",");
    let padding = "x".repeat(15 * 1024 * 1024);
    let arm = descriptor(r#","platform":{"architecture":"arm64"}"#);
    let (oci, docker) = (MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST);
    vec![
        ("without layers", oci, format!("{head}}}")),
        ("layers that are null", oci, format!(r#"{head},"layers":null}}"#)),
        ("an OCI type sent as Docker's", docker, format!(r#"{head},"layers":[{d}]}}"#)),
        ("a descriptor without a type", oci, format!(r#"{head},"layers":[{untyped}]}}"#)),
        ("an unknown algorithm", oci, format!(r#"{head},"layers":[{blake}]}}"#)),
        ("10,000 layers", oci, format!(r#"{head},"layers":[{layers}]}}"#)),
        ("15 MiB", oci, format!(r#"{head},"layers":[],"annotations":{{"a":"{padding}"}}}}"#)),
        ("manifests that are null", MediaType::OCI_INDEX, r#"{"schemaVersion":2,"manifests":null}"#.into()),
        ("no os", MediaType::OCI_INDEX, format!(r#"{{"schemaVersion":2,"manifests":[{arm}]}}"#)),
        ("schema 1", MediaType::DOCKER_SCHEMA_1, r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.into()),
        ("a type of its own", ACME, r#"{"acme":true}"#.into()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_pulled_by_tag_and_digest_and_again_without_its_registry() {
    let (registry, larder, _directory) = scene().await;
    let odd = odd();
    let put: Vec<Digest> = odd
        .iter()
        .enumerate()
        .map(|(n, (_, media_type, json))| {
            registry.put_manifest("team/app", Some(&format!("v{n}")), media_type, json.clone())
        })
        .collect();
    for round in ["fetched", "stored"] {
        for (n, ((what, media_type, json), digest)) in odd.iter().zip(&put).enumerate() {
            for reference in [format!("v{n}"), digest.to_string()] {
                let reply = larder.get(&format!("/v2/team/app/manifests/{reference}?ns=reg.test")).await;
                assert_eq!(reply.status, StatusCode::OK, "{round}, {what}: {:?}", reply.body);
                assert_eq!(reply.body, json.as_bytes(), "{round}, {what}");
                assert_eq!(reply.header("content-type"), *media_type, "{round}, {what}");
                assert_eq!(reply.header("docker-content-digest"), digest.to_string(), "{round}, {what}");
            }
        }
        larder.settled().await;
        registry.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_json_go_out_by_their_digest_and_are_no_answer_to_a_tag() {
    let (registry, larder, _directory) = scene().await;
    let page = "<html>Please log in</html>";
    let digest = registry.put_manifest("team/app", Some("v1"), "text/html", page);
    registry.wrong_at(
        "/manifests/v1",
        Fault::Answer(200, vec![("content-type", "text/html".into())], page.into()),
    );
    let get =
        async |reference: &str| larder.get(&format!("/v2/reg.test/team/app/manifests/{reference}")).await;
    assert_eq!(get("v1").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(get(&digest.to_string()).await.body, page);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_an_image_too_is_refused_by_tag_and_digest() {
    let (registry, larder, _directory) = scene().await;
    let d = descriptor("");
    let both = format!(r#"{{"schemaVersion":2,"manifests":[{d}],"layers":[{d}],"config":{d}}}"#);
    let digest = registry.put_manifest("team/app", Some("v1"), MediaType::OCI_INDEX, both);
    for reference in ["v1", &digest.to_string()] {
        let reply = larder.get(&format!("/v2/reg.test/team/app/manifests/{reference}")).await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{reference}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_schema_1_document_goes_out_under_the_digest_that_its_registry_names() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let (registry, larder, _directory) = scene().await;
    let payload = r#"{"schemaVersion":1,"fsLayers":[]}"#;
    let protected = format!(r#"{{"formatLength":{},"formatTail":"fQ"}}"#, payload.len() - 1);
    let protected = URL_SAFE_NO_PAD.encode(protected);
    let start = &payload[..payload.len() - 1];
    let signed = format!(r#"{start},"signatures":[{{"protected":"{protected}"}}]}}"#);
    let digest = Digest::of(payload.as_bytes());
    let headers = vec![
        ("content-type", MediaType::DOCKER_SCHEMA_1_SIGNED.to_owned()),
        ("docker-content-digest", digest.to_string()),
    ];
    registry.wrong_at("/manifests/", Fault::Answer(200, headers, signed.clone().into()));
    for reference in ["v1", &digest.to_string(), "v1"] {
        let reply = larder.get(&format!("/v2/reg.test/team/app/manifests/{reference}")).await;
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, signed.as_bytes()), "{reference}");
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        assert_eq!(reply.header("content-type"), MediaType::DOCKER_SCHEMA_1_SIGNED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_type_that_says_nothing_never_sticks() {
    let (registry, larder, _directory) = scene().await;
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let unknown = r#"{"acme":true}"#;
    let other = Digest::of(unknown.as_bytes());
    let paths = [image.index, other].map(|digest| format!("/v2/team/app/manifests/{digest}?ns=reg.test"));
    for useless in ["application/octet-stream", "binary/octet-stream", "text/plain", ""] {
        let sent: Vec<_> =
            Some(("content-type", useless.to_owned())).into_iter().filter(|(_, t)| !t.is_empty()).collect();
        for (path, body) in [(&paths[0], image.index_bytes.clone()), (&paths[1], unknown.into())] {
            registry.behave();
            registry.wrong_at("/manifests/", Fault::Answer(200, sent.clone(), body.clone()));
            assert_eq!(larder.get(path).await.body, body, "{useless}");
        }
        assert_eq!(larder.get(&paths[0]).await.header("content-type"), MediaType::OCI_INDEX, "{useless}");
    }
    registry.behave();
    registry.put_manifest("team/app", None, ACME, unknown);
    assert_eq!(larder.get(&paths[1]).await.header("content-type"), ACME, "the registry was mended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_asked_for_as_a_blob_has_its_own_type() {
    let (registry, larder, _directory) = scene().await;
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", image.index);
    assert_eq!(larder.get(&path).await.status, StatusCode::NOT_FOUND, "as its registry answers");
    registry.put_blob("team/app", image.index_bytes.clone());
    larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    // It is written behind the answer.
    larder.metric_becomes("larder_store_blobs", 1.0).await;
    for reply in
        [larder.get(&path).await, larder.head(&path).await, larder.get_range(&path, "bytes=0-9").await]
    {
        assert!(reply.status.is_success(), "{:?}", reply.body);
        assert_eq!(reply.header("content-type"), MediaType::OCI_INDEX);
    }
    assert_eq!(larder.head(&path).await.header("content-length"), image.index_bytes.len().to_string());
    let manifest = larder.get(&format!("/v2/team/app/manifests/{}?ns=reg.test", image.index)).await;
    assert_eq!(manifest.header("content-type"), MediaType::OCI_INDEX);
}
