//! Several upstream connections for one blob, where a single one is what holds it up.
//!
//! Registries and the networks before them often limit the rate of a connection. When the first connection of a large
//! blob is slow, a second one asks for a later part while the first goes on; if both together bring clearly more,
//! there are more of them, and if they do not, it is one again. Whatever arrives early waits in memory, and everything
//! is handed on in order, so that storing, hashing and following know nothing of this.
//!
//! Promises: at most [`LANES_MAX`] connections for a blob and [`EXTRA_MAX`] more than one for all blobs together; at
//! most [`SEGMENT`] bytes of memory for each; no byte is asked for twice, except what is on its way when the first
//! connection is given up; a registry that does not do ranges costs one question.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::pull::blob::fill::Received;
use crate::pull::blob::flight::Flight;
use crate::pull::blob::follow::Reader;
use crate::pull::blob::source::UpstreamBody;
use crate::pull::error::Error;
use crate::store::GrowingBlob;

/// Bytes that one connection fetches at a time.
const SEGMENT: u64 = 4 * 1024 * 1024;
/// Connections for one blob.
const LANES_MAX: usize = 6;
/// Connections beside the first, for all blobs together.
pub(crate) const EXTRA_MAX: usize = 16;
/// Over such a time a rate is measured.
const WINDOW: Duration = Duration::from_millis(500);
/// A blob with less than this to come is not worth it.
const LEFT_MIN: u64 = 4 * SEGMENT;
/// Bytes a second of a connection that is fast enough as it is: what a gigabit brings.
const FAST: f64 = 100e6;
/// Bytes that others have fetched ahead must be this many: skipping them costs a new connection.
const KEPT_MIN: u64 = 1024 * 1024;
/// Twice as many connections must bring this many times as much, or they are not what was missing.
const GAIN: f64 = 1.4;

/// Whether one connection that brought `received` bytes in the time for which it was `waited` for is what holds up a
/// blob with `left` bytes to come. What we took to store them is not its fault.
fn is_slow(received: u64, waited: Duration, left: u64) -> bool {
    let rate = received as f64 / waited.as_secs_f64();
    waited >= WINDOW && left >= LEFT_MIN && rate < FAST && left as f64 / rate > 2.0 * WINDOW.as_secs_f64()
}

/// How many connections there are to be.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Width {
    lanes: usize,
    /// Bytes a second of half as many.
    rate: f64,
    settled: bool,
}

impl Width {
    /// Two, after one that brought `rate` bytes a second.
    fn after_one(rate: f64) -> Self {
        Self { lanes: 2, rate, settled: false }
    }

    /// Learns what these many brought.
    fn learn(&mut self, rate: f64) {
        if self.settled {
            return;
        }
        if rate < self.rate * GAIN {
            (self.lanes, self.settled) = (self.lanes / 2, true);
        } else {
            (self.rate, self.settled) = (rate, self.lanes == LANES_MAX);
            self.lanes = (self.lanes * 2).min(LANES_MAX);
        }
    }
}

/// Moves a whole body into `queue`, the end included; returns early if nobody reads it any more.
pub(crate) async fn pump(
    mut source: UpstreamBody,
    reader: &Reader,
    growing: &GrowingBlob,
    queue: &mpsc::Sender<Received>,
    flight: &Flight,
) -> Result<(), Error> {
    let begun_at = source.at();
    let (mut waited, mut skipped, mut second) = (Duration::ZERO, 0, None::<Second>);
    // Whether a second connection has been tried, and whether this one is to go on alone whatever others have fetched.
    let (mut tried, mut alone) = (false, false);
    loop {
        reader.puller.give_way(flight).await;
        let before = Instant::now();
        let next = source.next().await;
        waited += before.elapsed();
        let Some(bytes) = next else {
            let _ = queue.send(Received::End).await;
            return Ok(());
        };
        if queue.send(Received::Bytes(bytes?)).await.is_err() {
            // The writer is gone only after an error of its own, which is the one that counts.
            return Ok(());
        }
        if !alone && let Some(until) = worth_taking(growing, source.at(), source.size()) {
            if source.size() == Some(until) {
                let _ = queue.send(Received::Kept(until)).await;
                let _ = queue.send(Received::End).await;
                return Ok(());
            }
            match reader.source(until).await {
                Ok(rest) if rest.is_ranged() && rest.size() == source.size() => {
                    let _ = queue.send(Received::Kept(until)).await;
                    skipped += until - source.at();
                    (source, second) = (rest, None);
                }
                // The connection that we have brings those bytes too.
                _ => alone = true,
            }
        }
        let received = source.at() - begun_at - skipped;
        match (&second, source.size()) {
            (Some(asked), _) if asked.source.is_finished() => {
                let Some(mut asked) = second.take() else { continue };
                let answered = (&mut asked.source).await.ok().flatten();
                // One that answers later than the first gets there is of no use.
                if let Some(next) = answered.filter(|next| next.at() >= source.at()) {
                    let rate = received as f64 / waited.as_secs_f64();
                    return Team::of(source, next, asked.place.take(), (reader, growing), rate)
                        .run(queue)
                        .await;
                }
            }
            (None, Some(size))
                if !tried && flight.is_hurried() && is_slow(received, waited, size - source.at()) =>
            {
                tried = true;
                second = Second::ask(reader, source.at() + SEGMENT);
            }
            _ => {}
        }
    }
}

/// Up to where the bytes from `at` on were fetched by readers that were ahead, if that is worth a new connection.
fn worth_taking(growing: &GrowingBlob, at: u64, size: Option<u64>) -> Option<u64> {
    let until = growing.out_of_order_until(at)?;
    (until - at >= KEPT_MIN || Some(until) == size).then_some(until)
}

/// A second connection that has been asked for.
struct Second {
    source: JoinHandle<Option<UpstreamBody>>,
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for Second {
    fn drop(&mut self) {
        self.source.abort();
    }
}

impl Second {
    fn ask(reader: &Reader, from: u64) -> Option<Self> {
        let place = Some(reader.place()?);
        let reader = reader.clone();
        let source = tokio::spawn(async move {
            let asked = reader.segment(from, from + SEGMENT).await;
            asked.inspect_err(|error| tracing::debug!(%error, "no second connection")).ok()
        });
        Some(Self { source, place })
    }
}

impl Reader {
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.puller.0.extra_lanes).try_acquire_owned().ok()
    }

    /// A part of the blob from upstream, which must do ranges.
    async fn segment(&self, from: u64, until: u64) -> Result<UpstreamBody, Error> {
        let Self { puller, repository, digest, caller } = self;
        puller.0.metrics.parts.inc();
        let source = UpstreamBody::open(puller, repository, *digest, caller, from, Some(until)).await?;
        if source.is_ranged() { Ok(source) } else { Err(Error::Abandoned) }
    }
}

/// One connection with its part of the blob.
struct Lane {
    received: mpsc::UnboundedReceiver<Result<Received, Error>>,
    task: Option<AbortHandle>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Lane {
    /// What `source` brings up to `until`. What waits in memory is bounded by the part.
    fn of(
        source: impl Future<Output = Result<UpstreamBody, Error>> + Send + 'static,
        until: u64,
        received: &Arc<AtomicU64>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (out, queue) = mpsc::unbounded_channel();
        let received = Arc::clone(received);
        let task = tokio::spawn(async move {
            if let Err(error) = carry(source, until, &out, &received).await {
                let _ = out.send(Err(error));
            }
        });
        Self { received: queue, task: Some(task.abort_handle()), _place: place }
    }

    /// What is there already.
    fn kept(until: u64) -> Self {
        let (out, queue) = mpsc::unbounded_channel();
        let _ = out.send(Ok(Received::Kept(until)));
        Self { received: queue, task: None, _place: None }
    }
}

async fn carry(
    source: impl Future<Output = Result<UpstreamBody, Error>>,
    until: u64,
    out: &mpsc::UnboundedSender<Result<Received, Error>>,
    received: &AtomicU64,
) -> Result<(), Error> {
    let mut source = source.await?;
    let mut at = source.at();
    while at < until {
        let mut bytes = source.next().await.ok_or(Error::Abandoned)??;
        bytes.truncate(usize::try_from(until - at).unwrap_or(usize::MAX));
        at += bytes.len() as u64;
        received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if out.send(Ok(Received::Bytes(bytes))).is_err() {
            break;
        }
    }
    source.finish().await;
    Ok(())
}

/// Several connections, in the order of what they bring.
struct Team<'a> {
    reader: &'a Reader,
    growing: &'a GrowingBlob,
    lanes: VecDeque<Lane>,
    width: Width,
    received: Arc<AtomicU64>,
    /// The first byte that has not been handed on, and the first that nobody has been asked for.
    at: u64,
    next: u64,
    size: u64,
}

impl<'a> Team<'a> {
    fn of(
        first: UpstreamBody,
        second: UpstreamBody,
        place: Option<OwnedSemaphorePermit>,
        (reader, growing): (&'a Reader, &'a GrowingBlob),
        rate: f64,
    ) -> Self {
        let (received, at, middle) = (Arc::new(AtomicU64::new(0)), first.at(), second.at());
        let (next, size) = (middle + SEGMENT, first.size().unwrap_or(u64::MAX));
        tracing::debug!(digest = %reader.digest, rate, "one connection is slow: a second one");
        let lanes = VecDeque::from([
            Lane::of(async { Ok(first) }, middle, &received, None),
            Lane::of(async { Ok(second) }, next, &received, place),
        ]);
        Self { reader, growing, lanes, width: Width::after_one(rate), received, at, next, size }
    }

    async fn run(mut self, queue: &mpsc::Sender<Received>) -> Result<(), Error> {
        let mut window = (Instant::now(), 0);
        while let Some(lane) = self.lanes.front_mut() {
            match lane.received.recv().await {
                Some(Ok(piece)) => {
                    match &piece {
                        Received::Bytes(bytes) => self.at += bytes.len() as u64,
                        Received::Kept(until) => self.at = *until,
                        Received::End => {}
                    }
                    if queue.send(piece).await.is_err() {
                        return Ok(());
                    }
                }
                Some(Err(error)) => {
                    tracing::info!(digest = %self.reader.digest, at = self.at, %error, "one of several connections failed");
                    self.next = self.at;
                    break;
                }
                None => drop(self.lanes.pop_front()),
            }
            let (since, before) = window;
            if since.elapsed() >= WINDOW {
                let now = self.received.load(Ordering::Relaxed);
                self.width.learn((now - before) as f64 / since.elapsed().as_secs_f64());
                window = (Instant::now(), now);
            }
            self.fan_out();
        }
        self.lanes.clear();
        if self.next >= self.size {
            let _ = queue.send(Received::End).await;
            return Ok(());
        }
        let Reader { puller, repository, digest, caller } = self.reader;
        let mut rest = UpstreamBody::open(puller, repository, *digest, caller, self.next, None).await?;
        while let Some(bytes) = rest.next().await {
            if queue.send(Received::Bytes(bytes?)).await.is_err() {
                return Ok(());
            }
        }
        let _ = queue.send(Received::End).await;
        Ok(())
    }

    /// As many connections as there are to be; none if it is to be one, which then brings all the rest.
    fn fan_out(&mut self) {
        while self.width.lanes > 1 && self.lanes.len() < self.width.lanes && self.next < self.size {
            if let Some(until) = worth_taking(self.growing, self.next, Some(self.size)) {
                self.lanes.push_back(Lane::kept(until));
                self.next = until;
                continue;
            }
            // The one that is waited for needs no place; there always is that one.
            let place = if self.lanes.is_empty() { None } else { self.reader.place() };
            if place.is_none() && !self.lanes.is_empty() {
                return;
            }
            let (from, until) = (self.next, (self.next + SEGMENT).min(self.size));
            let reader = self.reader.clone();
            let source = async move { reader.segment(from, until).await };
            self.lanes.push_back(Lane::of(source, until, &self.received, place));
            self.next = until;
        }
    }
}

/// Places for connections beside the first.
pub(crate) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(EXTRA_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_is_slow_if_much_is_left_for_long() {
        let (second, much) = (Duration::from_secs(1), 1 << 30);
        for (received, waited, left, slow) in [
            (20_000_000, second, much, true),
            (20_000_000, WINDOW / 2, much, false),
            (200_000_000, second, much, false),
            (20_000_000, second, LEFT_MIN - 1, false),
            (90_000_000, second, 4 * LEFT_MIN, false),
            (0, second, much, true),
        ] {
            assert_eq!(is_slow(received, waited, left), slow, "{received} in {waited:?}, {left} left");
        }
    }

    #[test]
    fn more_connections_are_kept_only_if_they_bring_more() {
        let after = |rates: &[f64]| {
            let mut width = Width::after_one(20.0);
            rates.iter().for_each(|rate| width.learn(*rate));
            (width.lanes, width.settled)
        };
        assert_eq!(after(&[]), (2, false));
        assert_eq!(after(&[40.0]), (4, false));
        assert_eq!(after(&[21.0]), (1, true), "the network was what held it up");
        assert_eq!(after(&[40.0, 80.0, 120.0]), (LANES_MAX, true));
        assert_eq!(after(&[40.0, 45.0]), (2, true));
        assert_eq!(after(&[40.0, 45.0, 400.0]), (2, true), "it is tried once");
    }
}
