//! Connections: malformed requests, too many of them, and a stop while they are open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::client;
use crate::support::image::noise;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

/// The header of a client that stated that it has no credential.
const AUTHORIZED: &str = "Authorization: Basic Og==\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_hello_is_answered_in_plain_http() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat();
    let answer = client::raw(larder.address, &hello).await.expect("a FIN and no reset");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_one_answer_and_the_connection_ends_without_a_reset() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    // A request that would be served.
    let host = format!("Host: {}\r\n{AUTHORIZED}", larder.address);
    let smuggled = format!("GET /v2/ HTTP/1.1\r\n{host}\r\n");
    for (what, request) in [
        (
            "a body on GET",
            format!("GET /v2/ HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        ),
        (
            "chunked on GET",
            format!("GET /v2/ HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "both lengths",
            format!(
                "POST /v2/ HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "two lengths",
            format!(
                "GET /v2/ HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello{smuggled}"
            ),
        ),
        (
            "an unread upload",
            format!(
                "PUT /v2/a/manifests/v1 HTTP/1.1\r\n{host}Content-Length: 100000\r\n\r\n{}",
                "x".repeat(100_000)
            ),
        ),
        ("upgrade", format!("CONNECT evil.com:443 HTTP/1.1\r\n{host}\r\n")),
        ("no host", format!("GET /v2/ HTTP/1.1\r\n{AUTHORIZED}\r\n")),
        ("two hosts", format!("GET /v2/ HTTP/1.1\r\n{host}Host: evil.com\r\n\r\n")),
        ("another host", format!("GET /v2/ HTTP/1.1\r\n{AUTHORIZED}Host: evil.com\r\n\r\n")),
        ("absolute form", format!("GET http://evil.com/v2/ HTTP/1.1\r\n{host}\r\n")),
        ("a long path", format!("GET /v2/{} HTTP/1.1\r\n{host}\r\n", "a".repeat(65_000))),
        ("many fields", format!("GET /v2/ HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(200))),
        ("a line break in a field", format!("GET /v2/ HTTP/1.1\r\n{host}X: a\nb: c\r\n d\r\n\r\n")),
        ("nonsense", "EHLO localhost\r\n\r\n".to_owned()),
        ("version 9", format!("GET /v2/ HTTP/9.9\r\n{host}\r\n")),
    ] {
        let answer =
            tokio::time::timeout(Duration::from_secs(20), client::raw(larder.address, request.as_bytes()))
                .await;
        let answer =
            answer.unwrap_or_else(|_| panic!("{what}: left open")).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
    }
    assert_eq!(larder.get("/v2/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_and_http_1_0_clients_are_served_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let one = format!("GET /v2/ HTTP/1.1\r\n{AUTHORIZED}Host: {}\r\n\r\n", larder.address);
    let last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answer = client::raw(larder.address, format!("{one}{one}{last}").as_bytes()).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    let old = one.replace("HTTP/1.1", "HTTP/1.0");
    let answer = client::raw(larder.address, old.as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_over_the_limit_gets_503_and_the_others_continue() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "[server]\nconnections_max = 16");
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(larder.address).await.unwrap();
        let request = format!("GET /v2/ HTTP/1.1\r\n{AUTHORIZED}Host: {}\r\n\r\n", larder.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        held.push(stream);
    }
    let answer =
        client::raw(larder.address, b"GET /v2/ HTTP/1.1\r\n\r\n").await.expect("an answer and a FIN");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let begun = Instant::now();
    let mut slow = TcpStream::connect(larder.address).await.unwrap();
    let unasked = tokio::time::timeout(Duration::from_millis(100), slow.read_u8()).await;
    // After half a second one that asks nothing is answered all the same.
    let is_late = begun.elapsed() >= Duration::from_millis(400);
    assert!(
        unasked.is_err() || is_late,
        "a client that had not asked yet was answered, which some take for a broken connection"
    );
    slow.write_all(b"GET /v2/ HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = [0; 13];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503 ");
    drop(held);
    for _ in 0..200 {
        // A connection that has ended does not count any more.
        let request =
            format!("GET /v2/ HTTP/1.1\r\n{AUTHORIZED}Host: {}\r\nConnection: close\r\n\r\n", larder.address);
        if client::raw(larder.address, request.as_bytes()).await.is_ok_and(|a| a.starts_with("HTTP/1.1 200"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place became free");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_over_the_limit_gets_503_at_once() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder =
        Larder::start(directory.path(), &[("reg.test", registry.url())], "[server]\nrequests_max = 2");
    registry.wrong_at("/manifests/", Fault::Hang);
    for tag in ["a", "b"] {
        let address = larder.address;
        tokio::spawn(
            async move { client::get(address, &format!("/v2/x/manifests/{tag}?ns=reg.test")).await },
        );
    }
    while registry.seen().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reply = larder.get("/v2/").await;
    assert_eq!((reply.status, reply.error_code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert_eq!(reply.header("retry-after"), "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_body_ends_with_fin_and_never_with_a_reset() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let digest = registry.put_blob("a", Bytes::from(noise(1_000_000, 2)));
    // When the first body fails, more bytes are unread than hyper reads: closing the socket at once would reset it.
    let request =
        format!("GET /v2/a/blobs/{digest}?ns=reg.test HTTP/1.1\r\nHost: {}\r\n\r\n", larder.address);
    for _ in 0..5 {
        // The download must fail after the head has arrived: before that the answer is an error and not a short body.
        let gate = Arc::new(Semaphore::new(0));
        registry.behave();
        registry.wrong_at("/blobs/", Fault::CorruptAfter(400_000, Arc::clone(&gate)));
        let (mut reader, mut writer) = TcpStream::connect(larder.address).await.unwrap().into_split();
        let pipelined = request.repeat(3_000);
        let writing = tokio::spawn(async move { writer.write_all(pipelined.as_bytes()).await });
        let mut answer = vec![0; 15];
        reader.read_exact(&mut answer).await.unwrap();
        gate.add_permits(10);
        reader.read_to_end(&mut answer).await.expect("a FIN and no reset");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{}", &answer[..100.min(answer.len())]);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
        writing.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_bodies_finish_serves_others_until_then_closes_idle_connections_and_ends() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let bytes = Bytes::from(noise(2_000_000, 3));
    let digest = registry.put_blob("a", bytes.clone());
    let gate = Arc::new(Semaphore::new(0));
    registry.wrong_at("/blobs/", Fault::HoldAfter(1_000_000, Arc::clone(&gate)));
    let path = format!("/v2/a/blobs/{digest}?ns=reg.test");
    let busy = client::open(larder.address, Method::GET, &path, &[]).await;
    let mut idle = TcpStream::connect(larder.address).await.unwrap();
    let (address, admin) = (larder.address, larder.admin);
    larder.begin_stop();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0, "an idle connection is closed at once");
    // A port that is closed for as long as the longest body takes would turn these away for nothing.
    let mut late = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let request = format!("GET /v2/ HTTP/1.1\r\n{AUTHORIZED}Host: {address}\r\n\r\n");
        late.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 512];
        let read = late.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(client::get(admin, "/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(client::get(admin, "/livez").await.status, StatusCode::OK);
    gate.add_permits(1);
    assert_eq!(busy.into_body().collect().await.unwrap().to_bytes(), bytes, "what was begun is finished");
    assert_eq!(late.read(&mut [0; 8]).await.unwrap(), 0, "nothing holds the stop up any more");
    larder.stopped().await;
    assert!(TcpStream::connect(address).await.is_err(), "no new connection is accepted");
    assert!(directory.path().join("larder/store/index/clean").is_file(), "and the index is closed cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder =
        Larder::start(directory.path(), &[("reg.test", registry.url())], "[server]\ndrain_wait = \"200ms\"");
    let digest = registry.put_blob("a", Bytes::from(noise(2_000_000, 3)));
    registry.wrong_at("/blobs/", Fault::StallAfter(1_000_000));
    let path = format!("/v2/a/blobs/{digest}?ns=reg.test");
    let stalled = client::open(larder.address, Method::GET, &path, &[]).await;
    larder.stop().await;
    assert!(stalled.into_body().collect().await.is_err(), "its body is seen to be short");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clients_that_never_stop_asking_do_not_put_off_a_stop() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder =
        Larder::start(directory.path(), &[("reg.test", registry.url())], "[server]\ndrain_wait = \"2s\"");
    let digest = registry.put_blob("a", Bytes::from(noise(2_000_000, 3)));
    registry.wrong_at("/blobs/", Fault::StallAfter(1_000_000));
    let (address, path) = (larder.address, format!("/v2/a/blobs/{digest}?ns=reg.test"));
    let stalled = client::open(address, Method::GET, &path, &[]).await;
    let asking = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(mut stream) = TcpStream::connect(address).await {
            let request = format!("GET {path} HTTP/1.1\r\n{AUTHORIZED}Host: {address}\r\n\r\n");
            let _ = stream.write_all(request.as_bytes()).await;
            held.push(stream);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    larder.stop().await;
    asking.await.unwrap();
    assert!(stalled.into_body().collect().await.is_err(), "its body is seen to be short");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.sock");
    let environment =
        larder::config::Environment { state_home: Some(directory.path().into()), ..Default::default() };
    let text = format!("[server]\nlisten = [\"unix:{}\"]\n[admin]\nlisten = \"127.0.0.1:0\"", path.display());
    let settings = larder::config::resolve(&text, &environment).unwrap();
    let app = larder::app::App::build(settings, larder::support::clock::Clock::system(), Vec::new()).unwrap();
    let (trigger, shutdown) = larder::support::shutdown::channel();
    let running = tokio::spawn(async move { app.run(shutdown).await.unwrap() });
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(
            format!("GET /v2/ HTTP/1.1\r\n{AUTHORIZED}Host: whatever\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    trigger.fire();
    running.await.unwrap();
    assert!(!path.exists());
}
