//! The bodies of blobs as the endpoints of the registry in memory send them, and what a test may make of them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::Semaphore;

use crate::upstream::{ConnectStage, Download, EndpointId, Error, ProvedRight};

/// Bytes of a blob as they come.
pub(crate) type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send + Sync>>;

/// What a test makes of a body of which these bytes are asked for.
pub(super) type Change = Arc<dyn Fn(AskedRange, Body) -> Body + Send + Sync>;

/// Which bytes of a blob are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedRange {
    pub(crate) from: u64,
    pub(crate) until: Option<u64>,
}

impl AskedRange {
    pub(crate) fn is_whole(self) -> bool {
        self.from == 0 && self.until.is_none()
    }

    /// The offset of the end of these bytes, of so many that there are.
    fn end(self, len: usize) -> usize {
        self.until.map_or(len, |until| len.min(until as usize))
    }
}

/// What the registry has of a blob: in chunks of 10,000 bytes, as the test changes them.
pub(super) fn body_of(bytes: &Bytes, asked: AskedRange, changes: &[Change]) -> Body {
    let asked_for = bytes.slice(asked.from as usize..asked.end(bytes.len()));
    let body: Body = Box::pin(stream::iter(chunks(&asked_for)));
    changes.iter().fold(body, |body, change| change(asked, body))
}

/// Whole bodies wait before each chunk after so many bytes, for a permit.
pub(super) fn held_after(bytes: usize, gate: Arc<Semaphore>) -> impl Fn(AskedRange, Body) -> Body {
    move |asked, body| {
        let (mut sent, gate) = (0, Arc::clone(&gate));
        if !asked.is_whole() {
            return body;
        }
        Box::pin(body.then(move |chunk| {
            sent += chunk.as_ref().map_or(0, Bytes::len);
            let gate = (sent > bytes).then(|| Arc::clone(&gate));
            async move {
                if let Some(gate) = gate
                    && let Ok(permit) = gate.acquire().await
                {
                    permit.forget();
                }
                chunk
            }
        }))
    }
}

/// How a body of this endpoint ends that breaks off.
pub(crate) fn broken_off(endpoint: &str) -> Error {
    let (host, stage) = (endpoint.to_owned(), ConnectStage::Body);
    Error::Unreachable { host, stage, why: "broken off".to_owned() }
}

/// A blob as a mirror has it.
#[derive(Debug, Clone)]
pub(crate) struct MirrorBody {
    /// Bytes of the blob, as it declares them.
    pub(crate) size: Option<u64>,
    pub(crate) bytes: Bytes,
    /// The offset at which each of its bodies breaks off.
    pub(crate) breaks_at: Option<usize>,
    /// How long each chunk of 10,000 bytes takes.
    pub(crate) chunk_takes: Duration,
}

impl MirrorBody {
    /// All of `bytes`, with their size.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { size: Some(bytes.len() as u64), bytes, breaks_at: None, chunk_takes: Duration::ZERO }
    }

    pub(super) fn download(&self, asked: AskedRange) -> Download {
        let (from, len) = (asked.from as usize, self.bytes.len());
        let until = asked.end(len).min(self.breaks_at.unwrap_or(len)).max(from);
        let mut chunks = chunks(&self.bytes.slice(from.min(len)..until));
        if self.breaks_at == Some(until) {
            chunks.push(Err(broken_off("mirror")));
        }
        let chunk_takes = self.chunk_takes;
        let paced = stream::iter(chunks).then(move |chunk| async move {
            tokio::time::sleep(chunk_takes).await;
            chunk
        });
        let endpoint = EndpointId::for_test("mirror");
        Download::new(self.size, asked.from, ProvedRight::Public, endpoint, Box::pin(paced))
    }
}

fn chunks(bytes: &Bytes) -> Vec<Result<Bytes, Error>> {
    bytes.chunks(10_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
}
