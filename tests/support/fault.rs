//! Faults of a registry, and the answers that make them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, LOCATION};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::Semaphore;

/// Bytes of one frame.
const PIECE: usize = 16 * 1024;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What the registry does instead of its normal answer.
#[derive(Clone)]
pub enum Fault {
    /// This status, with these headers and no body.
    Status(u16, Vec<(&'static str, String)>),
    /// This answer.
    Answer(u16, Vec<(&'static str, String)>, Bytes),
    /// No answer, ever.
    Hang,
    /// The normal answer, closed after this many body bytes.
    CloseAfter(usize),
    /// The normal answer, which stops after this many body bytes without closing.
    StallAfter(usize),
    /// The normal answer, but the bytes after this many wait for a permit.
    HoldAfter(usize, Arc<Semaphore>),
    /// The normal answer, with at most this many bytes each hundredth of a second.
    Slow(usize),
    /// A body of the right length with one wrong byte.
    Corrupt,
    /// The same, but the bytes after this many wait for a permit, so that a reader can have begun by then.
    CorruptAfter(usize, Arc<Semaphore>),
    /// A body of the right length whose last byte is wrong.
    DamagedEnd,
    /// The same, but the bytes after this many wait for a permit.
    DamagedEndAfter(usize, Arc<Semaphore>),
    /// The right bytes without a length.
    Chunked,
    /// The same, but the bytes after this many wait for a permit.
    ChunkedHoldAfter(usize, Arc<Semaphore>),
    /// The right bytes without a length, whatever range is asked for: the size is not said in any way.
    Unsized,
    /// The answer to the same request without `Range`.
    IgnoreRange,
}

pub(super) fn with<T>(mut response: Response<T>, headers: &[(&'static str, String)]) -> Response<T> {
    for (name, value) in headers {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Gives a response its length and its body, whole or damaged.
pub fn finish(response: Response<Bytes>, head: bool, fault: Option<Fault>) -> Response<Body> {
    let (mut parts, bytes) = response.into_parts();
    if !matches!(fault, Some(Fault::Chunked | Fault::ChunkedHoldAfter(..)))
        && !parts.headers.contains_key(CONTENT_LENGTH)
    {
        parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
    }
    let body = if head {
        Full::default().map_err(|never| match never {}).boxed_unsync()
    } else {
        body(bytes, fault)
    };
    Response::from_parts(parts, body)
}

fn ok(bytes: Bytes) -> std::io::Result<Frame<Bytes>> {
    Ok(Frame::data(bytes))
}

fn pieces(bytes: &Bytes) -> Vec<Bytes> {
    (0..bytes.len()).step_by(PIECE).map(|at| bytes.slice(at..(at + PIECE).min(bytes.len()))).collect()
}

fn corrupted(bytes: &Bytes) -> Bytes {
    let mut wrong = bytes.to_vec();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    wrong.into()
}

fn damaged_end(bytes: &Bytes) -> Bytes {
    let mut wrong = bytes.to_vec();
    if let Some(last) = wrong.last_mut() {
        *last ^= 1;
    }
    wrong.into()
}

fn held(bytes: &Bytes, count: usize, gate: Arc<Semaphore>) -> Body {
    // The requested range may be shorter.
    let count = count.min(bytes.len());
    let first = stream::iter(pieces(&bytes.slice(..count))).map(ok);
    let rest = bytes.slice(count..);
    let gated = stream::once(async move {
        gate.acquire().await.unwrap().forget();
        stream::iter(pieces(&rest)).map(ok)
    });
    StreamBody::new(first.chain(gated.flatten())).boxed_unsync()
}

fn body(bytes: Bytes, fault: Option<Fault>) -> Body {
    match fault {
        Some(Fault::CloseAfter(count)) => {
            let sent = stream::iter(pieces(&bytes.slice(..count.min(bytes.len())))).map(ok);
            // The pause lets the bytes that were sent leave before the connection is closed.
            let end = stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::other("closed on purpose"))
            });
            StreamBody::new(sent.chain(end)).boxed_unsync()
        }
        Some(Fault::StallAfter(count)) => {
            let sent = stream::iter(pieces(&bytes.slice(..count.min(bytes.len())))).map(ok);
            StreamBody::new(sent.chain(stream::pending())).boxed_unsync()
        }
        Some(Fault::HoldAfter(count, gate) | Fault::ChunkedHoldAfter(count, gate)) => {
            held(&bytes, count, gate)
        }
        Some(Fault::CorruptAfter(count, gate)) => held(&corrupted(&bytes), count, gate),
        Some(Fault::DamagedEndAfter(count, gate)) => held(&damaged_end(&bytes), count, gate),
        Some(Fault::DamagedEnd) => {
            StreamBody::new(stream::iter(pieces(&damaged_end(&bytes))).map(ok)).boxed_unsync()
        }
        Some(Fault::Slow(count)) => {
            let parts: Vec<Bytes> = (0..bytes.len())
                .step_by(count)
                .map(|at| bytes.slice(at..(at + count).min(bytes.len())))
                .collect();
            let paced = stream::iter(parts).then(move |part| async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                ok(part)
            });
            StreamBody::new(paced).boxed_unsync()
        }
        Some(Fault::Corrupt) => {
            StreamBody::new(stream::iter(pieces(&corrupted(&bytes))).map(ok)).boxed_unsync()
        }
        Some(Fault::Chunked) => StreamBody::new(stream::iter(pieces(&bytes)).map(ok)).boxed_unsync(),
        _ => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
    }
}

/// A redirect, for [`super::registry::FakeRegistry::wrong`].
pub fn redirect(to: String) -> Fault {
    Fault::Status(307, vec![(LOCATION.as_str(), to)])
}
