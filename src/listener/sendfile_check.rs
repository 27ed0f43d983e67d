//! The check at start whether the hyper of this build sends bytes of files as they are.
//!
//! `sendfile` relies on hyper never copying body bytes, which no interface of hyper promises. Before the first client
//! is served, one body of file ranges and bytes in memory goes through a connection over a socket pair and is compared
//! byte for byte; where a byte differs, or the check cannot be done, files are copied through memory instead.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::util::service_fn;

use super::body::{Body, BodyError};
use super::connection::{self, Common, DrainState};
use super::limits::ConnectionLimits;
use super::metrics::Metrics;
use super::send_buffer::SendBuffers;
use super::sendfile::{FILE_RANGE_BYTES_MAX, FileTransfer};
use super::socket::Socket;
use crate::support::body_chunk::{BodyChunk, FileRange};
use crate::support::shutdown;
use crate::support::tasks::Tasks;

/// How the body is cut, in bytes, over and over; every second chunk is one of the file.
const CUTS: [usize; 6] = [100, FILE_RANGE_BYTES_MAX, 1, 65_537, 40_000, 3];
/// Bytes of the body: more than a socket holds, so that writes are cut in the middle too.
const SIZE: usize = 1024 * 1024 + 17;
/// The check takes some milliseconds. A machine may be busy while it starts, and one that is not checked in this time
/// copies files until the next start: slower, and no reader ends for it.
const WAIT: Duration = Duration::from_secs(30);

/// The two ways in which hyper frames a body.
const PATHS: [&str; 2] = ["/length", "/chunked"];

/// Why files are copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// The check could not be done.
    #[error("the check could not be done: {0}")]
    Io(#[from] io::Error),
    /// The connection broke.
    #[error("the connection of the check failed: {0}")]
    Http(#[from] hyper::Error),
    /// The body ended early, or had too many bytes.
    #[error("the body of the check failed: {0}")]
    Body(BodyError),
    /// hyper copied the placeholder.
    #[error("other bytes arrived than were in the file: this hyper copies body bytes")]
    Differs,
    /// No answer within [`WAIT`].
    #[error("the check took longer than {WAIT:?}")]
    TimedOut,
}

/// How bytes of files can be sent; logged and shown in the metrics.
pub async fn file_transfer(metrics: &Metrics) -> FileTransfer {
    let common = Common {
        limits: ConnectionLimits::default(),
        transfer: FileTransfer::Sendfile,
        vectored: true,
        metrics: metrics.clone(),
        buffers: SendBuffers::default(),
        closing: Tasks::default(),
        drain: DrainState::default(),
    };
    let transfer = match compare(common).await {
        Ok(()) => FileTransfer::Sendfile,
        Err(error) => {
            tracing::warn!(%error, "sendfile is not used: bytes of files are copied through memory");
            FileTransfer::Copy
        }
    };
    metrics.show(transfer);
    transfer
}

/// Sends the body in both ways over one connection, and compares every byte.
pub(super) async fn compare(common: Common) -> Result<(), CheckError> {
    let content: Bytes = (0..SIZE).map(|at| (at / 251 + at % 241) as u8 | 1).collect();
    let file = Arc::new(in_memory(&content)?);
    let (ours, theirs) = UnixStream::pair()?;
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().map_err(io::Error::other)?;
    let expected = content.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut response = Response::new(Body::stream(stream::iter(chunks(&content, &file))));
        if request.uri().path() == PATHS[0] {
            response.headers_mut().insert(CONTENT_LENGTH, SIZE.into());
        }
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let (_trigger, shutdown) = shutdown::channel();
    let closing = common.closing.clone();
    let served = connection::serve(Socket::Unix(theirs), place, service, common, shutdown);
    let both = async { tokio::join!(served, ask(ours, &expected)).1 };
    let compared = tokio::time::timeout(WAIT, both).await.unwrap_or(Err(CheckError::TimedOut));
    closing.finish(WAIT).await;
    compared
}

async fn ask(stream: UnixStream, expected: &Bytes) -> Result<(), CheckError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asked = async move {
        for path in PATHS {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = http::Uri::from_static(path);
            let response = sender.send_request(request).await?;
            let body = Limited::new(response.into_body(), SIZE).collect().await.map_err(CheckError::Body)?;
            if body.to_bytes() != expected {
                return Err(CheckError::Differs);
            }
        }
        Ok(())
    };
    // The connection ends when the sender is dropped; an error of its own is the sender's too.
    tokio::join!(asked, connection).0
}

/// A file without a name that no disk has.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("larder", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}

fn chunks(content: &Bytes, file: &Arc<File>) -> Vec<Result<BodyChunk, BodyError>> {
    let (mut chunks, mut at) = (Vec::new(), 0);
    for (number, cut) in CUTS.iter().cycle().enumerate() {
        if at == SIZE {
            break;
        }
        let len = (*cut).min(SIZE - at);
        chunks.push(Ok(if number % 2 == 0 {
            BodyChunk::Memory(content.slice(at..at + len))
        } else {
            BodyChunk::File(FileRange {
                file: Arc::clone(file),
                offset: at as u64,
                len,
                compared_at: Instant::now(),
                check: None,
                refetch: None,
            })
        }));
        at += len;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::metrics::Registry;

    fn common(transfer: FileTransfer, vectored: bool) -> Common {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (limits, closing) = (ConnectionLimits::default(), Tasks::default());
        let (buffers, drain) = (SendBuffers::default(), DrainState::default());
        Common { limits, transfer, vectored, metrics, buffers, closing, drain }
    }

    #[tokio::test]
    async fn a_hyper_that_copies_body_bytes_sends_no_placeholder_to_any_client() {
        let compared = compare(common(FileTransfer::Sendfile, false)).await;
        assert!(matches!(compared, Err(CheckError::Differs)), "{compared:?}");
        compare(common(FileTransfer::Copy, false)).await.unwrap();
    }

    #[tokio::test]
    async fn this_hyper_copies_no_body_bytes_and_the_metric_says_so() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        assert_eq!(file_transfer(&metrics).await, FileTransfer::Sendfile);
        let page = String::from_utf8(registry.render().unwrap()).unwrap();
        assert!(
            page.contains("larder_sendfile_enabled 1") && page.contains("larder_connections 0"),
            "{page}"
        );
        compare(common(FileTransfer::Copy, true)).await.unwrap();
    }
}
