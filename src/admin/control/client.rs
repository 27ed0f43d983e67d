//! The program's own end of the control socket.

use std::error::Error as StdError;
use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::commands::{ControlCommand, Pull, PutOutcome};
use super::error::place;
use super::writes_often;
use crate::prepull::Event;

/// Bytes of a reply at most: a list of a hundred thousand images.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a blob that are read and sent together.
const CHUNK_BYTES: usize = 256 * 1024;
/// How long the head of an answer may take that comes before the work, since the last of what was sent for it.
const HEAD_WAIT: Duration = Duration::from_secs(60);

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon listens on the socket.
    #[error("no daemon listens on {}: is it running, and with the same configuration?", .0.display())]
    NoDaemon(PathBuf),
    /// The socket is not ours to open.
    #[error("{} may be opened by the daemon's own user only: try it as root", .0.display())]
    Forbidden(PathBuf),
    /// The daemon refused, or failed; its own text.
    #[error("{0}")]
    Refused(String),
    /// The socket cannot be connected to.
    #[error("cannot connect to {}: {source}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon broke off ({0}): look at its log")]
    BrokeOff(Box<dyn StdError + Send + Sync>),
    /// The command cannot be written.
    #[error("the command cannot be sent: {0}")]
    Unsendable(Box<dyn StdError + Send + Sync>),
    /// The reply cannot be read.
    #[error("the daemon sent something unexpected ({0}): is it of another version?")]
    Unexpected(String),
    /// No reply within the time that the command may take.
    #[error("the daemon did not answer within {0:?}: it hangs, and its log may say why")]
    TimedOut(Duration),
    /// Nothing more of a reply that was under way.
    #[error("the daemon has said nothing for {0:?}: it hangs, and its log may say why")]
    Silent(Duration),
    /// A stream of events without its summary.
    #[error("the daemon stopped before it was done")]
    Unfinished,
}

impl ControlError {
    /// Whether a daemon is there that does not answer.
    pub fn is_of_a_hanging_daemon(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Silent(_))
    }

    fn broke_off(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::BrokeOff(error.into())
    }

    fn unsendable(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unsendable(error.into())
    }

    fn unexpected(error: &serde_json::Error) -> Self {
        Self::Unexpected(place(error))
    }
}

/// Sends a command to the daemon behind `socket`.
///
/// # Errors
/// [`ControlError`].
pub async fn send<C: ControlCommand>(socket: &Path, command: &C) -> Result<C::Reply, ControlError> {
    let work = async {
        let response = post(socket, C::PATH, command).await?;
        let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
        Ok(body.map_err(ControlError::BrokeOff)?.to_bytes())
    };
    let body = tokio::time::timeout(C::WAIT, work).await.unwrap_or(Err(ControlError::TimedOut(C::WAIT)))?;
    serde_json::from_slice(&body).map_err(|error| ControlError::unexpected(&error))
}

/// Orders images, and hands each event on until the end.
///
/// # Errors
/// [`ControlError`]; a stream that ends before its summary.
pub async fn pull(
    socket: &Path,
    command: &Pull,
    mut on_event: impl FnMut(Event),
) -> Result<(), ControlError> {
    let posted = tokio::time::timeout(HEAD_WAIT, post(socket, Pull::PATH, command)).await;
    let response = posted.unwrap_or(Err(ControlError::TimedOut(HEAD_WAIT)))?;
    let silence_max = writes_often::silence_max(response.headers());
    let mut body = response.into_body();
    let (mut buffer, mut ended) = (BytesMut::new(), false);
    loop {
        let frame = tokio::time::timeout(silence_max, body.frame()).await;
        let Some(frame) = frame.map_err(|_| ControlError::Silent(silence_max))? else { break };
        let frame = frame.map_err(ControlError::broke_off)?;
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let event: Event =
                serde_json::from_slice(&line).map_err(|error| ControlError::unexpected(&error))?;
            ended |= matches!(event, Event::Summary(_));
            on_event(event);
        }
    }
    if ended { Ok(()) } else { Err(ControlError::Unfinished) }
}

/// Sends `len` bytes to where manifests and blobs of images are put.
///
/// # Errors
/// [`ControlError`].
pub async fn put(
    socket: &Path,
    path: &str,
    bytes: Box<dyn Read + Send>,
    len: u64,
) -> Result<(), ControlError> {
    let (sent, mut is_sent) = watch::channel(());
    let request = Request::put(path)
        .header(http::header::CONTENT_LENGTH, len)
        .header(writes_often::FIELD, "yes")
        .body(body_of(bytes, sent));
    let mut answer = Box::pin(exchange(socket, request.map_err(ControlError::unsendable)?));
    let response = loop {
        tokio::select! {
            response = &mut answer => break response?,
            Ok(()) = is_sent.changed() => {}
            () = tokio::time::sleep(HEAD_WAIT) => return Err(ControlError::TimedOut(HEAD_WAIT)),
        }
    };
    if !response.headers().contains_key(writes_often::FIELD) {
        // A daemon of an earlier version answers once it is done.
        return Ok(());
    }
    let said = said_often(response).await?;
    match serde_json::from_slice(&said) {
        Ok(PutOutcome::Stored) => Ok(()),
        Ok(PutOutcome::Refused(why)) => Err(ControlError::Refused(why)),
        Err(error) if error.is_eof() => Err(ControlError::Unfinished),
        Err(error) => Err(ControlError::unexpected(&error)),
    }
}

/// The bytes as the body of a request; `sent` is told of each chunk that is taken.
fn body_of(
    bytes: Box<dyn Read + Send>,
    sent: watch::Sender<()>,
) -> impl http_body::Body<Data = Bytes, Error = io::Error> + Send + Unpin {
    let frames = stream::unfold(Some((bytes, sent)), |rest| async {
        let (mut bytes, sent) = rest?;
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
            let read = bytes.read(&mut chunk)?;
            Ok((chunk.split_to(read).freeze(), bytes))
        });
        let read = read.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        sent.send_replace(());
        match read {
            Ok((chunk, _)) if chunk.is_empty() => None,
            Ok((chunk, bytes)) => Some((Ok(http_body::Frame::data(chunk)), Some((bytes, sent)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(Box::pin(frames))
}

/// What a daemon says in an answer that it writes to often.
async fn said_often(response: Response<Incoming>) -> Result<BytesMut, ControlError> {
    let silence_max = writes_often::silence_max(response.headers());
    let (mut body, mut said) = (Limited::new(response.into_body(), REPLY_BYTES_MAX), BytesMut::new());
    loop {
        let frame = tokio::time::timeout(silence_max, body.frame()).await;
        let Some(frame) = frame.map_err(|_| ControlError::Silent(silence_max))? else { return Ok(said) };
        said.extend_from_slice(&frame.map_err(ControlError::BrokeOff)?.into_data().unwrap_or_default());
    }
}

/// Posts a command; returns the response if it is 200.
async fn post(
    socket: &Path,
    path: &str,
    command: &impl Serialize,
) -> Result<Response<Incoming>, ControlError> {
    let body = serde_json::to_vec(command).map_err(ControlError::unsendable)?;
    let request = Request::post(path).body(Full::new(Bytes::from(body)));
    exchange(socket, request.map_err(ControlError::unsendable)?).await
}

/// Sends a request; returns the response if it is 200.
async fn exchange<B>(socket: &Path, mut request: Request<B>) -> Result<Response<Incoming>, ControlError>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NoDaemon(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => ControlError::Forbidden(socket.to_owned()),
        _ => ControlError::Connect { socket: socket.to_owned(), source },
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ControlError::broke_off)?;
    tokio::spawn(connection);
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("larder"));
    let response = sender.send_request(request).await.map_err(ControlError::broke_off)?;
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
    let text = body.map_err(ControlError::BrokeOff)?.to_bytes();
    Err(ControlError::Refused(String::from_utf8_lossy(&text).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    const HEAD: &str =
        "HTTP/1.1 200 OK\r\nlarder-writes-often: yes\r\ntransfer-encoding: chunked\r\n\r\n1\r\n \r\n";

    /// What is asked of a daemon comes to, if it says `said` and then hangs.
    async fn asked<T>(
        said: &str,
        ask: impl AsyncFnOnce(&Path) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("larder.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let hanging = async {
            // The kernel accepts for a process that is stopped.
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(said.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3_600)).await;
        };
        tokio::select! {
            done = ask(&socket) => done,
            () = hanging => panic!("it is waited for"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_does_not_wait_for_ever_for_a_daemon_that_hangs() {
        let command = Pull {
            images: Vec::new(),
            secrets: Vec::new(),
            platforms: Vec::new(),
            all_platforms: false,
            pin: false,
        };
        for said in ["", HEAD] {
            let error = asked(said, async |socket| pull(socket, &command, |_| {}).await).await.unwrap_err();
            assert!(error.is_of_a_hanging_daemon() && error.to_string().contains("hangs"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_import_does_not_wait_for_ever_for_a_daemon_that_hangs() {
        for said in ["", HEAD] {
            // Less and more than what a socket holds.
            for len in [1_000, 16 * 1024 * 1024] {
                let put = async |socket: &Path| {
                    let bytes = Box::new(io::Cursor::new(vec![7; len]));
                    put(socket, "/v1/import/blob", bytes, len as u64).await
                };
                let error = asked(said, put).await.unwrap_err();
                assert!(error.is_of_a_hanging_daemon() && error.to_string().contains("hangs"), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn an_import_that_is_refused_after_the_head_of_its_answer_is_not_taken_for_done() {
        for (said, expected) in [
            ("17\r\n{\"refused\":\"the disk.\"}\r\n0\r\n\r\n", Err("the disk.")),
            ("8\r\n\"stored\"\r\n0\r\n\r\n", Ok(())),
            ("0\r\n\r\n", Err("the daemon stopped before it was done")),
        ] {
            let put = async |socket: &Path| put(socket, "/", Box::new(io::Cursor::new(b"x")), 1).await;
            let done = asked(&format!("{HEAD}{said}"), put).await.map_err(|error| error.to_string());
            assert_eq!(done, expected.map_err(str::to_owned));
        }
    }
}
