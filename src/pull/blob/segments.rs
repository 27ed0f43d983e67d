//! A segmented download: several upstream connections for one blob, each with a segment of it.
//!
//! What arrives early waits in memory, and everything is handed on in order, so that storing, hashing and following
//! know nothing of segments. How many connections there are is decided in [`super::concurrency`].
//!
//! Promises: at most [`EXTRA_MAX`] connections more than one for all blobs together; at most [`SEGMENT`] bytes of
//! memory for each of these, and [`CHUNKS_OF_FIRST`] chunks for the one that each blob has in any case; no byte is
//! asked for twice, except what is on its way when the first connection is given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::concurrency::{Concurrency, PERIOD, SEGMENT};
use super::delivery::Trail;
use super::flight::Flight;
use super::piece_queue::{PieceSender, Received};
use super::priority::Foreground;
use super::source::UpstreamBlobs;
use super::upstream_body::UpstreamBody;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::metrics::Metrics;
use crate::reference::Digest;
use crate::store::GrowingBlob;
use crate::support::tasks::Tasks;

/// Connections beside the first, for all blobs together.
const EXTRA_MAX: usize = 16;
/// Chunks of a segment without a permit that wait in memory: there may be one for each download, and it is the next to
/// be handed on.
const CHUNKS_OF_FIRST: usize = 8;
/// Bytes that readers have fetched out of order must be this many: skipping them costs a new connection.
const SKIP_MIN: u64 = 1024 * 1024;

/// Opens segments of blobs, within the bound for all blobs together. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Segments {
    blobs: UpstreamBlobs,
    extra_connections: Arc<Semaphore>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Segments {
    pub(crate) fn new(blobs: UpstreamBlobs, tasks: Tasks, metrics: Arc<Metrics>) -> Self {
        Self { blobs, extra_connections: Arc::new(Semaphore::new(EXTRA_MAX)), tasks, metrics }
    }

    /// A permit for one more connection, if one is left.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.extra_connections).try_acquire_owned().ok()
    }

    /// The tasks that segments run on.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A segment from upstream.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::RangeIgnored`] from a registry that does not answer ranges.
    pub(crate) async fn open(
        &self,
        context: &PullContext,
        digest: Digest,
        from: u64,
        until: u64,
    ) -> Result<UpstreamBody, Error> {
        self.metrics.segments.inc();
        let body = self.blobs.open(context, digest, from, Some(until)).await?;
        if body.is_ranged() { Ok(body) } else { Err(Error::RangeIgnored) }
    }
}

/// Up to which offset the bytes from `at` on were fetched out of order, if that is worth a new connection.
pub(crate) fn worth_skipping(growing: &GrowingBlob, at: u64, size: Option<u64>) -> Option<u64> {
    let until = growing.known_out_of_order_until(at)?;
    (until - at >= SKIP_MIN || Some(until) == size).then_some(until)
}

/// One connection with its segment.
struct Segment {
    received: mpsc::Receiver<Result<Received, Error>>,
    /// One past its last byte.
    until: u64,
    task: Option<AbortHandle>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Segment {
    /// What `body` brings up to `until`. What waits in memory is bounded by the segment, and without a permit by
    /// [`CHUNKS_OF_FIRST`].
    fn download(
        body: impl Future<Output = Result<UpstreamBody, Error>> + Send + 'static,
        until: u64,
        count: &Arc<AtomicU64>,
        permit: Option<OwnedSemaphorePermit>,
        tasks: &Tasks,
    ) -> Self {
        // No chunk is empty: all of a segment with a permit may wait.
        let chunks = if permit.is_some() { SEGMENT as usize } else { CHUNKS_OF_FIRST };
        let (out, received) = mpsc::channel(chunks);
        let count = Arc::clone(count);
        let task = tasks.spawn(async move {
            if let Err(error) = carry(body, until, &out, &count).await {
                let _ = out.send(Err(error)).await;
            }
        });
        Self { received, until, task: Some(task.abort_handle()), _permit: permit }
    }

    /// Bytes that are in the file already.
    fn in_file(until: u64) -> Self {
        let (out, received) = mpsc::channel(1);
        let _ = out.try_send(Ok(Received::InFile(until)));
        Self { received, until, task: None, _permit: None }
    }
}

async fn carry(
    body: impl Future<Output = Result<UpstreamBody, Error>>,
    until: u64,
    out: &mpsc::Sender<Result<Received, Error>>,
    count: &AtomicU64,
) -> Result<(), Error> {
    let mut body = body.await?;
    let mut at = body.at();
    while at < until {
        let mut bytes = body.next().await.ok_or(Error::ShortBody { missing: until - at })??;
        bytes.truncate(usize::try_from(until - at).unwrap_or(usize::MAX));
        at += bytes.len() as u64;
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if out.send(Ok(Received::Bytes(bytes))).await.is_err() {
            break;
        }
    }
    body.finish().await;
    Ok(())
}

/// The two bodies that a segmented download begins with.
pub(crate) struct Begun {
    /// The connection that was there, and the rate in bytes a second that it brought.
    pub(crate) first: UpstreamBody,
    pub(crate) rate: f64,
    /// The segment further on, and its permit.
    pub(crate) second: UpstreamBody,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// For whom a download yields. What segments have been asked for arrives, at most [`SEGMENT`] for each connection; none
/// is opened before the chunks ahead of it were handed on.
#[derive(Clone, Copy)]
pub(crate) struct Yielding<'a> {
    pub(crate) foreground: &'a Foreground,
    pub(crate) flight: &'a Flight,
}

impl Yielding<'_> {
    /// Returns whether it was waited for others.
    async fn before_chunk(self) -> bool {
        self.foreground.yield_before_chunk(self.flight).await
    }

    fn may_widen(self) -> bool {
        self.foreground.may_widen(self.flight)
    }
}

/// Several connections for one blob, in the order of their segments.
pub(crate) struct SegmentedDownload<'a> {
    segments: &'a Segments,
    context: &'a PullContext,
    digest: Digest,
    growing: &'a GrowingBlob,
    /// Records who delivers the bytes.
    trail: Trail,
    running: VecDeque<Segment>,
    concurrency: Concurrency,
    received: Arc<AtomicU64>,
    /// The first byte that has not been handed on.
    at: u64,
    /// The first byte that no connection has been asked for.
    next: u64,
    size: u64,
}

impl<'a> SegmentedDownload<'a> {
    pub(crate) fn new(
        segments: &'a Segments,
        context: &'a PullContext,
        digest: Digest,
        growing: &'a GrowingBlob,
        begun: Begun,
    ) -> Self {
        let Begun { first, rate, second, permit } = begun;
        let received = Arc::new(AtomicU64::new(0));
        let trail = first.trail().clone();
        trail.record_ranges();
        let second = second.recorded_in(&trail);
        let at = first.at();
        let middle = second.at();
        let next = middle + SEGMENT;
        let size = first.size().unwrap_or(u64::MAX);
        tracing::debug!(%digest, rate, "one connection is slow: a second one is used");
        let tasks = segments.tasks();
        let running = VecDeque::from([
            Segment::download(async { Ok(first) }, middle, &received, None, tasks),
            Segment::download(async { Ok(second) }, next, &received, permit, tasks),
        ]);
        let concurrency = Concurrency::after_one(rate);
        Self { segments, context, digest, growing, trail, running, concurrency, received, at, next, size }
    }

    /// Bytes that have not been handed on.
    pub(crate) fn rest_bytes(&self) -> u64 {
        self.size - self.at
    }

    /// Hands everything on, the end included; returns early if the queue is closed.
    ///
    /// # Errors
    /// Upstream failed, for the rest on one connection too.
    pub(crate) async fn run(mut self, queue: &PieceSender, yielding: Yielding<'_>) -> Result<(), Error> {
        let mut window = (Instant::now(), 0);
        while let Some(segment) = self.running.front_mut() {
            if yielding.before_chunk().await {
                // What came while it yielded says nothing about connections.
                window = (Instant::now(), self.received.load(Ordering::Relaxed));
            }
            match segment.received.recv().await {
                Some(Ok(received)) => {
                    match &received {
                        Received::Bytes(bytes) => self.at += bytes.len() as u64,
                        Received::InFile(until) => self.at = *until,
                        Received::End => {}
                    }
                    if queue.send(received).await.is_err() {
                        return Ok(());
                    }
                }
                Some(Err(error)) => {
                    tracing::info!(digest = %self.digest, at = self.at, %error, "one of several connections failed");
                    self.next = self.at;
                    break;
                }
                // Its task panicked, or the runtime stops: what comes next would be at the wrong offset.
                None if self.at < segment.until => {
                    tracing::error!(digest = %self.digest, at = self.at, "one of several connections ended early");
                    self.next = self.at;
                    break;
                }
                None => drop(self.running.pop_front()),
            }
            let (since, before) = window;
            if since.elapsed() >= PERIOD {
                let now = self.received.load(Ordering::Relaxed);
                self.concurrency.measured((now - before) as f64 / since.elapsed().as_secs_f64());
                window = (Instant::now(), now);
            }
            self.open_more(yielding.may_widen());
        }
        self.rest(queue, yielding).await
    }

    /// The bytes that no segment has brought, over one connection.
    async fn rest(mut self, queue: &PieceSender, yielding: Yielding<'_>) -> Result<(), Error> {
        self.running.clear();
        if self.next < self.size {
            let rest = self.segments.blobs.open(self.context, self.digest, self.next, None).await?;
            let mut rest = rest.recorded_in(&self.trail);
            loop {
                yielding.before_chunk().await;
                let Some(bytes) = rest.next().await else { break };
                if queue.send(Received::Bytes(bytes?)).await.is_err() {
                    return Ok(());
                }
            }
        }
        let _ = queue.send(Received::End).await;
        Ok(())
    }

    /// Opens as many connections as there are to be; none if it is to be one, which then brings all the rest. While it
    /// may not widen, one after the other.
    fn open_more(&mut self, may_widen: bool) {
        let connections = self.concurrency.connections();
        while (may_widen || self.running.is_empty())
            && connections > 1
            && self.running.len() < connections
            && self.next < self.size
        {
            if let Some(until) = worth_skipping(self.growing, self.next, Some(self.size)) {
                self.running.push_back(Segment::in_file(until));
                self.next = until;
                continue;
            }
            // The first connection needs no permit.
            let permit = if self.running.is_empty() { None } else { self.segments.permit() };
            if permit.is_none() && !self.running.is_empty() {
                return;
            }
            let (from, until) = (self.next, (self.next + SEGMENT).min(self.size));
            let segments = self.segments.clone();
            let context = self.context.clone();
            let (digest, trail) = (self.digest, self.trail.clone());
            let body = async move {
                let body = segments.open(&context, digest, from, until).await?;
                Ok(body.recorded_in(&trail))
            };
            let tasks = self.segments.tasks();
            self.running.push_back(Segment::download(body, until, &self.received, permit, tasks));
            self.next = until;
        }
    }
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
