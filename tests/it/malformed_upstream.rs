//! An upstream that sends raw bytes: contradictory lengths, endless heads, wrong encodings.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use larder::reference::{Digest, MediaType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::world::{Larder, files_under};

const BODY: &[u8] = b"the bytes of a small blob";

/// Answers every request with these bytes, then closes; `never_ending` is sent again and again after them.
async fn raw(answer: Vec<u8>, never_ending: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, never_ending) = (answer.clone(), never_ending.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
                while !never_ending.is_empty() && stream.write_all(&never_ending).await.is_ok() {}
            });
        }
    });
    address
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes(), body].concat()
}

/// What a client gets of a blob that is answered with these bytes.
async fn blob(answer: Vec<u8>, never_ending: &[u8]) -> (StatusCode, bool, Vec<u8>) {
    let at = raw(answer, never_ending.to_vec()).await;
    let directory = tempfile::tempdir().unwrap();
    let quick = "[upstream]\nheader_timeout = \"2s\"\nidle_timeout = \"1s\"";
    let larder = Larder::start(directory.path(), &[("reg.test", format!("http://{at}"))], quick);
    let path = format!("/v2/reg.test/team/app/blobs/{}", Digest::of(BODY));
    let reply = tokio::time::timeout(Duration::from_secs(25), larder.get(&path)).await.unwrap();
    larder.settled().await;
    let right = reply.complete && reply.body == BODY;
    let stored = files_under(&directory.path().join("larder/store/blobs")).len();
    assert_eq!(stored, usize::from(right), "stored what was not verified, or did not store what was");
    (reply.status, reply.complete, reply.body.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_with_wrong_lengths_never_end_complete_and_correct_ones_do() {
    let len = BODY.len();
    let chunked = format!("{len:x}\r\n{}\r\n0\r\n\r\n", String::from_utf8_lossy(BODY)).into_bytes();
    for (what, bytes, well) in [
        ("the right one", answer(&format!("content-length: {len}\r\n"), BODY), true),
        ("none, and the connection ends", answer("", BODY), true),
        ("chunks", answer("transfer-encoding: chunked\r\n", &chunked), true),
        (
            "the same twice",
            answer(&format!("content-length: {len}\r\ncontent-length: {len}\r\n"), BODY),
            true,
        ),
        ("too small", answer(&format!("content-length: {}\r\n", len - 5), BODY), false),
        ("too large", answer(&format!("content-length: {}\r\n", len + 5), BODY), false),
        ("two of them", answer(&format!("content-length: {len}\r\ncontent-length: 7\r\n"), BODY), false),
        ("nonsense", answer("content-length: many\r\n", BODY), false),
        ("beyond all numbers", answer("content-length: 99999999999999999999999\r\n", BODY), false),
        ("more than any disk", answer("content-length: 9223372036854775807\r\n", BODY), false),
        ("chunks that break off", answer("transfer-encoding: chunked\r\n", b"5\r\nthe b"), false),
    ] {
        let (status, complete, body) = blob(bytes, &[]).await;
        assert_eq!(status.is_success() && complete && body == BODY, well, "{what}: {status} {complete}");
        assert!(well || !complete || !status.is_success(), "{what}: a wrong body that ends well");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoding_that_was_not_requested_is_no_error_where_the_bytes_prove_themselves_and_else_one() {
    for encoding in ["gzip", "GZIP", "zstd", "identity, gzip", "br", "identity"] {
        let headers = format!("content-encoding: {encoding}\r\ncontent-length: {}\r\n", BODY.len());
        let (status, complete, body) = blob(answer(&headers, BODY), &[]).await;
        assert_eq!((status, complete, &body[..]), (StatusCode::OK, true, BODY), "{encoding}");
        let encoded: Vec<u8> = BODY.iter().rev().copied().collect();
        let (status, ..) = blob(answer(&headers, &encoded), &[]).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_end_are_cut_off_and_none_of_their_headers_are_passed_on() {
    let fields: String = (0..1_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let (status, ..) = blob(answer(&format!("{fields}content-length: {}\r\n", BODY.len()), BODY), &[]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "a thousand fields");
    let long = format!("x: {}\r\ncontent-length: {}\r\n", "y".repeat(1 << 20), BODY.len());
    assert_eq!(blob(answer(&long, BODY), &[]).await.0, StatusCode::SERVICE_UNAVAILABLE, "a field of a MiB");
    let endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    assert_eq!(blob(endless, b"x: y\r\n").await.0, StatusCode::SERVICE_UNAVAILABLE, "fields for ever");

    let evil = format!(
        "set-cookie: a=b\r\nclear-site-data: \"*\"\r\nlocation: http://evil.test/\r\nlink: <x>\r\ncontent-length: {}\r\n",
        BODY.len()
    );
    let at = raw(answer(&evil, BODY), Vec::new()).await;
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[("reg.test", format!("http://{at}"))], "");
    let reply = larder.get(&format!("/v2/reg.test/team/app/blobs/{}", Digest::of(BODY))).await;
    assert_eq!(reply.body, BODY);
    for field in ["set-cookie", "clear-site-data", "location", "link"] {
        assert!(reply.header(field).is_empty(), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_without_end_are_refused_at_the_limit() {
    for (headers, never_ending) in [
        ("content-length: 9223372036854775807\r\n", vec![b' '; 65_536]),
        ("content-length: 104857600\r\n", vec![b' '; 65_536]),
        (
            "transfer-encoding: chunked\r\n",
            [b"10000\r\n".to_vec(), vec![b' '; 65_536], b"\r\n".to_vec()].concat(),
        ),
        ("", vec![b' '; 65_536]),
    ] {
        let head = answer(&format!("content-type: {}\r\n{headers}", MediaType::OCI_INDEX), b"");
        let at = raw(head, never_ending).await;
        let directory = tempfile::tempdir().unwrap();
        let larder = Larder::start(directory.path(), &[("reg.test", format!("http://{at}"))], "");
        let reply = larder.get("/v2/reg.test/team/app/manifests/v1").await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{headers:?}: {:?}", reply.body);
    }
}
