//! One segment of a blob: a connection that brings a part of it.
//!
//! Promises: what comes before those ahead of it are complete waits in memory, within the bounds of a segment; once it
//! is the first, nothing of it waits. Deliberately not here: which segments there are (`segments`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::concurrency::SEGMENT;
use super::piece_queue::Received;
use crate::pull::blob::places::Place;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::error::Error;
use crate::support::tasks::{AbortOnDropHandle, Tasks};

/// Chunks of a segment that wait in memory: those of a usual connection are larger than this expects, and a stranger
/// may send them with a byte each.
const CHUNKS_MAX: usize = SEGMENT as usize / 4096;

/// One connection with its segment, or a range that needs none.
pub(super) struct Segment {
    pub(super) source: SegmentSource,
    /// The first byte after it.
    until: u64,
    /// That of an extra connection, also once it is the first.
    _place: Option<Place>,
}

/// Where the bytes of a segment come from.
pub(super) enum SegmentSource {
    /// They come later than those of the segments before it, and wait until these are there.
    Ahead(Ahead),
    /// It is the first of those that are not complete: its body is read by the task that hands it on, and nothing
    /// waits.
    Front(Box<SourceBody>),
    /// They are in the file already.
    InFile,
    /// All were returned.
    Ended,
}

/// The task of a segment that is not the first.
pub(super) struct Ahead {
    pub(super) received: mpsc::Receiver<Bytes>,
    /// Its body, once it is the first; `None` if it has come whole.
    pub(super) task: AbortOnDropHandle<Result<Option<SourceBody>, Error>>,
    is_front: Arc<AtomicBool>,
}

/// Which of its blob's connections a segment is asked for over.
pub(super) enum Connection {
    /// The first: it waits for nothing, nothing of it waits in memory, and it needs no place.
    First,
    /// One more.
    Extra(Place),
}

impl Segment {
    /// What `body` brings up to `until`. What waits in memory is bounded by the segment, and [`CHUNKS_MAX`].
    pub(super) fn download(
        body: impl Future<Output = Result<SourceBody, Error>> + Send + 'static,
        until: u64,
        count: &Arc<AtomicU64>,
        connection: Connection,
        tasks: &Tasks,
    ) -> Self {
        let (out, received) = mpsc::channel(CHUNKS_MAX);
        let (is_first, place) = match connection {
            Connection::First => (true, None),
            Connection::Extra(place) => (false, Some(place)),
        };
        let (is_front, count) = (Arc::new(AtomicBool::new(is_first)), Arc::clone(count));
        let is_now_front = Arc::clone(&is_front);
        let task = AbortOnDropHandle::new(tasks.spawn(async move {
            let mut body = body.await?;
            while !is_now_front.load(Ordering::Acquire) {
                let Some(bytes) = next_of(&mut body, until, &count).await? else {
                    // Its connection is for the next segment.
                    body.finish().await;
                    return Ok(None);
                };
                if out.send(bytes).await.is_err() {
                    break;
                }
            }
            Ok(Some(body))
        }));
        Self { source: SegmentSource::Ahead(Ahead { received, task, is_front }), until, _place: place }
    }

    /// The rest of a body up to `until`, which is the first.
    pub(super) fn front(body: SourceBody, until: u64) -> Self {
        Self { source: SegmentSource::Front(Box::new(body)), until, _place: None }
    }

    /// Bytes that are in the file already.
    pub(super) fn in_file(until: u64) -> Self {
        Self { source: SegmentSource::InFile, until, _place: None }
    }

    /// What comes next of the first segment; `None` at its end.
    pub(super) async fn next(&mut self, count: &AtomicU64) -> Option<Result<Received, Error>> {
        loop {
            match &mut self.source {
                SegmentSource::Ahead(ahead) => {
                    ahead.is_front.store(true, Ordering::Release);
                    if let Some(bytes) = ahead.received.recv().await {
                        return Some(Ok(Received::Bytes(bytes)));
                    }
                    self.source = match (&mut ahead.task).await {
                        Ok(Ok(Some(body))) => SegmentSource::Front(Box::new(body)),
                        Ok(Ok(None)) => SegmentSource::Ended,
                        Ok(Err(error)) => return Some(Err(error)),
                        Err(ended) => return Some(Err(Error::task_ended("fetched a segment", &ended))),
                    };
                }
                SegmentSource::Front(body) => match next_of(body, self.until, count).await {
                    Ok(Some(bytes)) => return Some(Ok(Received::Bytes(bytes))),
                    Ok(None) => {
                        if let SegmentSource::Front(body) =
                            std::mem::replace(&mut self.source, SegmentSource::Ended)
                        {
                            body.finish().await;
                        }
                    }
                    Err(error) => return Some(Err(error)),
                },
                SegmentSource::InFile => {
                    self.source = SegmentSource::Ended;
                    return Some(Ok(Received::InFile(self.until)));
                }
                SegmentSource::Ended => return None,
            }
        }
    }
}

/// The next bytes of a body up to `until`; `None` if all of them have come.
async fn next_of(body: &mut SourceBody, until: u64, count: &AtomicU64) -> Result<Option<Bytes>, Error> {
    let at = body.at();
    if at >= until {
        return Ok(None);
    }
    let mut bytes = body.next().await.ok_or(Error::ShortBody { missing: until - at })??;
    bytes.truncate(usize::try_from(until - at).unwrap_or(usize::MAX));
    count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(Some(bytes))
}
