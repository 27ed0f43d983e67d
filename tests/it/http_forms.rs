//! HTTP as it is spoken: HTTP/1.0, several ranges, percent-encoded paths, absolute targets, header lines in any form.

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::Digest;

use crate::support::client::{self, ANONYMOUS};
use crate::support::image::{self, noise};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    _directory: tempfile::TempDir,
}

async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    Scene { registry, larder, _directory: directory }
}

impl Scene {
    fn blob(&self, bytes: usize, seed: u64) -> (Bytes, Digest, String) {
        let bytes = Bytes::from(noise(bytes, seed));
        let digest = self.registry.put_blob("team/app", bytes.clone());
        (bytes, digest, format!("/v2/team/app/blobs/{digest}?ns=reg.test"))
    }

    /// Head and body of the answer to a request that is written by hand.
    async fn raw(&self, lines: &[&str]) -> (String, Vec<u8>) {
        let request =
            format!("{}\r\n\r\n", lines.join("\r\n")).replace("HERE", &self.larder.address.to_string());
        let answer = raw_bytes(self.larder.address, request.as_bytes()).await;
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
        let head = String::from_utf8_lossy(&answer[..at]).to_ascii_lowercase();
        (head, answer.get(at + 4..).unwrap_or_default().to_vec())
    }
}

async fn raw_bytes(to: std::net::SocketAddr, request: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// The parts of a multipart body: their `Content-Range` and bytes.
fn parts_of(reply: &client::Reply) -> Vec<(String, Vec<u8>)> {
    let boundary = reply.header("content-type").split_once("boundary=").unwrap().1.to_owned();
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    let delimiter = format!("--{boundary}");
    let (mut parts, mut rest) = (Vec::new(), &reply.body[..]);
    let position = |text: &[u8], wanted: &[u8]| text.windows(wanted.len()).position(|w| w == wanted).unwrap();
    loop {
        rest = &rest[position(rest, delimiter.as_bytes()) + delimiter.len()..];
        if rest == b"--\r\n" {
            return parts;
        }
        let end_of_head = position(rest, b"\r\n\r\n");
        let head = String::from_utf8(rest[..end_of_head].to_vec()).unwrap();
        let range = head.split_once("Content-Range: ").unwrap().1.to_owned();
        rest = &rest[end_of_head + 4..];
        parts.push((range, rest[..position(rest, format!("\r\n{delimiter}").as_bytes())].to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_come_in_one_answer_cold_and_warm_and_cost_upstream_what_they_are() {
    let scene = scene().await;
    let (bytes, _, path) = scene.blob(40 * 1024 * 1024, 1);
    let size = bytes.len();
    let range = "bytes=30000000-30000099, 0-99,100-199,5000000-5000099";
    for temperature in ["cold", "warm"] {
        let reply = scene.larder.get_range(&path, range).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{temperature}");
        assert!(reply.header("content-type").starts_with("multipart/byteranges; boundary="));
        assert!(!reply.headers.contains_key("content-range"));
        let expected: Vec<_> = [0..200, 5_000_000..5_000_100, 30_000_000..30_000_100]
            .into_iter()
            .map(|r| (format!("bytes {}-{}/{size}", r.start, r.end - 1), bytes[r].to_vec()))
            .collect();
        assert_eq!(parts_of(&reply), expected, "{temperature}");
        if temperature == "cold" {
            let received =
                scene.larder.metric(r#"larder_upstream_received_bytes_total{registry="reg.test"}"#);
            assert!(received.await < 100_000.0, "a layer was fetched for 400 bytes");
            assert!(client::get(scene.larder.address, &path).await.body == bytes);
            scene.larder.settled().await;
        }
    }
    let one = scene.larder.get_range(&path, "bytes=0-9,10-19").await;
    assert_eq!(one.header("content-range"), format!("bytes 0-19/{size}"), "what touches is one range");
    assert_eq!(one.body, bytes.slice(..20));
    let tail = scene.larder.get_range(&path, "bytes=0-0,-1").await;
    assert_eq!(parts_of(&tail)[1], (format!("bytes {0}-{0}/{size}", size - 1), bytes[size - 1..].to_vec()));
    let none = scene.larder.get_range(&path, &format!("bytes={size}-,{}-", size + 5)).await;
    assert_eq!(none.status, StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_ranges_than_are_answered_are_refused_and_never_answered_with_the_whole_layer() {
    let scene = scene().await;
    let (_, _, path) = scene.blob(1_000_000, 2);
    let ranges = |count: usize| (0..count).map(|n| format!("{0}-{0}", n * 10)).collect::<Vec<_>>().join(",");
    let many = scene.larder.get_range(&path, &format!("bytes={}", ranges(65))).await;
    assert_eq!(many.status, StatusCode::BAD_REQUEST, "stargz then asks for single ones");
    assert!(scene.registry.seen().is_empty());
    let most = scene.larder.get_range(&path, &format!("bytes={}", ranges(64))).await;
    assert_eq!(parts_of(&most).len(), 64);
    let odd = scene.larder.get_range(&path, "bytes=0-1,5-2").await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_ends_the_answer_short() {
    let scene = scene().await;
    let (_, _, path) = scene.blob(40 * 1024 * 1024, 3);
    scene.registry.wrong(|seen| {
        let range = seen.headers.get("range").and_then(|range| range.to_str().ok())?;
        range.contains("=30000000-").then(|| Fault::Status(404, vec![]))
    });
    scene.registry.wrong(|seen| {
        let is_whole = seen.method == Method::GET && !seen.headers.contains_key("range");
        is_whole.then(|| Fault::Status(404, vec![]))
    });
    let reply = scene.larder.get_range(&path, "bytes=0-9,30000000-30000009").await;
    assert!(reply.status == StatusCode::PARTIAL_CONTENT && !reply.complete, "{:?}", reply.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_1_0_a_body_that_fails_does_not_look_whole() {
    let scene = scene().await;
    for (seed, fault) in [(4, None), (5, Some(Fault::Chunked)), (6, Some(Fault::DamagedEnd))] {
        scene.registry.behave();
        let (bytes, _, path) = scene.blob(1_000_000, seed);
        let fails = matches!(fault, Some(Fault::DamagedEnd));
        if let Some(fault) = fault {
            scene.registry.wrong_at("/blobs/", fault);
        }
        let request = format!("GET {path} HTTP/1.0");
        let (head, body) = scene.raw(&[&request, "Host: HERE", "Connection: close"]).await;
        assert!(head.contains("content-length: 1000000"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(body.len() < bytes.len(), fails, "{}", body.len());
        assert_eq!(body == bytes, !fails);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_read_in_every_form_that_http_allows() {
    let scene = scene().await;
    let (bytes, digest, _) = scene.blob(100, 7);
    let encoded = digest.to_string().replace(':', "%3A");
    for target in [
        format!("/v2/team/app/blobs/{digest}?ns=reg.test"),
        format!("/v2/team/app/blobs/{encoded}?ns=reg.test"),
        format!("/v2/reg.test/team/app/blobs/{encoded}"),
        format!("/v2/team%2Dapp/../x/blobs/{encoded}"),
        format!("http://HERE/v2/team/app/blobs/{digest}?ns=reg.test"),
    ] {
        let request = format!("GET {target} HTTP/1.1");
        for headers in [
            &["Host: HERE", "Connection: close"][..],
            &["HOST:HERE", "aCCePT: a/b", "Accept:c/d", "accept: */*", "connection:   close  "],
            &["host: HERE", "Expect: 100-continue", "Connection: close"],
        ] {
            let (head, body) = scene.raw(&[&[request.as_str()][..], headers].concat()).await;
            if target.contains("..") {
                assert!(head.contains(" 400 ") || head.contains(" 404 "), "{target}: {head}");
                continue;
            }
            assert!(head.contains(" 200 ok"), "{target} {headers:?}: {head}");
            assert_eq!(body, bytes, "{target} {headers:?}");
        }
    }
    // An absolute target counts, and not `Host`.
    let target = format!("GET http://HERE/v2/team/app/blobs/{digest}?ns=reg.test HTTP/1.1");
    let (head, _) = scene.raw(&[&target, "Host: proxy.corp", "Connection: close"]).await;
    assert!(head.contains(" 200 ok"), "{head}");
    let target = format!("GET http://evil.test/v2/team/app/blobs/{digest}?ns=reg.test HTTP/1.1");
    let (head, _) = scene.raw(&[&target, "Host: HERE", "Connection: close"]).await;
    assert!(head.contains(" 421 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_accept_lines_are_one_and_a_manifest_is_the_same_for_all() {
    let scene = scene().await;
    let image = image::push(&scene.registry, "team/app", "v1", 100);
    let headers = [("accept", "application/json"), ("accept", "*/*"), ("ACCEPT", "x/y;q=0.1"), ANONYMOUS];
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    let reply = client::send(scene.larder.address, Method::GET, path, &headers).await;
    assert_eq!(reply.body, image.index_bytes);
}
