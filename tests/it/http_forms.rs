//! HTTP as it is spoken: HTTP/1.0, percent-encoded paths, absolute targets, header lines in any form and number, `Expect`,
//! connections that are kept open.

use std::net::SocketAddr;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{self, ANONYMOUS};
use crate::support::image;
use crate::support::registry::Fault;
use crate::support::scene::{Blob, Scene};

/// Head and body of the answer to a request that is written by hand.
async fn raw(scene: &Scene, lines: &[&str]) -> (String, Vec<u8>) {
    let request =
        format!("{}\r\n\r\n", lines.join("\r\n")).replace("HERE", &scene.larder.address.to_string());
    let answer = raw_bytes(scene.larder.address, request.as_bytes()).await;
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..at]).to_ascii_lowercase();
    (head, answer.get(at + 4..).unwrap_or_default().to_vec())
}

async fn raw_bytes(to: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("a FIN and no reset");
    answer
}

/// The next answer on a connection that stays open: its head and its body.
async fn next_answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length =
        head.split_once("content-length: ").map_or("0", |(_, rest)| rest.split_once("\r\n").unwrap().0);
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.expect("all of the body");
    (head, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_1_0_a_body_that_fails_does_not_look_whole() {
    let scene = Scene::new().await;
    for (seed, fault) in [(4, None), (5, Some(Fault::Chunked)), (6, Some(Fault::DamagedEnd))] {
        scene.registry.behave();
        let Blob { bytes, path, .. } = scene.blob(1_000_000, seed);
        let fails = matches!(fault, Some(Fault::DamagedEnd));
        if let Some(fault) = fault {
            scene.registry.wrong_at("/blobs/", fault);
        }
        let request = format!("GET {path} HTTP/1.0");
        let (head, body) = raw(&scene, &[&request, "Host: HERE", "Connection: close"]).await;
        assert!(head.contains("content-length: 1000000"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(body.len() < bytes.len(), fails, "{}", body.len());
        assert_eq!(body == bytes, !fails);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_read_in_every_form_that_http_allows() {
    let scene = Scene::new().await;
    let Blob { bytes, digest, .. } = scene.blob(100, 7);
    let encoded = digest.to_string().replace(':', "%3A");
    for target in [
        format!("/v2/team/app/blobs/{digest}?ns=reg.test"),
        format!("/v2/team/app/blobs/{encoded}?ns=reg.test"),
        format!("/v2/reg.test/team/app/blobs/{encoded}"),
        format!("/v2/te%61m/%61pp/blobs/{}?ns=reg%2Etest", encoded.replace("%3A", "%3a")),
        format!("/v2/team%2Dapp/../x/blobs/{encoded}"),
        format!("/v2/team%2Fapp/../blobs/{encoded}"),
        format!("http://HERE/v2/team/app/blobs/{digest}?ns=reg.test"),
    ] {
        let request = format!("GET {target} HTTP/1.1");
        for headers in [
            &["Host: HERE", "Connection: close"][..],
            &["HOST:HERE", "aCCePT: a/b", "Accept:c/d", "accept: */*", "connection:   close  "],
            &["host: HERE", "Expect: 100-continue", "Connection: close"],
        ] {
            let (head, body) = raw(&scene, &[&[request.as_str()][..], headers].concat()).await;
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
    let (head, _) = raw(&scene, &[&target, "Host: proxy.corp", "Connection: close"]).await;
    assert!(head.contains(" 200 ok"), "{head}");
    let target = format!("GET http://evil.test/v2/team/app/blobs/{digest}?ns=reg.test HTTP/1.1");
    let (head, _) = raw(&scene, &[&target, "Host: HERE", "Connection: close"]).await;
    assert!(head.contains(" 421 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_accept_lines_are_one_and_a_manifest_is_the_same_for_all() {
    let scene = Scene::new().await;
    let image = image::push(&scene.registry, "team/app", "v1", 100);
    let headers = [("accept", "application/json"), ("accept", "*/*"), ("ACCEPT", "x/y;q=0.1"), ANONYMOUS];
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    let reply = client::send(scene.larder.address, Method::GET, path, &headers).await;
    assert_eq!(reply.body, image.index_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_segment_of_a_path_can_be_is_asked_of_no_registry() {
    let scene = Scene::new().await;
    let Blob { digest, .. } = scene.blob(100, 8);
    let hex = digest.hex();
    for target in [
        format!("/v2/team%2Fapp/blobs/{digest}?ns=reg.test"),
        format!("/v2/team/app/blobs/sha256%253A{hex}?ns=reg.test"),
        format!("/v2/team/app%2Fblobs%2F{digest}?ns=reg.test"),
        format!("/v2/team/app/blobs/{digest}%00?ns=reg.test"),
        format!("/v2/team/app/blobs/{digest}%2F..?ns=reg.test"),
        format!("/v2/team/%FF/blobs/{digest}?ns=reg.test"),
        "/v2/team/app/manifests/v1%0D%0AX-Evil:1?ns=reg.test".to_owned(),
        "/v2/team/app/manifests/v1%?ns=reg.test".to_owned(),
    ] {
        let (head, _) =
            raw(&scene, &[&format!("GET {target} HTTP/1.1"), "Host: HERE", "Connection: close"]).await;
        assert!(head.contains(" 400 ") || head.contains(" 404 "), "{target}: {head}");
    }
    assert!(scene.registry.seen().is_empty(), "{:?}", scene.registry.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_header_lines_are_read_and_more_are_refused_without_a_reset() {
    let scene = Scene::new().await;
    let Blob { bytes, path, .. } = scene.blob(100, 9);
    let request = format!("GET {path} HTTP/1.1");
    let own = [request.as_str(), "Host: HERE", "Connection: close", "Authorization: Basic Og=="];
    let more = |count: usize| (0..count).map(|n| format!("x-{n}: y")).collect::<Vec<_>>();
    for (count, is_read) in [(97, true), (98, false), (2_000, false)] {
        let more = more(count);
        let lines: Vec<&str> = own.iter().copied().chain(more.iter().map(String::as_str)).collect();
        let (head, body) = raw(&scene, &lines).await;
        if is_read {
            assert!(head.contains(" 200 ok") && body == bytes, "{count}: {head}");
        } else {
            assert!(head.contains(" 431 "), "{count}: {head}");
        }
    }
    // One long field is no more than many short ones.
    for (bytes_of_field, status) in [(12 * 1024, " 200 "), (17 * 1024, " 431 "), (100 * 1024, " 431 ")] {
        let field = format!("X-Long: {}", "y".repeat(bytes_of_field));
        let (head, _) = raw(&scene, &[own[0], own[1], own[2], own[3], &field]).await;
        assert!(head.contains(status), "{bytes_of_field}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_told_to_go_on_is_told_or_refused_before_it_sends() {
    let scene = Scene::new().await;
    let here = scene.larder.address;
    let form = "grant_type=password&username=ada&password=x&service=larder&scope=repository:team/app:pull";
    let mut stream = TcpStream::connect(here).await.unwrap();
    let head = format!(
        "POST /token?ns=reg.test HTTP/1.1\r\nHost: {here}\r\nExpect: 100-Continue\r\nContent-Length: {}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (told, _) = next_answer(&mut stream).await;
    assert!(told.starts_with("http/1.1 100 "), "{told}");
    stream.write_all(form.as_bytes()).await.unwrap();
    let (answer, _) = next_answer(&mut stream).await;
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    // The connection goes on.
    stream.write_all(format!("GET /v2/ HTTP/1.1\r\nHost: {here}\r\n\r\n").as_bytes()).await.unwrap();
    assert!(next_answer(&mut stream).await.0.starts_with("http/1.1 401 "));

    for (request, status) in [
        (
            format!(
                "PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: {here}\r\nExpect: 100-continue\r\nContent-Length: 99999"
            ),
            "405",
        ),
        (format!("GET /v2/ HTTP/1.1\r\nHost: {here}\r\nExpect: 100-continue\r\nContent-Length: 5"), "400"),
    ] {
        let answer = raw_bytes(here, format!("{request}\r\n\r\n").as_bytes()).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "nothing was to be sent: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_refuses_leaves_the_connection_to_the_next_request() {
    let scene = Scene::new().await;
    let Blob { bytes, path, .. } = scene.blob(200_000, 10);
    let mut stream = TcpStream::connect(scene.larder.address).await.unwrap();
    for (method, target, field, status) in [
        ("GET", path.as_str(), "", "200"),
        ("HEAD", &path, "", "200"),
        ("GET", "/v2/team/app/manifests/nothing?ns=reg.test", "", "404"),
        ("GET", &path, "Range: bytes=900000-\r\n", "416"),
        ("GET", &path, "Range: bytes=0-1,5-2\r\n", "400"),
        ("GET", "/v2/team/app/blobs/sha256:x?ns=reg.test", "", "400"),
        ("GET", "/v3/", "", "404"),
        ("GET", &path, "Range: bytes=5-9\r\n", "206"),
        ("GET", &path, "", "200"),
    ] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic Og==\r\n{field}\r\n",
            scene.larder.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap_or_else(|e| panic!("{method} {target} {field}: {e}")));
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{method} {target} {field}: {head}");
        assert!(!head.contains("connection: close"), "{head}");
        if method == "HEAD" {
            assert!(head.contains(&format!("content-length: {}", bytes.len())), "{head}");
            continue;
        }
        let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        assert!(status != "200" || body == bytes, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_sent_before_a_stop_is_answered_and_one_after_it_is_answered_or_seen_to_be_unanswered()
 {
    let scene = Scene::new().await;
    let Blob { bytes, path, .. } = scene.blob(1_000, 11);
    let here = scene.larder.address;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {here}\r\nAuthorization: Basic Og==\r\n\r\n");
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(here).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(next_answer(&mut stream).await.1, bytes);
        streams.push(stream);
    }
    let (before, after) = streams.split_at_mut(25);
    for stream in before.iter_mut() {
        assert_eq!(stream.try_write(request.as_bytes()).unwrap(), request.len());
    }
    scene.larder.begin_stop();
    for stream in before {
        assert_eq!(next_answer(stream).await.1, bytes, "a request was lost");
        let mut more = Vec::new();
        stream.read_to_end(&mut more).await.expect("a FIN and no reset");
        assert!(more.is_empty());
    }
    for stream in after {
        // By now the stop may have closed it: a request on its way then is not answered, and its client sees that.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("a FIN and no reset");
        assert!(answer.is_empty() || answer.ends_with(&bytes), "{answer:?}");
    }
    scene.larder.stopped().await;
}
