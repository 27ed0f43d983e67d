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

/// A manifest of 2 KiB that has these tags.
pub(crate) fn push_manifest(registry: &str, tags: &[String]) -> Digest {
    let config = b"{\"os\":\"linux\",\"architecture\":\"amd64\"}".to_vec();
    let config_digest = push(registry, &config);
    let media = MANIFEST;
    let annotations: std::collections::BTreeMap<String, String> =
        (0..20).map(|n| (format!("org.example.annotation-{n}"), "x".repeat(40))).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media, "annotations": annotations, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest.to_string(), "size": config.len()}});
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    for reference in std::iter::once(&digest.to_string()).chain(tags) {
        let done = request(registry, "PUT", &format!("/v2/bench/app/manifests/{reference}"), media, &bytes);
        assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    }
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
