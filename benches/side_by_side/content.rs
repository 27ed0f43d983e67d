//! The content of the registry, and its upload.

use std::io::{Read, Write};
use std::net::TcpStream;

use larder::reference::Digest;

/// Bytes that do not repeat within the size of a socket buffer.
pub(crate) fn content(mib: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(mib << 20);
    while bytes.len() < mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

pub(crate) fn push(registry: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let begun = request(registry, "POST", "/v2/bench/app/blobs/uploads/", "", &[]);
    let location = begun
        .lines()
        .find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case("location")))
        .expect("a location")
        .1
        .trim()
        .to_owned();
    let path = location.split_once(registry).map_or(location.clone(), |(_, path)| path.to_owned());
    let done =
        request(registry, "PUT", &format!("{path}&digest={digest}"), "application/octet-stream", bytes);
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    digest
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of one layer, by its tag.
pub(crate) fn push_image(registry: &str, tag: &str, layer: &[u8]) -> (Digest, Digest) {
    let config = format!("{{\"os\":\"linux\",\"architecture\":\"amd64\",\"author\":\"{tag}\"}}").into_bytes();
    let described = |media: &str, bytes: &[u8]| {
        let digest = push(registry, bytes).to_string();
        serde_json::json!({"mediaType": media, "digest": digest, "size": bytes.len()})
    };
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", layer)]});
    let bytes = manifest.to_string().into_bytes();
    let done = request(registry, "PUT", &format!("/v2/bench/app/manifests/{tag}"), MANIFEST, &bytes);
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    (Digest::of(&bytes), Digest::of(layer))
}

pub(crate) fn push_manifest(registry: &str) -> Digest {
    let config = b"{\"os\":\"linux\",\"architecture\":\"amd64\"}".to_vec();
    let config_digest = push(registry, &config);
    let media = MANIFEST;
    let annotations: std::collections::BTreeMap<String, String> =
        (0..20).map(|n| (format!("org.example.annotation-{n}"), "x".repeat(40))).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media, "annotations": annotations, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest.to_string(), "size": config.len()}});
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let done = request(registry, "PUT", &format!("/v2/bench/app/manifests/{digest}"), media, &bytes);
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    digest
}

/// Sends a request and returns the head of the answer.
pub(crate) fn request(address: &str, method: &str, path: &str, media: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
