//! Several ranges in one request: lazy snapshotters ask so for small pieces of large layers.

use http::{Method, StatusCode};
use larder::reference::MediaType;

use crate::support::client;
use crate::support::image;
use crate::support::registry::Fault;
use crate::support::scene::{Blob, Scene};

/// The parts of a multipart body of binary content: their `Content-Range` and bytes.
fn parts_of(reply: &client::Reply) -> Vec<(String, Vec<u8>)> {
    parts_of_type(reply, MediaType::OCTET_STREAM)
}

fn parts_of_type(reply: &client::Reply, media_type: &str) -> Vec<(String, Vec<u8>)> {
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
        assert!(head.contains(&format!("Content-Type: {media_type}\r\n")), "{head}");
        let range = head.split_once("Content-Range: ").unwrap().1.to_owned();
        rest = &rest[end_of_head + 4..];
        parts.push((range, rest[..position(rest, format!("\r\n{delimiter}").as_bytes())].to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_come_in_one_answer_cold_and_warm_and_cost_upstream_what_they_are() {
    let scene = Scene::new().await;
    let Blob { bytes, path, .. } = scene.blob(40 * 1024 * 1024, 1);
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
    let scene = Scene::new().await;
    let Blob { path, .. } = scene.blob(1_000_000, 2);
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
    let scene = Scene::new().await;
    let Blob { path, .. } = scene.blob(40 * 1024 * 1024, 3);
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
async fn ranges_counted_from_the_end_never_cost_the_whole_layer() {
    let scene = Scene::new().await;
    let Blob { bytes, path, .. } = scene.blob(40 * 1024 * 1024, 4);
    let size = bytes.len();
    let reply = scene.larder.get_range(&path, "bytes=-100,0-99,1000-1099").await;
    let expected: Vec<_> = [0..100, 1_000..1_100, size - 100..size]
        .into_iter()
        .map(|r| (format!("bytes {}-{}/{size}", r.start, r.end - 1), bytes[r].to_vec()))
        .collect();
    assert_eq!(parts_of(&reply), expected);
    let last = scene.larder.get_range(&path, "bytes=-50").await;
    assert_eq!((last.status, last.body), (StatusCode::PARTIAL_CONTENT, bytes.slice(size - 50..)));
    let received = scene.larder.metric(r#"larder_upstream_received_bytes_total{registry="reg.test"}"#);
    assert!(received.await < 10_000.0, "a layer was fetched for 350 bytes");
    for beyond in [format!("bytes={size}-,{}-", size + 1), format!("bytes={size}-{0},{0}-", size + 9)] {
        assert_eq!(scene.larder.get_range(&path, &beyond).await.status, StatusCode::RANGE_NOT_SATISFIABLE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_manifest_have_its_type() {
    let scene = Scene::new().await;
    let image = image::push(&scene.registry, "team/app", "v1", 1_000);
    scene.registry.put_blob("team/app", image.index_bytes.clone());
    let manifest = format!("/v2/team/app/manifests/{}?ns=reg.test", image.index);
    assert_eq!(scene.larder.get(&manifest).await.status, StatusCode::OK);
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", image.index);
    let reply = scene.larder.get_range(&path, "bytes=0-3,10-12").await;
    let parts = parts_of_type(&reply, MediaType::OCI_INDEX);
    assert_eq!(
        parts.iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>(),
        [&image.index_bytes[..4], &image.index_bytes[10..13]]
    );
}
