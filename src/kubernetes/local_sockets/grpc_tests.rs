//! The clients of local sockets against a gRPC server of the tests' own: kubelet's PodsAPI and a runtime's image
//! service.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::grpc::LocalError;
use super::image_service::{ImageFound, ImageService, ImageStatusRequest, ImageStatusResponse};
use super::pod_message::{Container, Metadata, PodMessage, Spec, Time};
use super::pods_api::{ANSWER_BYTES_MAX, Listed, PodsApi, Watched};
use crate::kubernetes::source::{ImagePresence, PodEvent, PodSource};
use crate::support::shutdown;

/// What the server answers to one path.
#[derive(Clone)]
enum Answer {
    Messages(Vec<Bytes>),
    /// The messages, and the stream stays.
    Stays(Vec<Bytes>),
    /// As that, once there is a permit.
    Once(Arc<Semaphore>, Vec<Bytes>),
    Status(u32),
    Hang,
}

type Answers = Arc<Mutex<HashMap<&'static str, Answer>>>;

struct Server {
    socket: PathBuf,
    answers: Answers,
    asked: Arc<Mutex<Vec<(String, Bytes)>>>,
    running: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Server {
    fn start(answers: &[(&'static str, Answer)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answers: Answers = Arc::new(Mutex::new(answers.iter().cloned().collect()));
        let asked = Arc::default();
        let running = tokio::spawn(serve(listener, Arc::clone(&answers), Arc::clone(&asked)));
        Self { socket, answers, asked, running, _directory: directory }
    }
}

async fn serve(listener: UnixListener, answers: Answers, asked: Arc<Mutex<Vec<(String, Bytes)>>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
        let service = service_fn(move |request: Request<Incoming>| {
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
            async move {
                let path = request.uri().path().to_owned();
                assert_eq!(request.uri().authority().unwrap(), "localhost");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                asked.lock().unwrap().push((path.clone(), body.slice(5..)));
                let answer = answers.lock().unwrap().get(path.as_str()).cloned();
                Ok::<_, Infallible>(answered(answer.unwrap_or(Answer::Status(12))).await)
            }
        });
        connections.spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answered(answer: Answer) -> Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>> {
    let (messages, stays, status) = match answer {
        Answer::Messages(messages) => (messages, false, 0),
        Answer::Stays(messages) => (messages, true, 0),
        Answer::Once(gate, messages) => {
            gate.acquire().await.unwrap().forget();
            (messages, true, 0)
        }
        Answer::Status(status) => (Vec::new(), false, status),
        Answer::Hang => std::future::pending().await,
    };
    let frames = messages.into_iter().map(|message| {
        let mut frame = BytesMut::from(&[0_u8][..]);
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&message);
        Ok(Frame::data(frame.freeze()))
    });
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.into())]);
    let end = futures_util::stream::once(async move {
        if stays {
            std::future::pending::<()>().await;
        }
        Ok(Frame::trailers(trailers))
    });
    let body = StreamBody::new(futures_util::stream::iter(frames).chain(end)).boxed_unsync();
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn pod(uid: &str, image: &str) -> Bytes {
    let message = PodMessage {
        metadata: Some(Metadata {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            uid: uid.to_owned(),
            created: Some(Time { seconds: 7 }),
            deleted: None,
        }),
        spec: Some(Spec {
            containers: vec![Container {
                name: "app".to_owned(),
                image: image.to_owned(),
                policy: String::new(),
            }],
            ..Spec::default()
        }),
        status: None,
    };
    message.encode_to_vec().into()
}

const LIST: &str = "/v1alpha1.Pods/ListPods";
const WATCH: &str = "/v1alpha1.Pods/WatchPods";
const STATUS: &str = "/runtime.v1.ImageService/ImageStatus";

fn listed(pods: &[Bytes]) -> Answer {
    Answer::Messages(vec![Listed { pods: pods.to_vec() }.encode_to_vec().into()])
}

fn watched(events: &[(i32, Bytes)]) -> Vec<Bytes> {
    events
        .iter()
        .map(|(kind, pod)| Watched { kind: *kind, pod: pod.clone() }.encode_to_vec().into())
        .collect()
}

fn told(event: PodEvent) -> String {
    match event {
        PodEvent::ListBegins => "begins".to_owned(),
        PodEvent::ListEnds => "ends".to_owned(),
        PodEvent::Applied(pod) => format!("{} {}", pod.uid, pod.images[0].image),
        PodEvent::Deleted { uid } => format!("{uid} deleted"),
        PodEvent::Lost(why) => format!("lost: {why}"),
        PodEvent::Resumed => "resumed".to_owned(),
    }
}

/// The first events that a source tells.
async fn first(socket: &Path, count: usize) -> Vec<String> {
    let (sender, mut receiver) = mpsc::channel(16);
    let (_trigger, shutdown) = shutdown::channel();
    let source = PodsApi::new(socket.to_owned());
    let running = tokio::spawn(async move { source.run(sender, shutdown).await });
    let mut events = Vec::new();
    while events.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await;
        events.push(told(event.unwrap().unwrap()));
    }
    drop(receiver);
    // It ends with its reader, not only with the daemon.
    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
    events
}

#[tokio::test]
async fn a_pod_that_kubelet_lists_or_tells_of_is_seen_with_its_images() {
    let events = watched(&[(0, pod("b", "two:v1")), (1, pod("b", "three:v1")), (2, pod("b", "three:v1"))]);
    let server = Server::start(&[(LIST, listed(&[pod("a", "one:v1")])), (WATCH, Answer::Stays(events))]);
    let mut seen = first(&server.socket, 6).await;
    seen.sort();
    let name = |rest: &str| format!("docker.io/library/{rest}");
    let expected = [
        format!("a {}", name("one:v1")),
        "b deleted".to_owned(),
        format!("b {}", name("three:v1")),
        format!("b {}", name("two:v1")),
        "begins".to_owned(),
        "ends".to_owned(),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_kubelet_that_says_nothing_until_a_pod_changes_is_listed_all_the_same() {
    let server = Server::start(&[(LIST, listed(&[pod("a", "one:v1")])), (WATCH, Answer::Hang)]);
    assert_eq!(first(&server.socket, 3).await, ["begins", "a docker.io/library/one:v1", "ends"]);
}

#[tokio::test]
async fn a_kubelet_without_the_interface_is_lost_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let absent = first(&directory.path().join("none.sock"), 2).await;
    assert_eq!(absent, ["lost: there is no such socket"; 2]);
    let other = Server::start(&[]);
    assert!(first(&other.socket, 1).await[0].starts_with("lost: the server says Unimplemented"));
    let ended = Server::start(&[(LIST, listed(&[])), (WATCH, Answer::Messages(Vec::new()))]);
    let seen = first(&ended.socket, 4).await;
    assert!(seen.iter().any(|event| event.starts_with("lost: ")), "{seen:?}");
}

#[tokio::test]
async fn an_event_that_is_no_pod_ends_the_watch_and_not_the_daemon() {
    let no_pod = watched(&[(0, Bytes::from_static(b"\xff\xff\xff"))]);
    let server = Server::start(&[(LIST, listed(&[])), (WATCH, Answer::Stays(no_pod))]);
    let seen = first(&server.socket, 3).await;
    assert!(seen.contains(&"lost: the server says Ok: an event is no pod".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn a_list_that_is_larger_than_its_bound_is_refused_and_not_kept_in_memory() {
    let huge = Bytes::from(vec![0_u8; ANSWER_BYTES_MAX + 1]);
    let server = Server::start(&[(LIST, Answer::Messages(vec![huge])), (WATCH, Answer::Hang)]);
    assert!(first(&server.socket, 1).await[0].starts_with("lost: its answer is too large: "));
}

#[tokio::test]
async fn a_tenant_whose_pods_make_the_list_too_large_hides_no_other_pod_that_changes() {
    let huge = Bytes::from(vec![0_u8; ANSWER_BYTES_MAX + 1]);
    let events = watched(&[(0, pod("b", "two:v1")), (2, pod("b", "two:v1"))]);
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start(&[
        (LIST, Answer::Messages(vec![huge])),
        (WATCH, Answer::Once(Arc::clone(&gate), events)),
    ]);
    let (sender, mut receiver) = mpsc::channel(16);
    let (_trigger, shutdown) = shutdown::channel();
    let source = PodsApi::new(server.socket.clone());
    let running = tokio::spawn(async move { source.run(sender, shutdown).await });
    let mut next = async || {
        let event = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await;
        told(event.expect("it tells something").unwrap())
    };
    let lost = next().await;
    assert!(lost.starts_with("lost: ") && lost.ends_with("only pods that change are seen"), "{lost}");
    gate.add_permits(1);
    assert_eq!([next().await, next().await], ["b docker.io/library/two:v1", "b deleted"]);
    let asked = server.asked.lock().unwrap().iter().filter(|(path, _)| path == WATCH).count();
    assert_eq!(asked, 1, "the watch goes on");
    running.abort();
}

#[tokio::test]
async fn only_the_runtimes_own_yes_says_that_it_has_an_image() {
    let found = |id: &str| {
        let image = Some(ImageFound { id: id.to_owned() });
        Answer::Messages(vec![ImageStatusResponse { image }.encode_to_vec().into()])
    };
    let image = "nginx".parse().unwrap();
    let server = Server::start(&[(STATUS, found("sha256:1"))]);
    let service = ImageService::new(server.socket.clone());
    assert!(service.has(&image).await);
    let question = ImageStatusRequest::decode(server.asked.lock().unwrap()[0].1.clone()).unwrap();
    assert_eq!(question.image.unwrap().image, "docker.io/library/nginx:latest");
    let none = Answer::Messages(vec![Bytes::new()]);
    for (answer, refused) in
        [(none, false), (found(""), false), (Answer::Status(7), true), (Answer::Hang, true)]
    {
        server.answers.lock().unwrap().insert(STATUS, answer);
        let service = ImageService::new(server.socket.clone());
        assert!(!service.has(&image).await);
        assert_eq!(service.status(&image).await.is_err(), refused);
    }
}

#[tokio::test]
async fn a_runtime_that_does_not_answer_holds_up_the_first_image_of_a_pod_alone() {
    let server = Server::start(&[(STATUS, Answer::Hang)]);
    let service = ImageService::new(server.socket.clone());
    for _ in 0..10 {
        assert!(!service.has(&"nginx".parse().unwrap()).await);
    }
    assert_eq!(server.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_runtime_that_the_daemon_may_not_ask_is_told_until_it_answers() {
    let image = "nginx".parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("containerd.sock");
    let absent = ImageService::new(socket.clone());
    assert_eq!(absent.problem(), None, "it was not asked");
    assert!(!absent.has(&image).await);
    assert!(absent.problem().unwrap().starts_with(&socket.display().to_string()));
    let server = Server::start(&[(STATUS, Answer::Status(7))]);
    let service = ImageService::new(server.socket.clone());
    assert!(!service.has(&image).await && service.problem().is_some());
    server.answers.lock().unwrap().insert(STATUS, Answer::Messages(vec![Bytes::new()]));
    assert!(!service.has(&image).await && service.problem().is_some(), "it is not asked yet");
    tokio::time::pause();
    assert!(service.problem().unwrap().ends_with(" (asked last 0s ago)"), "{:?}", service.problem());
    tokio::time::advance(std::time::Duration::from_secs(3 * 3_600 + 125)).await;
    let said = service.problem().unwrap();
    assert!(said.ends_with(" (asked last 3h 2m ago)"), "it is well, and nothing asked it: {said}");
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    tokio::time::resume();
    assert!(!service.has(&image).await);
    assert_eq!(service.problem(), None);
}

#[tokio::test]
async fn a_socket_that_is_absent_closed_or_anothers_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let image = "nginx".parse().unwrap();
    let status = async || ImageService::new(path.clone()).status(&image).await;
    assert!(matches!(status().await, Err(LocalError::Absent)));
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(status().await, Err(LocalError::Connect(_))));
    std::fs::remove_file(&path).unwrap();
    // A server of HTTP/1, and one that says nothing at all.
    let listener = UnixListener::bind(&path).unwrap();
    let speaking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let silent = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop((stream, silent));
    });
    assert!(status().await.is_err());
    assert!(status().await.is_err());
    speaking.abort();
}
