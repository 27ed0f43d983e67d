//! Answers that are not as they should be: what a fault makes of a proper one, and how its body leaves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::proper::status;
use super::{Asked, Body, Upstreams};
use crate::plan::FaultKind;

/// Bytes of one frame.
const FRAME: usize = 16 * 1024;

impl Upstreams {
    pub(super) fn wrong_or_right(&self, asked: &Asked, fault: Option<FaultKind>) -> Response<Bytes> {
        match fault {
            Some(FaultKind::Status(code)) => status(code),
            Some(FaultKind::TooMany(seconds)) => {
                let mut response = status(429);
                response.headers_mut().insert("retry-after", seconds.into());
                response
            }
            Some(FaultKind::Page) => {
                let mut response = Response::new(Bytes::from_static(b"<html><body>Sign in</body></html>"));
                response.headers_mut().insert("content-type", "text/html".parse().unwrap());
                response
            }
            Some(FaultKind::Nothing) => Response::new(Bytes::new()),
            Some(FaultKind::IgnoreRange) => self.proper(&Asked { range: None, ..asked.clone() }),
            Some(FaultKind::WrongRange) => {
                let mut response = self.proper(asked);
                if response.status() == 206 {
                    let mut bytes = response.body().to_vec();
                    bytes.rotate_left(1);
                    *response.body_mut() = bytes.into();
                }
                response
            }
            Some(FaultKind::OtherRange) => {
                let other = asked.range.as_deref().map(other_range);
                self.proper(&Asked { range: other, ..asked.clone() })
            }
            Some(FaultKind::NoDigest) => {
                let mut response = self.proper(asked);
                response.headers_mut().remove("docker-content-digest");
                response
            }
            Some(FaultKind::Corrupt) => {
                let mut response = self.proper(asked);
                if response.status().is_success() && !response.body().is_empty() {
                    let mut bytes = response.body().to_vec();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    *response.body_mut() = bytes.into();
                }
                response
            }
            _ => self.proper(asked),
        }
    }

    /// Gives a response its length and its body, whole or not.
    pub(super) fn send(
        &self,
        response: Response<Bytes>,
        head: bool,
        fault: Option<FaultKind>,
        sent: Arc<AtomicU64>,
    ) -> Response<Body> {
        let (mut parts, bytes) = response.into_parts();
        let success = parts.status.is_success();
        let mut length = Some(bytes.len() as i64);
        match fault {
            Some(FaultKind::Chunked) if success => length = None,
            Some(FaultKind::LengthOff(by)) if success => length = Some((bytes.len() as i64 + by).max(0)),
            _ => {}
        }
        if let Some(claimed) = parts.headers.remove("x-claimed") {
            parts.headers.insert("content-length", claimed);
        } else if let Some(length) = length {
            parts.headers.insert("content-length", length.into());
        }
        let body =
            if head { pieces(Bytes::new()).boxed() } else { self.paced(bytes, fault.filter(|_| success)) };
        let now = self.0.now.clone();
        let counted = body.map(move |frame| {
            now.stir();
            if let Ok(bytes) = &frame {
                sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            frame.map(Frame::data)
        });
        Response::from_parts(parts, StreamBody::new(counted).boxed_unsync())
    }

    fn paced(&self, bytes: Bytes, fault: Option<FaultKind>) -> stream::BoxStream<'static, io::Result<Bytes>> {
        let cut = |after: u64| bytes.slice(..(after as usize).min(bytes.len()));
        match fault {
            Some(FaultKind::CutAfter(after)) => {
                let end = stream::once(async {
                    // What was sent leaves before the connection ends.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(io::Error::other("cut on purpose"))
                });
                pieces(cut(after)).chain(end).boxed()
            }
            Some(FaultKind::StallAfter(after)) => pieces(cut(after)).chain(stream::pending()).boxed(),
            Some(FaultKind::LengthOff(by)) => {
                let len = (bytes.len() as i64 + by).max(0) as usize;
                if len <= bytes.len() {
                    pieces(bytes.slice(..len)).boxed()
                } else {
                    let end = stream::once(async { Err(io::Error::other("shorter than said")) });
                    pieces(bytes).chain(end).boxed()
                }
            }
            Some(FaultKind::Slow(count)) => slow_body(bytes, count.max(1) as usize, 10),
            // A hostile layer: a few bytes at a time, for two minutes.
            _ if bytes.len() == 120 => slow_body(bytes, 1, 1_000).chain(stream::pending()).boxed(),
            _ => pieces(bytes).boxed(),
        }
    }
}

/// A range that begins earlier; that of a whole body is as it was.
fn other_range(range: &str) -> String {
    let bounds = range.strip_prefix("bytes=").and_then(|bounds| bounds.split_once('-'));
    let Some((start, end)) = bounds else { return range.to_owned() };
    format!("bytes={}-{end}", start.parse::<u64>().unwrap_or(0) / 2)
}

fn pieces(bytes: Bytes) -> stream::Iter<std::vec::IntoIter<io::Result<Bytes>>> {
    let at = (0..bytes.len()).step_by(FRAME);
    stream::iter(at.map(|at| Ok(bytes.slice(at..(at + FRAME).min(bytes.len())))).collect::<Vec<_>>())
}

fn slow_body(bytes: Bytes, count: usize, every_ms: u64) -> stream::BoxStream<'static, io::Result<Bytes>> {
    let parts: Vec<Bytes> =
        (0..bytes.len()).step_by(count).map(|at| bytes.slice(at..(at + count).min(bytes.len()))).collect();
    let paced = stream::iter(parts).then(move |part| async move {
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        Ok(part)
    });
    paced.boxed()
}
