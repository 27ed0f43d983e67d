//! Faults of an object store.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::super::fault::{Body, Fault, empty, finish};
use super::Op;

/// What the store does instead of its normal answer.
#[derive(Clone)]
pub enum Wrong {
    /// This status, with this code in S3's document; nothing is done.
    Refused(u16, &'static str),
    /// Done, and answered as a registry's [`Fault`] says.
    Answered(Fault),
    /// Done, and the connection ends without an answer.
    Lost,
    /// Neither done nor answered.
    Hang,
    /// The object as if it ended after so many bytes, with that length.
    Short(usize),
    /// The object as if so many bytes followed, with that length.
    Long(usize),
    /// These bytes, with 200; nothing is done.
    Page(&'static str),
}

impl Wrong {
    /// What S3 answers to those that ask too often.
    pub fn slow_down() -> Self {
        Self::Refused(503, "SlowDown")
    }

    pub fn denied() -> Self {
        Self::Refused(403, "AccessDenied")
    }

    pub fn broken() -> Self {
        Self::Refused(500, "InternalError")
    }
}

/// The answer; `proper` does what was asked and makes the normal one.
pub(super) async fn answer(
    proper: impl Future<Output = Response<Bytes>>,
    op: Op,
    wrong: Option<Wrong>,
) -> Response<Body> {
    let head = op == Op::Head;
    match wrong {
        None => finish(proper.await, head, None),
        Some(Wrong::Refused(status, code)) => {
            let text = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>"
            );
            let mut response = Response::new(Bytes::from(text));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("content-type", "application/xml".parse().unwrap());
            finish(response, head, None)
        }
        Some(Wrong::Answered(fault)) => finish(proper.await, head, Some(fault)),
        Some(Wrong::Lost) => {
            drop(proper.await);
            // A body that is cut off before its first byte.
            finish(Response::new(Bytes::from_static(b"lost")), false, Some(Fault::CloseAfter(0)))
        }
        Some(Wrong::Hang) => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            empty(StatusCode::GATEWAY_TIMEOUT)
        }
        Some(Wrong::Short(count)) => resized(proper.await, head, |bytes| bytes.truncate(count)),
        Some(Wrong::Long(count)) => {
            resized(proper.await, head, |bytes| bytes.extend(std::iter::repeat_n(b'x', count)))
        }
        Some(Wrong::Page(text)) => finish(Response::new(Bytes::from_static(text.as_bytes())), head, None),
    }
}

/// The answer about an object of another length.
fn resized(response: Response<Bytes>, head: bool, change: impl FnOnce(&mut Vec<u8>)) -> Response<Body> {
    let (mut parts, bytes) = response.into_parts();
    if parts.status.is_success() {
        let mut bytes = bytes.to_vec();
        if head {
            let length =
                parts.headers.get("content-length").and_then(|text| text.to_str().ok()?.parse().ok());
            bytes = vec![0; length.unwrap_or(0)];
        }
        change(&mut bytes);
        parts.headers.insert("content-length", bytes.len().into());
        return finish(Response::from_parts(parts, bytes.into()), head, None);
    }
    finish(Response::from_parts(parts, bytes), head, None)
}
