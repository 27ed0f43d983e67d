//! The request log, as an operator of a daemon reads it: what happened to an image, and nothing that must not be there.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::program::Program;
use crate::support::client;
use crate::support::fault::redirect;
use crate::support::image;
use crate::support::registry::FakeRegistry;

const MANIFEST: &str = "/v2/team/app/manifests/v1?ns=reg.test";

async fn registry() -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    image::push(&registry, "team/app", "v1", 200_000);
    registry
}

fn program(directory: &Path, upstream: &FakeRegistry, log: &str) -> Program {
    let url = upstream.url();
    let lines = format!("[log]\n{log}\n[[registry]]\nhost = \"reg.test\"\nendpoints = [\"{url}\"]\n");
    Program::start(directory, &lines)
}

/// The lines of requests in a JSON log.
fn lines(log: &str) -> Vec<Value> {
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["target"] == "larder::access").collect()
}

/// Waits until the log has this text, and reads its lines of requests.
async fn lines_with(program: &Program, text: &str) -> Vec<Value> {
    lines(&program.wait_for(text).await)
}

/// Waits until no download is under way and every commit is done.
async fn settled(program: &Program) {
    for _ in 0..1_000 {
        let page = client::get(program.admin, "/metrics").await;
        if String::from_utf8_lossy(&page.body).contains("larder_flights 0\n") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("a download does not end");
}

async fn get(program: &Program, path: &str, headers: &[(&str, &str)]) -> client::Reply {
    client::send(program.address, Method::GET, path, headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_to_an_image_can_be_read_from_the_log_alone() {
    let (upstream, directory) = (registry().await, tempfile::tempdir().unwrap());
    let program = program(directory.path(), &upstream, "format = \"json\"");
    let own = rustix::process::geteuid().as_raw();
    let manifest = get(&program, MANIFEST, &[client::ANONYMOUS]).await;
    let layer = upstream.put_blob("team/app", image::noise(300_000, 9));
    let path = format!("/v2/team/app/blobs/{layer}?ns=reg.test");
    assert!(get(&program, &path, &[client::ANONYMOUS]).await.is_well());
    settled(&program).await;
    assert!(get(&program, &path, &[client::ANONYMOUS, ("range", "bytes=0-99")]).await.is_well());
    let missing = get(&program, "/v2/team/app/manifests/v9?ns=reg.test", &[client::ANONYMOUS]).await;
    assert_eq!(missing.status, 404);
    let all = lines_with(&program, "\"v9\"").await;
    assert_eq!(all.len(), 4, "{all:#?}");
    let ids: Vec<u64> = all.iter().map(|line| line["fields"]["request"].as_u64().unwrap()).collect();
    assert!(ids.windows(2).all(|two| two[0] + 1 == two[1]), "a number that no line has: {ids:?}");
    for line in &all {
        let fields = &line["fields"];
        assert_eq!(line["level"], "INFO", "{line}");
        assert!(fields["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert_eq!(fields["user"], own, "{line}");
        assert_eq!(fields["host"], program.address.to_string(), "{line}");
        assert_eq!((&fields["repository"], &fields["method"]), (&"reg.test/team/app".into(), &"GET".into()));
        assert!(fields["duration_ms"].as_f64().unwrap() >= fields["first_byte_ms"].as_f64().unwrap());
    }
    let field = |n: usize, name: &str| all[n]["fields"][name].clone();
    let asked = format!("{}/v2", upstream.url());
    assert_eq!((field(0, "reference"), field(0, "source")), ("v1".into(), "fill".into()));
    assert_eq!(
        (field(0, "bytes"), field(0, "upstream")),
        (manifest.body.len().into(), asked.as_str().into())
    );
    assert_eq!((field(1, "source"), field(1, "bytes")), ("fill".into(), 300_000.into()));
    assert_eq!((field(1, "upstream"), field(1, "download")), (asked.as_str().into(), ids[1].into()));
    assert_eq!((field(2, "source"), field(2, "range")), ("hit".into(), "bytes=0-99".into()));
    assert_eq!(
        (field(2, "status"), field(2, "bytes"), field(2, "upstream")),
        (206.into(), 100.into(), Value::Null)
    );
    assert_eq!((field(3, "status"), field(3, "message")), (404.into(), "refused".into()));
    assert!(field(3, "reason").as_str().unwrap().contains("does not have"), "{:#?}", all[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_refusals_are_a_handful_of_lines_and_an_ordinary_challenge_is_no_failure() {
    let (upstream, directory) = (registry().await, tempfile::tempdir().unwrap());
    let program = program(directory.path(), &upstream, "format = \"json\"");
    for _ in 0..500 {
        assert_eq!(
            get(&program, "/v2/team/none/manifests/v1?ns=reg.test", &[client::ANONYMOUS]).await.status,
            404
        );
        assert_eq!(get(&program, "/v2/", &[]).await.status, 401);
    }
    assert!(get(&program, MANIFEST, &[client::ANONYMOUS]).await.is_well());
    let all = lines_with(&program, "\"served\"").await;
    assert!(all.len() <= 8, "{} lines", all.len());
    assert!(all.iter().all(|line| line["level"] == "INFO"), "{all:#?}");
    // What was folded is told at the stop.
    let stopped = program.stop("\"stopped\"").await;
    let repeated: u64 = lines(&stopped).iter().filter_map(|line| line["fields"]["repeated"].as_u64()).sum();
    assert_eq!(repeated, 2 * 497, "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_a_warning_and_a_body_that_ends_early_says_why() {
    let (upstream, directory) = (registry().await, tempfile::tempdir().unwrap());
    let program = program(directory.path(), &upstream, "format = \"json\"");
    let layer = upstream.put_blob("team/app", image::noise(1_000_000, 9));
    upstream.wrong_at("blobs", crate::support::fault::Fault::Corrupt);
    let path = format!("/v2/team/app/blobs/{layer}?ns=reg.test");
    assert!(!get(&program, &path, &[client::ANONYMOUS]).await.is_well());
    upstream.wrong_at("manifests", crate::support::fault::Fault::Status(503, Vec::new()));
    assert_eq!(get(&program, MANIFEST, &[client::ANONYMOUS]).await.status, 503);
    let all = lines_with(&program, "\"failed\"").await;
    assert!(all.iter().all(|line| line["level"] == "WARN"), "{all:#?}");
    assert_eq!(all[0]["fields"]["message"], "cut short");
    assert!(all.iter().all(|line| !line["fields"]["reason"].as_str().unwrap().is_empty()), "{all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_credential_nor_a_signed_query_gets_into_the_log_at_any_level() {
    let (upstream, directory) = (registry().await, tempfile::tempdir().unwrap());
    let program = program(directory.path(), &upstream, "level = \"trace\"\nformat = \"json\"");
    let layer = upstream.put_blob("team/app", image::noise(1_000, 9));
    let target = format!("{}/signed/x?X-Signature=marker-query", upstream.url());
    upstream.wrong_at("blobs", redirect(target));
    let basic = client::basic("marker-user", "marker-password");
    let path = format!("/v2/team/app/blobs/{layer}?ns=reg.test&token=marker-own-query");
    get(&program, &path, &[("authorization", basic.as_str())]).await;
    get(&program, MANIFEST, &[("authorization", "Bearer marker-token")]).await;
    get(&program, MANIFEST, &[("host", "evil.example\\nmarker"), ("authorization", basic.as_str())]).await;
    let log = program.wait_for("misdirected").await;
    let encoded = basic.trim_start_matches("Basic ");
    for secret in
        ["marker-query", "marker-password", "marker-token", "marker-own-query", "marker-user", encoded]
    {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(log.contains("\"name\":\"question\"") && log.contains("\"name\":\"download\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_machines_read_the_same_fields_and_the_key_switches_both_off() {
    let (upstream, directory) = (registry().await, tempfile::tempdir().unwrap());
    let text = program(directory.path(), &upstream, "");
    get(&text, MANIFEST, &[client::ANONYMOUS]).await;
    let line = text.wait_for("larder::access").await;
    for field in [
        "request=",
        "client=127.0.0.1:",
        "user=",
        "method=\"GET\"",
        "host=",
        "repository=reg.test/team/app",
        "reference=\"v1\"",
        "status=200",
        "source=\"fill\"",
        "upstream=",
        "bytes=",
        "first_byte_ms=",
        "duration_ms=",
    ] {
        assert!(line.contains(field), "{field}: {line}");
    }
    let url = upstream.url();
    let off = |access| {
        format!("[log]\naccess = {access}\n[[registry]]\nhost = \"reg.test\"\nendpoints = [\"{url}\"]\n")
    };
    text.write(&off(false));
    text.reload("was read again").await;
    get(&text, MANIFEST, &[client::ANONYMOUS]).await;
    text.write(&off(true));
    let again = text.reload("was read again").await;
    assert!(!again.contains("larder::access"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_no_request_and_what_it_misses_is_counted() {
    const REQUESTS: usize = 12_000;
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start_unread(directory.path(), "");
    let stream = TcpStream::connect(program.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..REQUESTS {
        let request = Request::get("/v2/")
            .header("host", program.address.to_string())
            .header("authorization", client::ANONYMOUS.1)
            .body(Empty::<Bytes>::new());
        sender.ready().await.unwrap();
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
    let page = client::get(program.admin, "/metrics").await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    let dropped = page.lines().find_map(|line| line.strip_prefix("larder_log_lines_dropped_total "));
    assert!(dropped.unwrap().parse::<f64>().unwrap() > 1_000.0, "{page}");
}
