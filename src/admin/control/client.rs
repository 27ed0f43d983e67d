//! The program's own end of the control socket.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;

use super::commands::{Command, Pull};
use crate::prepull::Event;

/// Bytes of an answer at most: a list of a hundred thousand images.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a command may take.
const WAIT: Duration = Duration::from_secs(60);

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no daemon listens on {0}: is it running, and with the same configuration?")]
    NoDaemon(String),
    /// It is not ours to open.
    #[error("{0} may be opened by the daemon's own user only: try it as root")]
    Forbidden(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Sends a command to the daemon behind `socket`.
///
/// # Errors
/// [`ControlError`].
pub async fn send<C: Command>(socket: &Path, command: &C) -> Result<C::Answer, ControlError> {
    let refused = ControlError::Refused;
    let work = async {
        let response = ask(socket, C::PATH, command).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|e| refused(e.to_string()))
    };
    let done = tokio::time::timeout(WAIT, work).await;
    let body = done.map_err(|_| refused(format!("the daemon did not answer within {WAIT:?}")))??;
    serde_json::from_slice(&body).map_err(|_| refused("the daemon sent something unexpected".to_owned()))
}

/// Orders images, and hears what becomes of them until the end.
///
/// # Errors
/// [`ControlError`]; a stream that ends before its summary.
pub async fn pull(socket: &Path, command: &Pull, mut heard: impl FnMut(Event)) -> Result<(), ControlError> {
    let refused = |why: &str| ControlError::Refused(why.to_owned());
    let mut body = ask(socket, Pull::PATH, command).await?.into_body();
    let (mut buffer, mut ended) = (BytesMut::new(), false);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| refused("the daemon broke off: look at its log"))?;
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let event: Event =
                serde_json::from_slice(&line).map_err(|_| refused("the daemon sent something unexpected"))?;
            ended |= matches!(event, Event::Summary(_));
            heard(event);
        }
    }
    if ended { Ok(()) } else { Err(refused("the daemon stopped before it was done")) }
}

/// Bytes that are read and sent together.
const CHUNK: usize = 256 * 1024;

/// Sends `len` bytes to where parts of images are put.
///
/// # Errors
/// [`ControlError`].
pub async fn put(
    socket: &Path,
    path: &str,
    mut bytes: Box<dyn Read + Send>,
    len: u64,
) -> Result<(), ControlError> {
    let (queue, chunks) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(4);
    let reading = tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = BytesMut::zeroed(CHUNK);
            let read = match bytes.read(&mut chunk) {
                Ok(0) => return,
                Ok(read) => Ok(chunk.split_to(read).freeze()),
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if queue.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    let frames = futures_util::stream::unfold(chunks, |mut chunks| async {
        let next = chunks.recv().await?;
        Some((next.map(http_body::Frame::data), chunks))
    });
    let body = http_body_util::StreamBody::new(Box::pin(frames));
    let request = Request::put(path).header(http::header::CONTENT_LENGTH, len).body(body);
    let sent = exchange(socket, request.map_err(|e| ControlError::Refused(e.to_string()))?).await;
    let _ = reading.await;
    sent.map(drop)
}

/// Posts a command and waits for a yes.
async fn ask(
    socket: &Path,
    path: &str,
    command: &impl Serialize,
) -> Result<Response<Incoming>, ControlError> {
    let refused = ControlError::Refused;
    let body = serde_json::to_vec(command).map_err(|error| refused(error.to_string()))?;
    let request = Request::post(path).body(Full::new(Bytes::from(body)));
    exchange(socket, request.map_err(|e| refused(e.to_string()))?).await
}

/// Sends a request and waits for a yes.
async fn exchange<B>(socket: &Path, mut request: Request<B>) -> Result<Response<Incoming>, ControlError>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let refused = ControlError::Refused;
    let at = || socket.display().to_string();
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => ControlError::NoDaemon(at()),
        std::io::ErrorKind::PermissionDenied => ControlError::Forbidden(at()),
        _ => refused(format!("cannot connect to {}: {error}", at())),
    })?;
    let broken = |error: hyper::Error| refused(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("larder"));
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let said = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let said = said.map(|said| said.to_bytes()).unwrap_or_default();
    Err(refused(String::from_utf8_lossy(&said).trim().to_owned()))
}
