//! What a manifest document may be, what of it is understood, and every confusion that is refused.

use super::*;
use crate::reference::{Digest, Platform};

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(size: &str) -> String {
    format!(r#"{{"mediaType":"application/octet-stream","digest":"sha256:{HEX}","size":{size}}}"#)
}

fn image(more: &str) -> String {
    let d = descriptor("7");
    format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d},{d}]{more}}}"#)
}

fn index(more: &str) -> String {
    let platform = r#""platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#;
    let d = descriptor("7").replace('}', &format!(",{platform}}}"));
    format!(r#"{{"schemaVersion":2,"manifests":[{d}]{more}}}"#)
}

fn parse(json: &str, sent_as: &str) -> Result<Document, DocumentError> {
    Document::parse(json.as_bytes(), sent_as.parse().ok().as_ref())
}

#[test]
fn an_image_and_an_index_are_read() {
    let document = parse(&image(""), MediaType::DOCKER_MANIFEST).unwrap();
    assert_eq!(document.media_type.as_str(), MediaType::DOCKER_MANIFEST);
    assert!(matches!(document.kind, Kind::Image(children) if children.len() == 3 && children[0].size == 7));

    let document = parse(&index(""), MediaType::OCI_INDEX).unwrap();
    let Kind::Index(children) = document.kind else { panic!("not an index") };
    assert_eq!(children[0].platform, Some(Platform::new("linux", "arm64", None)));
}

#[test]
fn a_missing_or_careless_content_type_is_decided_by_the_document() {
    for careless in ["", "text/plain; charset=utf-8", "application/json"] {
        assert_eq!(parse(&index(""), careless).unwrap().media_type.as_str(), MediaType::OCI_INDEX);
        let own = image(&format!(r#","mediaType":"{}""#, MediaType::DOCKER_MANIFEST));
        assert_eq!(parse(&own, careless).unwrap().media_type.as_str(), MediaType::DOCKER_MANIFEST);
    }
}

#[test]
fn why_a_page_is_no_manifest_is_a_short_text_whatever_the_page() {
    let long = "x".repeat(1_000_000);
    for page in [format!("\"{long}\""), long.clone(), format!("[\"{long}\"]"), format!("<html>{long}</html>")]
    {
        let why = parse(&page, MediaType::OCI_INDEX).unwrap_err();
        assert!(matches!(why, DocumentError::Malformed(_)));
        assert!(why.to_string().len() < 400, "{} bytes of error text", why.to_string().len());
    }
}

#[test]
fn a_document_that_could_be_read_two_ways_is_refused() {
    let d = descriptor("7");
    let own = |own: &str| format!(r#","mediaType":"{own}""#);
    assert!(parse(&image(""), MediaType::OCI_INDEX).is_err(), "an image sent as an index");
    assert!(parse(&index(""), MediaType::DOCKER_MANIFEST).is_err(), "an index sent as an image");
    for both in [
        index(r#","layers":[]"#),
        index(&format!(r#","config":{d}"#)),
        index(r#","fsLayers":[]"#),
        index(&format!(r#","Layers":[{d}]"#)),
        index(r#","manifests":[]"#),
        image(r#","layers":[]"#),
        image(&own(MediaType::OCI_INDEX)),
        index(&own(MediaType::DOCKER_MANIFEST)),
    ] {
        for sent in [MediaType::OCI_INDEX, MediaType::OCI_MANIFEST, "application/vnd.acme", ""] {
            let refused = parse(&both, sent);
            let is_ambiguity =
                matches!(refused, Err(DocumentError::Ambiguous(..) | DocumentError::Disagrees { .. }));
            assert!(is_ambiguity, "{both} as {sent}: {refused:?}");
        }
    }
}

/// What is listed, and how many descriptors are missing in that; `None` for an opaque document.
fn listed(json: &str, sent_as: &str) -> Option<(usize, usize)> {
    let document = parse(json, sent_as).unwrap();
    match document.kind {
        Kind::Index(children) | Kind::Image(children) => Some((children.len(), document.omitted)),
        Kind::Opaque => None,
    }
}

#[test]
fn what_is_not_understood_is_left_out_and_the_document_goes_out_as_its_registry_sent_it() {
    let d = descriptor("7");
    let with_size = |size: &str| image("").replacen(r#""size":7"#, &format!(r#""size":{size}"#), 1);
    let layer_with_size = |size: &str| {
        let (config, layers) =
            image("").split_once("layers").map(|(c, l)| (c.to_owned(), l.to_owned())).unwrap();
        format!("{config}layers{}", layers.replacen(r#""size":7"#, &format!(r#""size":{size}"#), 1))
    };
    let config = format!(r#"{{"schemaVersion":2,"config":{d}"#);
    let many = |count| format!(r#"{config},"layers":[{}]}}"#, vec![d.clone(); count].join(","));
    for (json, understood) in [
        (format!("{config}}}"), Some((1, 0))),
        (format!(r#"{config},"layers":null}}"#), Some((1, 0))),
        (format!(r#"{config},"layers":{{}}}}"#), None),
        (format!(r#"{{"schemaVersion":2,"config":null,"layers":[{d}]}}"#), None),
        (image("").replace(r#""mediaType":"application/octet-stream","#, ""), Some((3, 0))),
        (image(r#","mediaType":5"#), Some((3, 0))),
        (image(r#","manifests":null,"annotations":{"a":[1,{"b":null}]}"#), Some((3, 0))),
        (many(10_000), Some((10_001, 0))),
        (many(20_000), Some((16_385, 3_616))),
        (with_size("-1"), None),
        (layer_with_size("-1"), Some((2, 1))),
        (layer_with_size("99999999999999999999999"), Some((2, 1))),
        (layer_with_size("1099511627777"), Some((2, 1))),
        (layer_with_size("\"7\""), Some((2, 1))),
        (layer_with_size(r#"7,"size":8"#), Some((2, 1))),
        (image("").replace(HEX, "../../etc/passwd"), None),
        (r#"{"schemaVersion":2}"#.to_owned(), None),
        (format!(r#"{{"x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)), None),
        (format!(r#"{{"mediaType":{}1{}}}"#, "[".repeat(100), "]".repeat(100)), None),
    ] {
        let shown: String = json.chars().take(200).collect();
        let document = parse(&json, MediaType::DOCKER_MANIFEST);
        let document = document.unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(document.media_type.as_str(), MediaType::DOCKER_MANIFEST, "{shown}");
        assert_eq!(listed(&json, MediaType::DOCKER_MANIFEST), understood, "{shown}");
    }
}

#[test]
fn an_index_of_which_only_a_part_is_understood_still_offers_that_part() {
    let d = descriptor("7");
    let known = r#""platform":{"os":"linux","architecture":"amd64"}"#;
    let of = |platform: &str| d.replace('}', &format!(",{platform}}}"));
    let children = [
        of(known),
        of(r#""platform":{"architecture":"arm64"}"#),
        of(r#""platform":{"os":"linux"}"#),
        of(r#""platform":"linux""#),
        of(r#""platform":null"#),
        d.replace("sha256:", "blake3:"),
        "null".to_owned(),
        "[]".to_owned(),
    ];
    let json = format!(r#"{{"manifests":[{}]}}"#, children.join(","));
    let document = parse(&json, MediaType::OCI_INDEX).unwrap();
    let Kind::Index(children) = document.kind else { panic!("not an index") };
    let platforms: Vec<_> = children.iter().map(|child| child.platform.clone()).collect();
    let [amd, arm] = ["amd64", "arm64"].map(|arch| Some(Platform::new("linux", arch, None)));
    assert_eq!((platforms, document.omitted), (vec![amd, arm, None], 5));
    assert_eq!(listed(r#"{"schemaVersion":2,"manifests":null}"#, MediaType::OCI_INDEX), None);
}

#[test]
fn the_registrys_own_type_goes_out_and_one_that_says_nothing_gives_way_to_the_documents() {
    let docker = image(&format!(r#","mediaType":"{}""#, MediaType::DOCKER_MANIFEST));
    let signed = r#"{"schemaVersion":1,"fsLayers":[],"signatures":[{}]}"#;
    let artifact = r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#;
    for (json, sent, served, names_it) in [
        (&*docker, MediaType::OCI_MANIFEST, MediaType::OCI_MANIFEST, false),
        (&docker, MediaType::DOCKER_MANIFEST, MediaType::DOCKER_MANIFEST, true),
        (&docker, "application/octet-stream", MediaType::DOCKER_MANIFEST, true),
        (&docker, "binary/octet-stream", MediaType::DOCKER_MANIFEST, true),
        (&docker, "text/plain", MediaType::DOCKER_MANIFEST, true),
        (&image(""), "binary/octet-stream", MediaType::OCI_MANIFEST, false),
        (&image(r#","mediaType":"application/json""#), "", MediaType::OCI_MANIFEST, false),
        (signed, "application/json", MediaType::DOCKER_SCHEMA_1_SIGNED, false),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "", MediaType::DOCKER_SCHEMA_1, false),
        (signed, MediaType::DOCKER_SCHEMA_1_SIGNED, MediaType::DOCKER_SCHEMA_1_SIGNED, false),
        (artifact, "", "application/vnd.oci.artifact.manifest.v1+json", true),
    ] {
        let document = parse(json, sent).unwrap();
        let found = (document.media_type.as_str(), document.names_its_type);
        assert_eq!(found, (served, names_it), "{json} as {sent}");
    }
}

#[test]
fn what_is_no_manifest_at_all_is_no_answer_to_a_tag() {
    for json in [
        "",
        "null",
        "[]",
        "{}",
        "<html>",
        "\u{feff}{}",
        r#"{"schemaVersion":2"#,
        r#"{"errors":[{"code":"UNKNOWN"}]}"#,
        r#"{"schemaVersion":2,"manifests":null}"#,
    ] {
        for careless in ["", "text/html", "application/json"] {
            assert!(
                matches!(parse(json, careless), Err(DocumentError::Malformed(_))),
                "{json} as {careless}"
            );
        }
    }
    assert!(parse("<html>", MediaType::OCI_MANIFEST).is_err());
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&nested, MediaType::OCI_MANIFEST).is_err());
    let large = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert_eq!(Document::parse(&large, None).unwrap_err(), DocumentError::TooLarge);
    let opaque = Document::opaque(None);
    assert!(opaque.media_type.is_useless() && matches!(opaque.kind, Kind::Opaque));
}

#[test]
fn a_layer_that_registries_need_not_have_is_told_from_one_that_they_must_have() {
    let digest = Digest::of(b"x");
    let layer = |more: &str| format!(r#"{{"digest":"{digest}","size":1{more}}}"#);
    let foreign = [
        r#","mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip""#,
        r#","mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd""#,
        r#","mediaType":"application/vnd.oci.image.layer.v1.tar","urls":["https://elsewhere.example/layer"]"#,
        r#","URLs":["https://elsewhere.example/layer"]"#,
    ];
    let ordinary = [
        "",
        r#","mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip""#,
        r#","urls":[]"#,
        r#","urls":null"#,
        r#","urls":"https://elsewhere.example/layer""#,
        r#","mediaType":7,"mediaType":8"#,
    ];
    let layers: Vec<String> = foreign.iter().chain(&ordinary).map(|more| layer(more)).collect();
    let config = layer(foreign[2]);
    let json = format!(r#"{{"config":{config},"layers":[{}]}}"#, layers.join(","));
    let document = Document::parse(json.as_bytes(), None).unwrap();
    let Kind::Image(children) = document.kind else { panic!("not an image") };
    let are_whole = |from| children[from..].iter().all(|child: &Child| child.is_read_whole);
    assert!(are_whole(1 + foreign.len()), "of a type that is unpacked, or that nothing says");
    let are_foreign: Vec<bool> = children.iter().map(|child| child.is_foreign).collect();
    let (yes, no) = (vec![true; foreign.len()], vec![false; ordinary.len()]);
    assert_eq!(
        (are_foreign, document.omitted),
        ([vec![false], yes, no].concat(), 0),
        "the config is its registry's"
    );
}

#[test]
fn what_runtimes_do_not_unpack_is_not_taken_for_what_they_read_as_a_whole() {
    let digest = Digest::of(b"x");
    let of = |media_type: &str| format!(r#"{{"digest":"{digest}","size":1,"mediaType":"{media_type}"}}"#);
    let types = [
        ("application/vnd.oci.image.layer.v1.tar", true),
        ("application/vnd.oci.image.layer.v1.tar+zstd", true),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", true),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
        ("application/vnd.oci.image.layer.nydus.blob.v1", false),
        ("application/vnd.docker.ai.gguf.v3", false),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", false),
        ("application/octet-stream", false),
    ];
    let layers: Vec<String> = types.iter().map(|(media_type, _)| of(media_type)).collect();
    let config = of("application/vnd.oci.image.config.v1+json");
    let json = format!(r#"{{"config":{config},"layers":[{}]}}"#, layers.join(","));
    let Kind::Image(children) = Document::parse(json.as_bytes(), None).unwrap().kind else {
        panic!("not an image")
    };
    let said: Vec<bool> = children.iter().map(|child| child.is_read_whole).collect();
    let expected: Vec<bool> = types.iter().map(|(_, is_whole)| *is_whole).collect();
    assert_eq!(said, [vec![true], expected].concat(), "the config is read as a whole");
}
