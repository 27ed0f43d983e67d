//! What a manifest document may be, and every confusion that is refused.

use super::*;

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
fn a_document_that_could_be_read_two_ways_is_refused() {
    let d = descriptor("7");
    for both in [index(r#","layers":[]"#), index(&format!(r#","config":{d}"#)), index(r#","fsLayers":[]"#)] {
        assert!(matches!(parse(&both, MediaType::OCI_INDEX), Err(DocumentError::Ambiguous(..))), "{both}");
    }
    let twice = image(r#","layers":[]"#);
    assert!(matches!(parse(&twice, MediaType::OCI_MANIFEST), Err(DocumentError::Malformed(_))));
}

#[test]
fn content_type_and_content_must_agree() {
    let own_index = image(&format!(r#","mediaType":"{}""#, MediaType::OCI_INDEX));
    for (json, sent) in [
        (image(""), MediaType::OCI_INDEX),
        (index(""), MediaType::OCI_MANIFEST),
        (own_index.clone(), MediaType::OCI_MANIFEST),
        (own_index, ""),
        (r#"{"schemaVersion":2}"#.to_owned(), MediaType::OCI_MANIFEST),
    ] {
        assert!(matches!(parse(&json, sent), Err(DocumentError::Disagrees { .. })), "{json} as {sent}");
    }
}

#[test]
fn hostile_documents_are_refused_by_name() {
    let size = |size: &str| image("").replacen(r#""size":7"#, &format!(r#""size":{size}"#), 1);
    for json in [
        String::new(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        "\u{feff}{}".into(),
        size("-1"),
        size("NaN"),
        size("99999999999999999999999"),
        image("").replace(HEX, "../../etc/passwd"),
        image("").replace(HEX, &HEX.to_uppercase()),
        image("").replace("sha256:", "md5:"),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!(r#"{{"mediaType":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000)),
    ] {
        let shown: String = json.chars().take(80).collect();
        assert!(parse(&json, MediaType::OCI_MANIFEST).is_err(), "{shown}");
    }
    assert!(matches!(
        parse(&size("1099511627777"), MediaType::OCI_MANIFEST),
        Err(DocumentError::Descriptor(_))
    ));
    let many = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![descriptor("1"); 2_001].join(","));
    assert_eq!(parse(&many, MediaType::OCI_INDEX).unwrap_err(), DocumentError::TooMany);
    let old = r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
    assert_eq!(
        parse(old, "application/vnd.docker.distribution.manifest.v1+prettyjws").unwrap_err(),
        DocumentError::Schema1
    );
    let large = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert_eq!(Document::parse(&large, None).unwrap_err(), DocumentError::TooLarge);
}

#[test]
fn other_artifacts_are_handed_on() {
    let artifact = r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#;
    assert!(matches!(parse(artifact, "").unwrap().kind, Kind::Other));
}
