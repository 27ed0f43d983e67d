//! Traces: what a collector gets, and that none is waited for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use http::Method;
use larder::reference::Digest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::program::Program;
use crate::support::client;
use crate::support::image;
use crate::support::registry::FakeRegistry;

const LAYER_BYTES: usize = 100_000;

/// A collector that keeps what it is sent.
struct Collector {
    url: String,
    status: Arc<AtomicU16>,
    got: Arc<Mutex<Got>>,
}

#[derive(Default)]
struct Got {
    spans: Vec<Span>,
    resource: Vec<KeyValue>,
    requests: usize,
    paths: Vec<String>,
    headers: String,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (status, got) = (Arc::new(AtomicU16::new(200)), Arc::new(Mutex::new(Got::default())));
        let (answered, kept) = (Arc::clone(&status), Arc::clone(&got));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (status, got) = (Arc::clone(&answered), Arc::clone(&kept));
                std::thread::spawn(move || answer(stream, &status, &got));
            }
        });
        Self { url, status, got }
    }

    /// The spans, once there is one that `wanted` says.
    async fn spans(&self, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        for _ in 0..1_000 {
            let spans = self.got.lock().unwrap().spans.clone();
            if wanted(&spans) {
                return spans;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{:#?}", self.got.lock().unwrap().spans);
    }
}

/// Keeps each request of a connection; status 0 is no answer.
fn answer(stream: TcpStream, status: &AtomicU16, got: &Mutex<Got>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (lines.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap()];
        lines.read_exact(&mut body).ok()?;
        let status = status.load(Ordering::SeqCst);
        let mut got = got.lock().unwrap();
        got.requests += 1;
        got.paths.push(head.split(' ').nth(1)?.to_owned());
        got.headers.push_str(&head);
        if status == 200 {
            for of in ExportTraceServiceRequest::decode(&*body).unwrap().resource_spans {
                got.resource = of.resource.unwrap().attributes;
                got.spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        drop(got);
        if status != 0 {
            write!(&stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").ok()?;
        } else {
            // Until the other end has gone.
            let _ = lines.read(&mut [0]);
            stream.shutdown(Shutdown::Both).ok()?;
        }
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone();
    match value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// A registry with an image, and the image's layer.
async fn upstream() -> (FakeRegistry, Digest) {
    let upstream = FakeRegistry::start().await;
    let image = image::push(&upstream, "team/app", "v1", LAYER_BYTES);
    (upstream, image.platforms[0].layers[0])
}

fn program(directory: &Path, upstream: &FakeRegistry, log: &str) -> Program {
    let lines =
        format!("[log]\n{log}\n[[registry]]\nhost = \"reg.test\"\nendpoints = [{:?}]\n", upstream.url());
    Program::start(directory, &lines)
}

async fn get(program: &Program, what: &str, headers: &[(&str, &str)]) -> u16 {
    let headers: Vec<_> = headers.iter().copied().chain([client::ANONYMOUS]).collect();
    let path = format!("/v2/team/app/{what}?ns=reg.test&key=marker-query");
    client::send(program.address, Method::GET, &path, &headers).await.status.as_u16()
}

async fn metric(program: &Program, name: &str) -> u64 {
    let page = client::get(program.admin, "/metrics").await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.unwrap_or_else(|| panic!("{name} in {page}")).parse::<f64>().unwrap() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_layer_is_followed_from_the_request_to_the_question_that_upstream_answered() {
    let ((upstream, layer), collector) = (upstream().await, Collector::start());
    let directory = tempfile::tempdir().unwrap();
    let log = format!("level = \"error\"\naccess = false\notlp = {:?}", collector.url);
    let program = program(directory.path(), &upstream, &log);
    let client_trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let blob = format!("blobs/{}", layer);
    assert_eq!(get(&program, "manifests/v1", &[]).await, 200);
    let traceparent = format!("00-{client_trace}-00f067aa0ba902b7-01");
    assert_eq!(get(&program, &blob, &[("traceparent", &traceparent)]).await, 200);
    assert_eq!(get(&program, "manifests/none", &[]).await, 404);

    let whole = |spans: &[Span]| named(spans, "request").len() == 3 && !named(spans, "download").is_empty();
    let spans = collector.spans(whole).await;
    let of_layer = |span: &&&Span| text(&span.attributes, "larder.reference") == Some(layer.to_string());
    let requests = named(&spans, "request");
    let request = *requests.iter().find(of_layer).unwrap();
    assert_eq!(text(&request.attributes, "http.response.status_code").unwrap(), "200");
    assert_eq!(text(&request.attributes, "larder.repository").unwrap(), "reg.test/team/app");
    let sent: usize = text(&request.attributes, "larder.bytes").unwrap().parse().unwrap();
    assert!(sent >= LAYER_BYTES, "{sent}");
    // What a client says is noted and decides nothing.
    assert_eq!(text(&request.attributes, "larder.client_trace").unwrap(), client_trace);
    assert_ne!(hex(&request.trace_id), client_trace);
    assert!(requests.iter().all(|request| request.parent_span_id.is_empty()), "{requests:#?}");
    let downloads = named(&spans, "download");
    let download = downloads
        .iter()
        .find(|download| text(&download.attributes, "larder.digest") == Some(layer.to_string()));
    let download = *download.unwrap();
    let questions = named(&spans, "question");
    let question = questions.iter().find(|span| span.parent_span_id == download.span_id).unwrap();
    assert_eq!(question.trace_id, download.trace_id);
    let asked = text(&question.attributes, "larder.path").unwrap();
    assert_eq!(asked, format!("blobs/{}", layer));
    // A 404 is an answer.
    assert!(spans.iter().all(|span| span.status.clone().unwrap_or_default().code != 2), "{spans:#?}");
    assert!(spans.iter().all(|span| span.events.is_empty()), "{spans:#?}");
    let got = collector.got.lock().unwrap();
    assert_eq!(text(&got.resource, "service.name").unwrap(), "larder");
    assert!(text(&got.resource, "host.name").is_some());
    assert!(got.paths.iter().all(|path| path == "/v1/traces"), "{:?}", got.paths);
    let all = format!("{spans:?} {}", got.headers);
    assert!(!all.contains("marker-query") && !all.contains("Og=="), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_have_its_requests_sampled() {
    let ((upstream, _), collector) = (upstream().await, Collector::start());
    let directory = tempfile::tempdir().unwrap();
    let log = format!("otlp = {:?}\notlp_sample = \"0%\"", collector.url);
    let program = program(directory.path(), &upstream, &log);
    let sampled = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    for _ in 0..50 {
        assert_eq!(get(&program, "manifests/v1", &[sampled]).await, 200);
    }
    program.stop("stopped").await;
    assert_eq!(collector.got.lock().unwrap().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_loses_no_span_of_a_collector_that_answers() {
    let ((upstream, _), collector) = (upstream().await, Collector::start());
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &upstream, &format!("otlp = {:?}", collector.url));
    for _ in 0..700 {
        assert_eq!(get(&program, "manifests/v1", &[]).await, 200);
    }
    program.stop("stopped").await;
    let got = collector.got.lock().unwrap();
    assert_eq!(named(&got.spans, "request").len(), 700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_told_once_and_holds_up_no_request() {
    let ((upstream, _), collector) = (upstream().await, Collector::start());
    collector.status.store(503, Ordering::SeqCst);
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &upstream, &format!("otlp = {:?}", collector.url));
    assert_eq!(get(&program, "manifests/v1", &[]).await, 200);
    let log = program.wait_for("does not take traces").await;
    assert!(log.contains("503"), "{log}");
    // More than the queue holds.
    for _ in 0..2_500 {
        assert_eq!(get(&program, "manifests/v1", &[]).await, 200);
    }
    assert!(metric(&program, "larder_trace_spans_dropped_total").await > 400);
    assert_eq!(metric(&program, "larder_trace_spans_delivered_total").await, 0);
    collector.status.store(200, Ordering::SeqCst);
    let log = program.wait_for("takes traces again").await;
    assert_eq!(log.matches("does not take traces").count(), 1, "{log}");
    assert!(metric(&program, "larder_trace_spans_delivered_total").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_does_not_keep_the_daemon_from_stopping() {
    let ((upstream, _), collector) = (upstream().await, Collector::start());
    collector.status.store(0, Ordering::SeqCst);
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &upstream, &format!("otlp = {:?}", collector.url));
    assert_eq!(get(&program, "manifests/v1", &[]).await, 200);
    let log = program.stop("stopped").await;
    assert!(log.contains("has not taken"), "{log}");
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
