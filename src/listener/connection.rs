//! One connection from its first byte to its last.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tower::Service;

use super::sendfile::Outgoing;
use super::socket::Socket;
use super::timeouts::{Busy, Timed, close_gently};
use super::{Body, BodyError, Limits, Metrics};
use crate::support::body_chunk::BodyChunk;
use crate::support::metrics::IntGauge;
use crate::support::shutdown::Shutdown;

/// Bytes of a request head at most; hyper's least is 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a client that connected just before a stop may take to say what it wants.
const FIRST_WORD_WAIT: Duration = Duration::from_millis(500);
/// Fields of a request head at most.
const HEADERS_MAX: usize = 64;

/// Answers given without reading a request; the limit is not the client's fault, so it may come back soon.
fn too_many() -> String {
    let body = r#"{"errors":[{"code":"UNAVAILABLE","message":"too many connections to this cache"}]}"#;
    canned("503 Service Unavailable\r\nRetry-After: 1", "application/json", body)
}

/// A client configured for TLS that reads `HTTP/` in answer to its ClientHello falls back to plain HTTP.
fn not_tls() -> String {
    canned("400 Bad Request", "text/plain", "this port speaks plain HTTP without TLS\n")
}

fn canned(status: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// How a request reached us; an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverUnix;

/// Serves requests until either side has had enough.
pub(super) async fn serve<S>(
    socket: Socket,
    place: OwnedSemaphorePermit,
    service: S,
    limits: Limits,
    metrics: Metrics,
    mut shutdown: Shutdown,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let first = tokio::select! {
        // A client that has spoken already is answered, even during a stop.
        biased;
        first = tokio::time::timeout(limits.head_wait, socket.speaks_tls()) => first,
        first = stopping(&socket, &mut shutdown) => match first {
            Some(speaks_tls) => Ok(speaks_tls),
            None => return close_gently(socket).await,
        },
    };
    match first {
        Ok(false) => {}
        Ok(true) => {
            metrics.turn_away("tls");
            return say_and_close(socket, &not_tls()).await;
        }
        Err(_) => return,
    }
    let _counted = Counted::new(metrics.connections);
    let (busy, outgoing, unix) = (Busy::default(), Outgoing::default(), socket.is_unix());
    let io = TokioIo::new(Timed::new(socket, outgoing.clone(), place, busy.clone(), limits));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        busy.begin();
        if unix {
            request.extensions_mut().insert(OverUnix);
        }
        let (busy, outgoing, mut service) = (busy.clone(), outgoing.clone(), service.clone());
        async move {
            // Every service here is ready at once: admission is decided inside, with an answer.
            let _ = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            service.call(request).await.map(|response| response.map(|body| Tracked { body, busy, outgoing }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            // Body bytes are never copied: what stands for a part of a file must not be (see `outgoing`).
            .writev(true)
            // `Timed` bounds heads and idling, and knows one from the other.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(io, service)
    );
    let ended = tokio::select! {
        // First what the client has said already: hyper would not read it any more after being told to stop.
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Once a stop is asked for: the first word of a client that has just connected, who may be speaking already.
async fn stopping(socket: &Socket, shutdown: &mut Shutdown) -> Option<bool> {
    shutdown.requested().await;
    tokio::time::timeout(FIRST_WORD_WAIT, socket.speaks_tls()).await.ok()
}

/// Tells a client over the limit to go elsewhere.
pub(super) async fn turn_away(socket: Socket, _apology: OwnedSemaphorePermit) {
    say_and_close(socket, &too_many()).await;
}

/// Tells a user of this machine that it may not connect.
pub(super) async fn forbid(socket: Socket, _apology: OwnedSemaphorePermit) {
    let body = r#"{"errors":[{"code":"DENIED","message":"this cache admits certain local users only"}]}"#;
    say_and_close(socket, &canned("403 Forbidden", "application/json", body)).await;
}

async fn say_and_close(mut socket: Socket, text: &str) {
    let _ = socket.write_all(text.as_bytes()).await;
    close_gently(socket).await;
}

/// A connection in the gauge, until it is dropped however it ends.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A response body as hyper reads it; it ends the busy time of its connection.
struct Tracked {
    body: Body,
    busy: Busy,
    outgoing: Outgoing,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let bytes = match ready!(this.body.poll_next(cx)) {
            Some(Ok(BodyChunk::Memory(bytes))) => bytes,
            Some(Ok(BodyChunk::File(extent))) => this.outgoing.stand_in(extent)?,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.busy.end();
    }
}
