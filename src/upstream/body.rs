//! Bodies from upstream: bounded in time, and whole ones also in size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use super::error::{ConnectStage, Error};
use super::transport::connect::innermost;
use crate::support::metrics::IntCounter;

/// Over each such window a body must bring at least [`RATE_MIN`] bytes a second; slower is a stall in disguise.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Bytes a second.
const RATE_MIN: u64 = 1024;

/// A blob on its way. Dropping it ends the transfer.
pub struct Download {
    /// Bytes of the whole blob, where upstream said so.
    pub size: Option<u64>,
    /// Where in the blob this body begins: what was asked for, or 0 if upstream ignored the range.
    pub offset: u64,
    /// Whether upstream wanted no credential for it.
    pub public: bool,
    pub(super) body: Incoming,
    pub(super) host: String,
    pub(super) idle: Duration,
    pub(super) received: IntCounter,
    pub(super) window: (Instant, u64),
    pub(super) returned: Option<Bytes>,
}

impl Download {
    /// The next bytes; `None` at the proper end of the body.
    ///
    /// # Errors
    /// [`Error::Unreachable`] at [`ConnectStage::Body`] when the body stalls, crawls or breaks off.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if let Some(bytes) = self.returned.take() {
            return Some(Ok(bytes));
        }
        loop {
            let frame = match timeout(self.idle, self.body.frame()).await {
                Err(_) => return Some(Err(self.broke_off(format!("nothing came for {:?}", self.idle)))),
                Ok(None) => return None,
                Ok(Some(Err(e))) => return Some(Err(self.broke_off(innermost(&e)))),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers say nothing that we use.
            let Ok(bytes) = frame.into_data() else { continue };
            self.received.inc_by(bytes.len() as u64);
            self.window.1 += bytes.len() as u64;
            let elapsed = self.window.0.elapsed();
            if elapsed >= RATE_WINDOW {
                if self.window.1 < RATE_MIN * elapsed.as_secs() {
                    return Some(Err(self.broke_off(format!("slower than {RATE_MIN} bytes a second"))));
                }
                self.window = (Instant::now(), 0);
            }
            return Some(Ok(bytes));
        }
    }

    /// Gives bytes back; they are the next ones.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.returned = Some(bytes);
    }

    fn broke_off(&self, why: String) -> Error {
        Error::Unreachable { host: self.host.clone(), step: ConnectStage::Body, why }
    }
}

/// All of a small body.
pub(super) async fn whole(
    mut body: Incoming,
    host: &str,
    limit: usize,
    idle: Duration,
    received: &IntCounter,
) -> Result<Bytes, Error> {
    let broke_off = |why: String| Error::Unreachable { host: host.to_owned(), step: ConnectStage::Body, why };
    let mut all = BytesMut::new();
    loop {
        match timeout(idle, body.frame()).await {
            Err(_) => return Err(broke_off(format!("nothing came for {idle:?}"))),
            Ok(None) => return Ok(all.freeze()),
            Ok(Some(Err(e))) => return Err(broke_off(innermost(&e))),
            Ok(Some(Ok(frame))) => {
                let Ok(bytes) = frame.into_data() else { continue };
                received.inc_by(bytes.len() as u64);
                if all.len() + bytes.len() > limit {
                    let why = format!("a body larger than {limit} bytes");
                    return Err(Error::Invalid { host: host.to_owned(), why });
                }
                all.extend_from_slice(&bytes);
            }
        }
    }
}

/// Reads the rest of a body that nobody wants, so that its connection can be used again; gives up early.
pub(super) async fn drain(mut body: Incoming) {
    const BYTES_MAX: usize = 64 * 1024;
    const WAIT: Duration = Duration::from_millis(500);
    let mut read = 0;
    let _ = timeout(WAIT, async {
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > BYTES_MAX {
                break;
            }
        }
    })
    .await;
}
