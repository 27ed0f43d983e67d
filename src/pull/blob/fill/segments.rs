//! A segmented download: several upstream connections for one blob, each with a segment of it.
//!
//! What arrives early waits in memory (`segment`), and everything is handed on in order, so that storing, hashing and
//! following know nothing of segments. What arrives of the first segment is handed on by the task that reads it. How
//! many connections there are is decided in [`super::concurrency`].
//!
//! Promises: at most [`EXTRA_MAX`] connections more than one for all blobs together, with a share for each registry; at
//! most [`SEGMENT`] bytes of memory for each of these, in a bounded number of chunks; no byte is asked for twice,
//! except what is on its way when the first connection is given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::concurrency::{Concurrency, PERIOD, SEGMENT};
use super::piece_queue::{PieceSender, Received};
use super::segment::{Connection, Segment};
use crate::pull::blob::flight::Flight;
use crate::pull::blob::places::{Place, Places, Shares};
use crate::pull::blob::priority::Foreground;
use crate::pull::blob::source::BlobSource;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::blob::source::delivery::Trail;
use crate::pull::config::Config;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::metrics::Metrics;
use crate::reference::{Digest, Registry};
use crate::store::GrowingBlob;
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// Connections beside the first, for all blobs together.
const EXTRA_MAX: usize = 16;
/// Bytes that readers have fetched out of order must be this many: skipping them costs a new connection.
const SKIP_MIN: u64 = 1024 * 1024;

/// Opens segments of blobs, within the bound for all blobs together. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Segments {
    source: BlobSource,
    extra_connections: Places,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Segments {
    pub(crate) fn new(source: BlobSource, config: Live<Config>, tasks: Tasks, metrics: Arc<Metrics>) -> Self {
        let extra_connections = Places::new(Shares::of_few(EXTRA_MAX), config);
        Self { source, extra_connections, tasks, metrics }
    }

    /// A place for one more connection to `registry`, if it may have one.
    pub(crate) fn extra_place(&self, registry: &Registry) -> Option<Place> {
        self.extra_connections.take(registry)
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
    ) -> Result<SourceBody, Error> {
        self.metrics.segments.inc();
        let body = self.source.open(context, digest, from, Some(until)).await?;
        if body.is_ranged() { Ok(body) } else { Err(Error::RangeIgnored) }
    }
}

/// Up to which offset the bytes from `at` on were fetched out of order, if that is worth a new connection.
pub(crate) fn worth_skipping(growing: &GrowingBlob, at: u64, size: Option<u64>) -> Option<u64> {
    let until = growing.known_out_of_order_until(at)?;
    (until - at >= SKIP_MIN || Some(until) == size).then_some(until)
}

/// The two bodies that a segmented download begins with.
pub(crate) struct TwoConnections {
    /// The connection that was there, and the rate in bytes a second that it brought.
    pub(crate) first: SourceBody,
    pub(crate) rate: f64,
    /// The segment further on, and its place.
    pub(crate) second: SourceBody,
    pub(crate) place: Place,
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
        begun: TwoConnections,
    ) -> Self {
        let TwoConnections { first, rate, second, place } = begun;
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
            Segment::front(first, middle),
            Segment::download(async { Ok(second) }, next, &received, Connection::Extra(place), tasks),
        ]);
        let concurrency = Concurrency::after_one(rate);
        Self { segments, context, digest, growing, trail, running, concurrency, received, at, next, size }
    }

    /// Hands everything on, the end included; returns early if the queue is closed. Returns how many bytes came: less
    /// than the rest of the blob then, and where readers had fetched some.
    ///
    /// # Errors
    /// Upstream failed, for the rest on one connection too.
    pub(crate) async fn run(mut self, queue: &mut PieceSender, yielding: Yielding<'_>) -> Result<u64, Error> {
        let mut window = (Instant::now(), 0);
        while let Some(segment) = self.running.front_mut() {
            if queue.while_waiting_for(yielding.before_chunk()).await {
                // What came while it yielded says nothing about connections.
                window = (Instant::now(), self.received.load(Ordering::Relaxed));
            }
            match queue.while_waiting_for(segment.next(&self.received)).await {
                Some(Ok(received)) => {
                    match &received {
                        Received::Bytes(bytes) => self.at += bytes.len() as u64,
                        Received::InFile(until) => self.at = *until,
                        Received::End => {}
                    }
                    if queue.send(received).await.is_err() {
                        return Ok(self.received.load(Ordering::Relaxed));
                    }
                }
                Some(Err(error)) => {
                    tracing::info!(digest = %self.digest, at = self.at, %error, "one of several connections failed");
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
    async fn rest(mut self, queue: &mut PieceSender, yielding: Yielding<'_>) -> Result<u64, Error> {
        self.running.clear();
        let mut received = self.received.load(Ordering::Relaxed);
        if self.next < self.size {
            let rest = self.segments.source.open(self.context, self.digest, self.next, None);
            let rest = queue.while_waiting_for(rest).await?;
            let mut rest = rest.recorded_in(&self.trail);
            loop {
                queue.while_waiting_for(yielding.before_chunk()).await;
                let Some(bytes) = queue.while_waiting_for(rest.next()).await else { break };
                let bytes = bytes?;
                received += bytes.len() as u64;
                if queue.send(Received::Bytes(bytes)).await.is_err() {
                    return Ok(received);
                }
            }
        }
        let _ = queue.send(Received::End).await;
        Ok(received)
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
            let Some(connection) = self.next_connection() else { return };
            let (from, until) = (self.next, (self.next + SEGMENT).min(self.size));
            let segments = self.segments.clone();
            let context = self.context.clone();
            let (digest, trail) = (self.digest, self.trail.clone());
            let body = async move {
                let body = segments.open(&context, digest, from, until).await?;
                Ok(body.recorded_in(&trail))
            };
            let tasks = self.segments.tasks();
            self.running.push_back(Segment::download(body, until, &self.received, connection, tasks));
            self.next = until;
        }
    }

    /// The connection for the next segment; `None` if there is no place for it.
    fn next_connection(&self) -> Option<Connection> {
        if self.running.is_empty() {
            return Some(Connection::First);
        }
        self.segments.extra_place(self.context.repository().registry()).map(Connection::Extra)
    }
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
