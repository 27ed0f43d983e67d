//! One connection from its first byte to its last.
//!
//! Promises: a connection that ends early ends with FIN, after what the client still sends was read for a while; a
//! client that stands still is left after the times of `timeouts`.
//!
//! Deliberately not here: how many connections there may be (`accept`), and what a request is answered with.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tower::Service;

use super::body::{Body, BodyError};
use super::host::OverUnix;
use super::limits::ConnectionLimits;
use super::metrics::{Metrics, TurnedAway};
use super::peer::Peer;
use super::send_buffer::SendBuffers;
use super::sendfile::{FileTransfer, Given, Outgoing};
use super::socket::Socket;
use super::timeouts::{Busy, Timed, close_gently};
use crate::support::body_chunk::{BodyChunk, Refetched};
use crate::support::shutdown::Shutdown;
use crate::support::tasks::Tasks;

/// Bytes of a request head at most; hyper's least is 8 KiB. Its fields are 100 at most, and more are answered with 431:
/// hyper's own bound, which is left unsaid, since a bound that is said makes it fill in room for as many each time.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a client that connected just before a stop, or over a limit, may take to send its first byte.
const FIRST_BYTE_WAIT: Duration = Duration::from_millis(500);
/// How long an idle connection stays open in a stop: a request that is on its way is answered. As long as a listener
/// that closes still accepts, so that a stop takes no longer for it.
const LAST_REQUEST_WAIT: Duration = Duration::from_millis(50);

/// A service that connections can hand their requests to. Every error is an answer.
pub trait HttpService:
    Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> HttpService for S where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What the connections of one listener have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) limits: ConnectionLimits,
    pub(super) transfer: FileTransfer,
    /// Whether hyper is to write without copying body bytes; always, except in a test of what happens otherwise.
    pub(super) vectored: bool,
    pub(super) metrics: Metrics,
    /// The large send buffers of the listener.
    pub(super) buffers: SendBuffers,
    /// Sockets that are being closed gently.
    pub(super) closing: Tasks,
    pub(super) drain: DrainState,
}

/// Whether the drain time of a stop is over, so that the connections that are left are closed. Every request has it
/// among its extensions: what becomes of one at that moment is no deed of its client.
#[derive(Debug, Clone, Default)]
pub struct DrainState(Arc<AtomicBool>);

impl DrainState {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It is over now.
    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves requests until the client closes, a wait is over, or a stop has let the client finish.
pub(super) async fn serve(
    socket: Socket,
    place: OwnedSemaphorePermit,
    service: impl HttpService,
    common: Common,
    mut shutdown: Shutdown,
) {
    let first = tokio::select! {
        // A client that has sent something already is answered, even during a stop.
        biased;
        first = first_byte(&socket, common.limits.head_wait) => first,
        first = first_byte_in_a_stop(&socket, &mut shutdown) => first,
    };
    match first {
        FirstByte::Other => {}
        FirstByte::OfTls => {
            common.metrics.count_turned_away(TurnedAway::Tls);
            return answer_and_close(socket, &not_tls()).await;
        }
        // What the client sends at this moment is read, so that it is not reset.
        FirstByte::None => return close_gently(socket).await,
    }
    let _counted = common.metrics.open();
    let (busy, outgoing) = (Busy::default(), Outgoing::new(common.transfer, common.buffers.of_socket()));
    let client = Client { peer: Peer::of(&socket), is_unix: socket.is_unix(), drain: common.drain.clone() };
    let service = tracked(service, client, busy.clone(), outgoing.clone());
    let io = TokioIo::new(Timed::new(socket, outgoing, place, busy, common.limits, common.closing));
    let mut connection = pin!(
        http1::Builder::new()
            // Body bytes must never be copied: they may be a placeholder (see `sendfile`).
            .writev(common.vectored)
            // `Timed` bounds heads and idling, and distinguishes them.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service)
    );
    let ended = tokio::select! {
        // First what the client has sent already: hyper would not read it any more after being told to stop.
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => match tokio::time::timeout(LAST_REQUEST_WAIT, connection.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Answers a client over the limit, so that it comes back. The limit is not the client's fault, so it may come back
/// soon.
pub(super) async fn turn_away(socket: Socket, _refusal: OwnedSemaphorePermit) {
    let body = r#"{"errors":[{"code":"UNAVAILABLE","message":"too many connections to this cache"}]}"#;
    let answer = canned("503 Service Unavailable\r\nRetry-After: 1", "application/json", body);
    answer_a_question_and_close(socket, &answer).await;
}

/// Answers a user of this machine that may not connect.
pub(super) async fn forbid(socket: Socket, _refusal: OwnedSemaphorePermit) {
    let body = r#"{"errors":[{"code":"DENIED","message":"this cache admits certain local users only"}]}"#;
    answer_a_question_and_close(socket, &canned("403 Forbidden", "application/json", body)).await;
}

/// Who is at the other end of a connection.
struct Client {
    peer: Peer,
    /// Whether it came over a Unix socket.
    is_unix: bool,
    drain: DrainState,
}

/// The service as hyper calls it: it marks the connection as busy, and gives hyper bytes or placeholders.
fn tracked(
    service: impl HttpService,
    client: Client,
    busy: Busy,
    outgoing: Outgoing,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<TrackedBody>,
    Error = Infallible,
    Future: Send + 'static,
> {
    hyper::service::service_fn(move |mut request: Request<Incoming>| {
        busy.begin();
        request.extensions_mut().insert(client.peer.clone());
        request.extensions_mut().insert(client.drain.clone());
        if client.is_unix {
            request.extensions_mut().insert(OverUnix);
        }
        let (busy, outgoing, mut service) = (busy.clone(), outgoing.clone(), service.clone());
        async move {
            // Every service here is ready at once: admission is decided inside, with an answer.
            let _ = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let answered = service.call(request).await;
            answered.map(|response| {
                let left = content_length(&response);
                response.map(|body| TrackedBody { body, left, busy, outgoing, coming: None })
            })
        }
    })
}

/// How a client begins.
enum FirstByte {
    /// With a TLS hello.
    OfTls,
    /// With something else.
    Other,
    /// Not in time.
    None,
}

/// The first byte of a client that sends it within `wait`.
async fn first_byte(socket: &Socket, wait: Duration) -> FirstByte {
    match tokio::time::timeout(wait, socket.speaks_tls()).await {
        Ok(true) => FirstByte::OfTls,
        Ok(false) => FirstByte::Other,
        Err(_) => FirstByte::None,
    }
}

/// Once a stop is asked for: the first byte of a client that has just connected.
async fn first_byte_in_a_stop(socket: &Socket, shutdown: &mut Shutdown) -> FirstByte {
    shutdown.requested().await;
    first_byte(socket, FIRST_BYTE_WAIT).await
}

/// The length of the body that the head of a response promises.
fn content_length<B>(response: &Response<B>) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A client configured for TLS that reads `HTTP/` in answer to its ClientHello falls back to plain HTTP.
fn not_tls() -> String {
    canned("400 Bad Request", "text/plain", "this port speaks plain HTTP without TLS\n")
}

/// An answer that is given without reading a request.
fn canned(status: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Answers once the client has begun to ask: some take what comes before that for a broken connection. One that sends
/// nothing is answered after a moment.
async fn answer_a_question_and_close(socket: Socket, text: &str) {
    first_byte(&socket, FIRST_BYTE_WAIT).await;
    answer_and_close(socket, text).await;
}

async fn answer_and_close(mut socket: Socket, text: &str) {
    let _ = socket.write_all(text.as_bytes()).await;
    close_gently(socket).await;
}

/// A response body as hyper reads it; its end is the end of the connection's busy time.
struct TrackedBody {
    body: Body,
    /// Bytes that its head promises and that hyper has not been given; `None` where the head promises no number.
    left: Option<u64>,
    busy: Busy,
    outgoing: Outgoing,
    /// So many bytes, which a file did not give, on their way from elsewhere.
    coming: Option<(usize, Refetched)>,
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.coming.is_none() {
            let chunk = match ready!(this.body.poll_next(cx)) {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            let len = chunk.len();
            this.left = this.left.map(|left| left.saturating_sub(len as u64));
            let given = match chunk {
                BodyChunk::Memory(bytes) => Given::Now(bytes),
                BodyChunk::File(range) => this.outgoing.bytes_for(range, this.left)?,
            };
            match given {
                Given::Now(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Given::Later(coming) => this.coming = Some((len, coming)),
            }
        }
        let Some((len, coming)) = &mut this.coming else { return Poll::Ready(None) };
        let (came, len) = (ready!(coming.as_mut().poll(cx)), *len);
        this.coming = None;
        let bytes = came.filter(|bytes| bytes.len() == len);
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        Poll::Ready(Some(bytes.map(Frame::data).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.busy.end();
    }
}
