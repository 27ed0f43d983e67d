//! Blobs and manifests from the tier. Every failure is a miss; a body that stalls or crawls fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, timeout};

use super::error::{Error, ErrorKind};
use super::handle::{Fault, Inner, Tier};
use super::health::BODY_BYTES_MIN;
use super::metrics::{Operation, Read};
use super::objects::{Chunks, Object, Replace, read_whole};
use super::pace::{LOST_MAX, is_left};
use super::recent::TOUCHED_FOR;
use crate::reference::{Digest, Registry};
use crate::support::byte_budget::{ByteBudget, UNRESERVED_BYTES};
use crate::support::clock::Timestamp;
use crate::support::slowness::{RateFloor, Throughput};

/// A thirtieth of a gigabit link: an object store that is slower is no help.
const FLOOR: RateFloor = RateFloor { period: Duration::from_secs(5), bytes_a_second: 1024 * 1024 };

/// The longest wait for the memory of a large manifest: then the registry is asked, within the time of one answer.
const MEMORY_WAIT: Duration = Duration::from_secs(5);

/// Within this time after its use that is recorded.
const TOUCH_JITTER: Duration = Duration::from_secs(60);

/// What came of a look for content.
pub(crate) enum Lookup {
    /// It is there.
    Found(Found),
    /// It is not there, as far as the tier says.
    Absent,
    /// The tier is not asked, or does not answer.
    Unavailable,
}

/// Whether a look for a blob could bring anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// It may.
    Look,
    /// This node only writes: it looks when it has something to write.
    WriteOnly,
    /// The tier is not asked now.
    LeftAlone,
}

/// Content in the tier, unverified.
pub(crate) struct Found {
    /// Bytes of it.
    pub(crate) size: u64,
    /// When it was written; `None` of one that another node is writing.
    pub(crate) modified: Option<Timestamp>,
    /// The bytes, bounded in time.
    pub(crate) body: Chunks,
}

impl Tier {
    /// Whether a look for a blob from `registry` could bring anything: before the registry is asked for the sake of it.
    pub(crate) fn prospect(&self, registry: &Registry, digest: Digest) -> Prospect {
        let Some(inner) = self.reader_of(registry) else {
            return if self.writer_of(registry).is_some() {
                Prospect::WriteOnly
            } else {
                Prospect::LeftAlone
            };
        };
        // What was wrong is to be replaced: it counts as absent, whatever else the tier does.
        if inner.reads.avoided.has(registry, digest) {
            return Prospect::Look;
        }
        let now = Instant::now();
        // Manifests are still asked for where the registry is faster: they are small, and registries count them.
        if inner.reads.slower.is_noted(registry) || inner.health.is_reading_left_alone(now) {
            inner.bucket.metrics.reads.count(Read::LeftAlone);
            return Prospect::LeftAlone;
        }
        Prospect::Look
    }

    /// The bytes of a blob that a node received from `registry`.
    pub(crate) async fn blob(&self, registry: &Registry, digest: Digest) -> Lookup {
        match (self.prospect(registry, digest), &self.0) {
            (Prospect::Look, Some(inner)) => {
                inner.look(registry, digest, &inner.bucket.layout.blob(registry, digest)).await
            }
            (Prospect::WriteOnly, _) => Lookup::Absent,
            _ => Lookup::Unavailable,
        }
    }

    /// Counts content that is not looked for, since its registry does not confirm in time what it has.
    pub(crate) fn record_unconfirmed(&self) {
        if let Some(inner) = &self.0 {
            inner.bucket.metrics.reads.count(Read::Unconfirmed);
        }
    }

    /// Counts content that the registry confirmed as found, and records its use.
    pub(crate) fn record_use(&self, registry: &Registry, digest: Digest, modified: Option<Timestamp>) {
        let Some(inner) = &self.0 else { return };
        inner.counts.hits.fetch_add(1, Ordering::Relaxed);
        inner.bucket.metrics.reads.count(Read::Hit);
        if let Some(modified) = modified {
            inner.note_use(registry, digest, modified);
        }
    }

    /// The bytes of a manifest that a node received from `registry`, of at most `bytes_max` bytes, and when they were
    /// written. A large one is read into `memory`, shared by the domains of those who own registries; without room
    /// there it counts as absent. [`Self::record_use`] follows where they are used.
    pub(crate) async fn manifest(
        &self,
        registry: &Registry,
        digest: Digest,
        bytes_max: usize,
        memory: &ByteBudget<String>,
    ) -> Option<(Bytes, Option<Timestamp>)> {
        let inner = self.reader_of(registry)?;
        let key = inner.bucket.layout.manifest(registry, digest);
        let Lookup::Found(Found { size, modified, body }) = inner.look(registry, digest, &key).await else {
            return None;
        };
        let Some(bytes) = usize::try_from(size).ok().filter(|bytes| *bytes <= bytes_max) else {
            self.record_fault(registry, digest, Fault::Wrong);
            return None;
        };
        let reserved = if bytes > UNRESERVED_BYTES {
            let owner = registry.owner_domain();
            let Ok(reserved) = timeout(MEMORY_WAIT, memory.reserve(&owner, bytes)).await else {
                tracing::debug!(%registry, %digest, bytes, "no memory for a manifest of the shared tier");
                inner.bucket.metrics.reads.count(Read::LeftAlone);
                return None;
            };
            Some(reserved)
        } else {
            None
        };
        match timeout(inner.config.idle_timeout, read_whole(body, bytes)).await {
            Ok(Ok(Some(whole))) if whole.len() == bytes => {
                let whole = match reserved {
                    Some(reserved) => reserved.hold(whole),
                    None => whole,
                };
                Some((whole, modified))
            }
            // Too long, or of another length than the store says: no manifest, and none would ever be in its place.
            Ok(Ok(_)) => {
                self.record_fault(registry, digest, Fault::Wrong);
                None
            }
            Ok(Err(_)) => {
                inner.avoid(registry, digest);
                None
            }
            // Chunks came in time and the whole did not: the body has told no failure.
            Err(_) => {
                inner.health.bodies.failed(ErrorKind::TimedOut, Instant::now());
                inner.avoid(registry, digest);
                None
            }
        }
    }

    /// Whether content of `digest` would be looked for: the tier is read, and is not left alone.
    pub(crate) fn is_readable(&self, registry: &Registry, digest: Digest) -> bool {
        let now = Instant::now();
        self.reader_of(registry).is_some_and(|inner| {
            !inner.health.is_reading_left_alone(now) && !inner.reads.avoided.has(registry, digest)
        })
    }
}

impl Tier {
    /// Whether there is a manifest that a node received from `registry`; `None` if the tier does not say.
    pub async fn has_manifest(&self, registry: &Registry, digest: Digest) -> Option<bool> {
        let inner = self.reader_of(registry)?;
        // For people: nothing is counted, and no use is recorded.
        match inner.bucket.get(&inner.bucket.layout.manifest(registry, digest)).await {
            Ok(_) => Some(true),
            Err(error) if error.kind == ErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }
}

impl Inner {
    pub(super) async fn look(self: &Arc<Self>, registry: &Registry, digest: Digest, key: &str) -> Lookup {
        if self.reads.avoided.has(registry, digest) {
            return Lookup::Absent;
        }
        let metrics = &self.bucket.metrics;
        let now = Instant::now();
        // A miss says nothing of bodies, and does not take their test.
        if self.health.bodies.is_left_alone(now) || !self.health.reading.admits(now) {
            metrics.reads.count(Read::LeftAlone);
            return Lookup::Unavailable;
        }
        let begun = Instant::now();
        let answer = self.bucket.get(key).await;
        metrics.seconds.observe(Operation::Get, begun.elapsed());
        self.health.reading.record(&answer, Instant::now());
        match answer {
            Ok(object) => {
                self.writes.present.note(registry, digest);
                let (bodies, now) = (&self.health.bodies, Instant::now());
                let is_small = object.size < BODY_BYTES_MIN;
                let is_admitted = if is_small { bodies.admits_small(now) } else { bodies.admits(now) };
                if !is_admitted {
                    metrics.reads.count(Read::LeftAlone);
                    return Lookup::Unavailable;
                }
                let (size, modified) = (object.size, Some(object.modified));
                Lookup::Found(Found { size, modified, body: self.body(registry, object) })
            }
            Err(error) if error.kind == ErrorKind::NotFound => {
                self.counts.misses.fetch_add(1, Ordering::Relaxed);
                metrics.reads.count(Read::Miss);
                Lookup::Absent
            }
            Err(error) => {
                metrics.reads.count(Read::Error);
                tracing::warn!(%error, "the shared tier is left alone for a while; registries are asked instead");
                Lookup::Unavailable
            }
        }
    }

    /// Records that an object is used, which was written at `modified`: in the background, about once a day in all
    /// nodes together. A wrong clock costs a few requests.
    fn note_use(&self, registry: &Registry, digest: Digest, modified: Timestamp) {
        let is_old = |written: Timestamp| written.age_at(self.bucket.clock.now()) > TOUCHED_FOR;
        if !self.config.write || !is_old(modified) || self.reads.touched.has(registry, digest) {
            return;
        }
        self.reads.touched.note(registry, digest);
        let (bucket, key) = (Arc::clone(&self.bucket), self.bucket.layout.used(registry, digest));
        self.bucket.tasks.spawn_detached(async move {
            // Not all nodes at once: the first one spares the others the write.
            tokio::time::sleep(TOUCH_JITTER.mul_f64(fastrand::f64())).await;
            let written = match bucket.get(&key).await {
                Ok(object) => Some(object.modified),
                Err(error) if error.kind == ErrorKind::NotFound => None,
                Err(_) => return,
            };
            if written.is_none_or(|written| written.age_at(bucket.clock.now()) > TOUCHED_FOR)
                && let Err(error) = bucket.put(&key, Bytes::new(), Replace::Anything).await
            {
                tracing::debug!(%error, "the use of an object of the shared tier could not be recorded");
            }
        });
    }

    fn body(self: &Arc<Self>, registry: &Registry, object: Object) -> Chunks {
        let bounds = Bounds {
            idle: self.config.idle_timeout,
            size: object.size,
            pace: self.reads.paces.of(registry, Instant::now()),
            window: Throughput::default(),
            whole: Throughput::default(),
        };
        let (inner, registry) = (Arc::clone(self), registry.clone());
        let (size, mut received) = (object.size, 0);
        Box::pin(bounded(object.body, bounds).inspect(move |chunk| match chunk {
            Ok(chunk) => {
                let bytes = chunk.len() as u64;
                inner.counts.read_bytes.fetch_add(bytes, Ordering::Relaxed);
                inner.bucket.metrics.read_bytes.inc_by(bytes);
                received += bytes;
                if received == size {
                    inner.health.bodies.succeeded_with(size, Instant::now());
                }
            }
            // Beside another registry it may be fast.
            Err(error) if error.kind == ErrorKind::Slower => {
                inner.reads.slower.note_once(registry.clone());
                tracing::info!(%registry, "the shared tier is slower than the registry, which delivers for some minutes");
            }
            Err(error) => inner.health.bodies.failed(error.kind, Instant::now()),
        }))
    }
}

/// What a body must not fall below.
struct Bounds {
    idle: Duration,
    /// Bytes of the object.
    size: u64,
    /// Bytes a second of the registry, where that is known.
    pace: Option<u64>,
    /// What came since the rate was looked at last.
    window: Throughput,
    whole: Throughput,
}

impl Bounds {
    fn record_chunk(&mut self, bytes: usize, waited: Duration) -> Result<(), Error> {
        self.window.add(bytes as u64, waited);
        self.whole.add(bytes as u64, waited);
        let Throughput { bytes, time } = self.whole;
        if is_left(bytes, time, self.size.saturating_sub(bytes), self.pace) {
            let why = format!("{LOST_MAX:?} longer for the same bytes");
            return Err(Error::new(ErrorKind::Slower, why));
        }
        if self.window.is_below(&FLOOR) {
            let why = format!("slower than {} bytes a second", FLOOR.bytes_a_second);
            return Err(Error::new(ErrorKind::TimedOut, why));
        }
        Ok(())
    }
}

/// The same chunks, and an error in the place of one that does not come in time; nothing comes after an error.
fn bounded(body: Chunks, bounds: Bounds) -> impl Stream<Item = Result<Bytes, Error>> + Send + Sync {
    stream::unfold(Some((body, bounds)), |state| async move {
        let (mut body, mut bounds) = state?;
        let begun = Instant::now();
        let Ok(next) = timeout(bounds.idle, body.next()).await else {
            let why = format!("no data for {:?}", bounds.idle);
            return Some((Err(Error::new(ErrorKind::TimedOut, why)), None));
        };
        let chunk = next?;
        let checked =
            chunk.and_then(|bytes| bounds.record_chunk(bytes.len(), begun.elapsed()).map(|()| bytes));
        let state = checked.is_ok().then_some((body, bounds));
        Some((checked, state))
    })
}
