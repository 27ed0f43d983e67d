//! Waits of a listener, on a clock that stands still until nothing else is to be done.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::util::service_fn;

use super::*;
use crate::support::metrics::Registry;
use crate::support::shutdown;

const REQUEST: &[u8] = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n";

struct World {
    directory: tempfile::TempDir,
    trigger: shutdown::Trigger,
    running: JoinHandle<()>,
}

impl World {
    /// A listener whose service answers `/small` with two bytes and everything else without end.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (trigger, shutdown) = shutdown::channel();
        let listener = Listener::bind(&Listen::Unix(directory.path().join("s"))).unwrap();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let service = service_fn(|request: Request<Incoming>| async move {
            let body: Body = if request.uri().path() == "/small" {
                Body::full("ok")
            } else {
                Body::stream(stream::repeat_with(|| Ok(Bytes::from_static(&[0; 64 * 1024]).into())))
            };
            Ok::<_, Infallible>(Response::new(body))
        });
        let (limits, transfer) = (ConnectionLimits::default(), FileTransfer::Sendfile);
        let options = ConnectionOptions { limits, transfer, metrics };
        let running = tokio::spawn(run(listener, service, options, shutdown));
        Self { directory, trigger, running }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("s")).await.unwrap()
    }
}

/// Reads to the end and says how long after `since` that was.
async fn closed_after(stream: &mut UnixStream, since: Instant) -> Duration {
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
    since.elapsed()
}

fn about(found: Duration, expected: Duration) {
    assert!(found >= expected && found < expected + Duration::from_secs(5), "{found:?} and not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn half_a_head_and_a_dribbled_one_are_cut_off() {
    let world = World::new();
    let start = Instant::now();
    let mut half = world.connect().await;
    half.write_all(b"GET / HT").await.unwrap();
    about(closed_after(&mut half, start).await, ConnectionLimits::default().head_wait);

    let start = Instant::now();
    let (mut reading, mut writing) = world.connect().await.into_split();
    let dribble = tokio::spawn(async move {
        for byte in REQUEST.iter().cycle() {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut answer = Vec::new();
    reading.read_to_end(&mut answer).await.unwrap_or_default();
    about(start.elapsed(), ConnectionLimits::default().head_wait);
    assert!(answer.is_empty(), "a byte a second does not buy more time");
    dribble.abort();
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_idle_longer_than_a_head_may_take() {
    let world = World::new();
    let mut stream = world.connect().await;
    for _ in 0..3 {
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"));
        tokio::time::sleep(ConnectionLimits::default().idle_wait - Duration::from_secs(10)).await;
    }
    stream.write_all(REQUEST).await.unwrap();
    let _ = stream.read(&mut [0; 512]).await.unwrap();
    let start = Instant::now();
    about(closed_after(&mut stream, start).await, ConnectionLimits::default().idle_wait);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_let_go() {
    let world = World::new();
    let mut stream = world.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(ConnectionLimits::default().write_wait + Duration::from_secs(10)).await;
    let left = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap_or_default();
    assert!(left < 4 * 1024 * 1024, "what was under way, and no more: {left} bytes");
    drop(world.trigger);
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_no_task_behind_that_still_closes_a_socket() {
    let world = World::new();
    let mut stream = world.connect().await;
    stream.write_all(b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"ok"));
    stream.write_all(b"what is read out and thrown away").await.unwrap();
    world.trigger.fire();
    world.running.await.unwrap();
    let error = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "the socket is still open");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_stop_cuts_off_can_know_it_and_one_whose_client_leaves_does_not_take_it_for_that() {
    struct Dropped(DrainState, tokio::sync::mpsc::UnboundedSender<bool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.is_over());
        }
    }
    let (dropped, mut is_over) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let dropped = Dropped(request.extensions().get::<DrainState>().unwrap().clone(), dropped.clone());
        async move {
            let _dropped = dropped;
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let listener = Listener::bind(&Listen::Unix(directory.path().join("s"))).unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let options =
        ConnectionOptions { limits: ConnectionLimits::default(), transfer: FileTransfer::Sendfile, metrics };
    let running = tokio::spawn(run(listener, service, options, shutdown));
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut stream = UnixStream::connect(directory.path().join("s")).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        clients.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(clients.pop());
    assert_eq!(is_over.recv().await, Some(false), "its client left");
    trigger.fire();
    assert_eq!(is_over.recv().await, Some(true), "the drain time was over");
    running.await.unwrap();
}
