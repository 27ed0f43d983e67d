//! Manifests that Larder does not understand, or only in part: they go out as their registry has them.

use http::StatusCode;
use larder::reference::{Algorithm, Digest, MediaType};

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

/// A manifest that is odd in one way: what it is, its `Content-Type`, its bytes.
type Odd = (&'static str, &'static str, Vec<u8>);

/// Image manifests whose lists of layers, descriptors or fields are odd.
fn odd_images() -> Vec<Odd> {
    let d = descriptor("");
    let blake = d.replace("sha256:", "blake3:");
    let untyped = d.replace(r#""mediaType":"application/vnd.oci.image.layer.v1.tar","#, "");
    let (oci, docker) = (MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST);
    let head = format!(r#"{{"schemaVersion":2,"mediaType":"{oci}","config":{d}"#);
    let of = |layers: &str| format!(r#"{head},"layers":{layers}}}"#).into_bytes();
    let layers = vec![d.clone(); 10_000].join(",");
    let sized = |size: &str| format!("[{}]", d.replace(r#""size":5"#, &format!(r#""size":{size}"#)));
    vec![
        ("without layers", oci, format!("{head}}}").into()),
        ("layers that are null", oci, of("null")),
        ("layers that are no list", oci, of("{}")),
        ("a layer that is null", oci, of("[null]")),
        ("a layer without a digest", oci, of(r#"[{"mediaType":"a/b","size":5}]"#)),
        ("a digest that is none", oci, of(&format!("[{}]", d.replace("sha256:", "sha256")))),
        ("an unknown algorithm", oci, of(&format!("[{blake}]"))),
        ("a descriptor without a type", oci, of(&format!("[{untyped}]"))),
        ("a size in words", oci, of(&sized(r#""5""#))),
        ("a size below nothing", oci, of(&sized("-5"))),
        ("a size beyond any", oci, of(&sized("99999999999999999999999"))),
        ("an OCI type sent as Docker's", docker, of(&format!("[{d}]"))),
        ("10,000 layers", oci, of(&format!("[{layers}]"))),
        ("no config", oci, br#"{"schemaVersion":2,"layers":[]}"#.to_vec()),
        ("a config that is null", oci, br#"{"schemaVersion":2,"config":null,"layers":[]}"#.to_vec()),
        ("a subject without a type", oci, format!(r#"{head},"layers":[],"subject":{untyped}}}"#).into()),
        ("a subject that is null", oci, format!(r#"{head},"layers":[],"subject":null}}"#).into()),
        ("an unknown artifact", oci, format!(r#"{head},"layers":[],"artifactType":"x/y","x":[1]}}"#).into()),
        ("a version in words", oci, br#"{"schemaVersion":"2","layers":[]}"#.to_vec()),
        ("no version", oci, br#"{"layers":[]}"#.to_vec()),
    ]
}

/// Indexes, documents of other kinds, and what is no document at all.
fn odd_others() -> Vec<Odd> {
    let d = descriptor("");
    let (oci, index, list) = (MediaType::OCI_MANIFEST, MediaType::OCI_INDEX, MediaType::DOCKER_LIST);
    let of = |manifests: &str| format!(r#"{{"schemaVersion":2,"manifests":{manifests}}}"#).into_bytes();
    let platform = |platform: &str| of(&format!("[{}]", descriptor(&format!(r#","platform":{platform}"#))));
    let nested = d.replace("application/vnd.oci.image.layer.v1.tar", index);
    let deep = format!(r#"{{"schemaVersion":2,"layers":[],"a":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    let mut not_utf8 = br#"{"schemaVersion":2,"layers":[],"annotations":{"a":""#.to_vec();
    not_utf8.extend(b"\xff\xfe\"}}");
    vec![
        ("manifests that are null", index, of("null")),
        ("manifests that are no list", index, of("\"x\"")),
        ("a manifest that is null", index, of("[null]")),
        ("no manifests", index, br#"{"schemaVersion":2}"#.to_vec()),
        ("no os", index, platform(r#"{"architecture":"arm64"}"#)),
        ("no architecture", index, platform(r#"{"os":"linux"}"#)),
        ("an empty platform", index, platform("{}")),
        ("a platform that is null", index, platform("null")),
        ("a platform in words", index, platform(r#""linux/amd64""#)),
        ("an index of an index", index, of(&format!("[{nested}]"))),
        (
            "an OCI index sent as a Docker list",
            list,
            format!(r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{d}]}}"#).into(),
        ),
        (
            "an index that lists an unknown algorithm",
            index,
            of(&format!("[{}]", d.replace("sha256:", "blake3:"))),
        ),
        (
            "schema 1",
            MediaType::DOCKER_SCHEMA_1,
            br#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.to_vec(),
        ),
        ("schema 1 without layers", MediaType::DOCKER_SCHEMA_1, br#"{"schemaVersion":1}"#.to_vec()),
        ("a type of its own", ACME, br#"{"acme":true}"#.to_vec()),
        ("a list", ACME, b"[1,2]".to_vec()),
        ("a number", ACME, b"7".to_vec()),
        ("null", ACME, b"null".to_vec()),
        ("nothing in it", oci, b"{}".to_vec()),
        ("a byte order mark", oci, b"\xef\xbb\xbf{\"schemaVersion\":2,\"layers\":[]}".to_vec()),
        ("spaces around it", oci, b" \n{\"schemaVersion\":2,\"layers\":[]}\n\n".to_vec()),
        ("something behind it", oci, b"{\"schemaVersion\":2,\"layers\":[]}{}".to_vec()),
        ("deep lists", oci, deep.into()),
        ("no UTF-8", oci, not_utf8),
        ("bytes", ACME, (0..=255).collect()),
    ]
}

/// Every way to ask for each of them: as a mirror and by path, by tag and by digest; fetched, stored, without its registry,
/// after a restart.
async fn are_handed_out(algorithm: Algorithm, odd: &[Odd]) {
    let (registry, mut larder, directory) = scene().await;
    registry.name_by(algorithm);
    let put: Vec<Digest> = odd
        .iter()
        .enumerate()
        .map(|(n, (_, media_type, bytes))| {
            registry.put_manifest("team/app", Some(&format!("v{n}")), media_type, bytes.clone())
        })
        .collect();
    let mut wrong = Vec::new();
    for round in ["fetched", "stored", "without its registry", "after a restart"] {
        for (n, ((what, media_type, bytes), digest)) in odd.iter().zip(&put).enumerate() {
            for reference in [format!("v{n}"), digest.to_string()] {
                for path in [
                    format!("/v2/team/app/manifests/{reference}?ns=reg.test"),
                    format!("/v2/reg.test/team/app/manifests/{reference}"),
                ] {
                    let (get, head) = (larder.get(&path).await, larder.head(&path).await);
                    let length = bytes.len().to_string();
                    let is_right = get.status == StatusCode::OK
                        && get.body == bytes[..]
                        && head.status == StatusCode::OK
                        && [&get, &head].iter().all(|reply| {
                            reply.header("content-type") == *media_type
                                && reply.header("docker-content-digest") == digest.to_string()
                                && reply.header("content-length") == length
                        });
                    if !is_right {
                        let shown =
                            String::from_utf8_lossy(&get.body[..get.body.len().min(200)]).into_owned();
                        wrong.push(format!(
                            "{round}, {what}, {path}: {} {} {shown}",
                            get.status,
                            get.header("content-type")
                        ));
                    }
                }
            }
        }
        larder.settled().await;
        match round {
            "stored" => registry.stop().await,
            "without its registry" => {
                larder.stop().await;
                larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{algorithm:?}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_images_are_pulled_in_every_way_and_again_without_their_registry() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        are_handed_out(algorithm, &odd_images()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_indexes_and_other_documents_are_pulled_in_every_way_and_again_without_their_registry() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        are_handed_out(algorithm, &odd_others()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_15_mib_is_pulled_and_again_without_its_registry() {
    let padding = "x".repeat(15 * 1024 * 1024);
    let json = format!(r#"{{"schemaVersion":2,"layers":[],"annotations":{{"a":"{padding}"}}}}"#);
    are_handed_out(Algorithm::Sha256, &[("15 MiB", MediaType::OCI_MANIFEST, json.into())]).await;
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
    for is_written in [false, true] {
        if is_written {
            larder.metric_becomes("larder_store_blobs", 1.0).await;
        }
        for reply in
            [larder.head(&path).await, larder.get_range(&path, "bytes=0-9").await, larder.get(&path).await]
        {
            assert!(reply.status.is_success(), "{:?}", reply.body);
            assert_eq!(reply.header("content-type"), MediaType::OCI_INDEX, "written: {is_written}");
        }
    }
    assert_eq!(larder.head(&path).await.header("content-length"), image.index_bytes.len().to_string());
    let manifest = larder.get(&format!("/v2/team/app/manifests/{}?ns=reg.test", image.index)).await;
    assert_eq!(manifest.header("content-type"), MediaType::OCI_INDEX);
}
