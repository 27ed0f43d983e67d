//! Content for the tier, while it arrives on this node. It is there for others only once it was completed, which its
//! owner does after verification.
//!
//! Promises: the bytes of a part are in memory only with a permit, which is acquired before they are read and held
//! until they are sent, so that memory is bounded by the permits and the number of uploads is not; parts are of equal
//! size, as some stores demand; content that is there already is not written again for a while. What was begun and not
//! completed is thrown away, by this node or, after a crash, by the store's own rule for unfinished uploads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::error::{Error, ErrorKind};
use super::handle::{Inner, Tier};
use super::lease::LEASED_MIN;
use super::metrics::{Operation, Write};
use super::objects::{Multipart, Replace};
use super::part_memory::PartMemory;
use crate::reference::{Digest, Registry};

/// Bytes of a part. Object stores take parts from 5 MiB on; larger ones cost memory.
const PART: u64 = 8 * 1024 * 1024;
/// Parts of an object at most: S3 takes 10,000.
const PARTS_MAX: u64 = 9_000;
/// Bytes of a part at most. Larger blobs, of more than 140 GiB, are not written.
const PART_MAX: u64 = 16 * 1024 * 1024;
/// How long a part may take.
const PART_WAIT: Duration = Duration::from_secs(60);
/// How long a part waits for its permit. Then the blob is not written: parts ahead of it take a minute each.
const PERMIT_WAIT: Duration = Duration::from_secs(120);

/// A blob on its way to the tier. Dropped without an end, its parts are thrown away.
pub(crate) struct Upload {
    inner: Arc<Inner>,
    registry: Registry,
    digest: Digest,
    key: String,
    /// Bytes of the blob.
    size: u64,
    /// Bytes of a part but the last.
    part: u64,
    /// Bytes that were sent.
    sent: u64,
    parts: Option<Box<dyn Multipart>>,
    permits: Arc<Semaphore>,
    memory: PartMemory,
}

/// The permit to have the bytes of one part in memory, and that memory.
pub(crate) struct PartPermit {
    memory: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl PartPermit {
    /// Empty memory, to read the bytes into.
    pub(crate) fn memory(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.memory)
    }
}

/// The size of the parts of an object of `size` bytes; `None` if it is too large.
fn part_of(size: u64) -> Option<u64> {
    let part = PART.max(size.div_ceil(PARTS_MAX));
    (part <= PART_MAX).then_some(part)
}

impl Tier {
    /// Whether a blob is worth writing: the tier takes it, and did not have it a moment ago.
    pub(crate) fn wants(&self, registry: &Registry, digest: Digest, size: u64) -> bool {
        self.writer_of(registry).is_some_and(|inner| {
            part_of(size).is_some()
                && !inner.writes.present.has(registry, digest)
                && !inner.health.writing.is_left_alone(Instant::now())
        })
    }

    /// Begins to write a blob of `size` bytes. `None` if it is too large, or if the tier has it and this node, which
    /// does not read from the tier, finds that out now.
    pub(crate) async fn begin_upload(
        &self,
        registry: &Registry,
        digest: Digest,
        size: u64,
    ) -> Option<Upload> {
        let inner = self.writer_of(registry)?;
        let part = part_of(size)?;
        let key = inner.bucket.layout.blob(registry, digest);
        if !inner.config.read
            && let Ok(there) = inner.bucket.get(&key).await
            && there.size == size
        {
            inner.writes.present.note(registry, digest);
            inner.count_write(Write::Present);
            return None;
        }
        // One upload tests a tier that failed; what is only wanted tests nothing.
        if !inner.health.writing.admits(Instant::now()) {
            return None;
        }
        let permits = if size < LEASED_MIN { &inner.writes.singles } else { &inner.writes.uploads };
        Some(Upload {
            registry: registry.clone(),
            digest,
            key,
            size,
            part,
            sent: 0,
            parts: None,
            permits: Arc::clone(permits),
            memory: inner.writes.part_memory.join(),
            inner: Arc::clone(inner),
        })
    }

    /// Writes a manifest, in the background.
    pub(crate) fn write_manifest(&self, registry: &Registry, digest: Digest, content: Bytes) {
        let Some(inner) = self.writer_of(registry) else { return };
        if inner.writes.present.has(registry, digest) {
            return;
        }
        let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let Ok(queued) = Arc::clone(&inner.writes.queued).try_acquire_many_owned(bytes) else {
            inner.count_write(Write::Skipped);
            return;
        };
        if !inner.health.writing.admits(Instant::now()) {
            return;
        }
        let (inner, registry) = (Arc::clone(inner), registry.clone());
        let tasks = inner.bucket.tasks.clone();
        tasks.spawn_detached(async move {
            let permit = timeout(PERMIT_WAIT, inner.writes.singles.acquire()).await;
            let Ok(Ok(_permit)) = permit else { return inner.count_write(Write::Skipped) };
            let key = inner.bucket.layout.manifest(&registry, digest);
            let bytes = content.len();
            // What was wrong is replaced; a node that does not read cannot tell whether it is.
            let is_doubtful = !inner.config.read || inner.reads.avoided.has(&registry, digest);
            let replace = if is_doubtful { Replace::Anything } else { Replace::Nothing };
            let mut written = inner.bucket.put(&key, content.clone(), replace).await;
            // A store that knows no conditions.
            if written.as_ref().is_err_and(|error| error.kind == ErrorKind::Unsupported) {
                written = inner.bucket.put(&key, content, Replace::Anything).await;
            }
            let _ = inner.note_written(&registry, digest, bytes, written);
            drop(queued);
        });
    }
}

impl Upload {
    /// Bytes of the blob.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where the next part is in the blob.
    pub(crate) fn next_part(&self) -> Range<u64> {
        self.sent..self.size.min(self.sent + self.part)
    }

    /// Whether the next part is the last one, which is sent by [`Self::complete`].
    pub(crate) fn is_last_part(&self) -> bool {
        self.next_part().end == self.size
    }

    /// The permit for the bytes of one part, to be acquired before they are read; `None` if there is none in time.
    pub(crate) fn permit(&self) -> impl Future<Output = Option<PartPermit>> + Send + use<> {
        let (inner, permits, memory) =
            (Arc::clone(&self.inner), Arc::clone(&self.permits), self.memory.clone());
        async move {
            match timeout(PERMIT_WAIT, permits.acquire_owned()).await {
                Ok(Ok(permit)) => Some(PartPermit { memory: memory.take(), _permit: permit }),
                Ok(Err(_)) | Err(_) => {
                    inner.count_write(Write::Skipped);
                    None
                }
            }
        }
    }

    /// Sends the next part, which is not the last one.
    ///
    /// # Errors
    /// The tier does not take it; then the upload can only be dropped.
    pub(crate) async fn send(&mut self, content: Vec<u8>, _permit: PartPermit) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let bytes = content.len() as u64;
        let content = self.frozen(content);
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => none.insert(inner.bucket.begin(&self.key).await?),
        };
        let begun = Instant::now();
        let sent = inner.bucket.within(PART_WAIT, parts.part(content)).await;
        inner.bucket.metrics.seconds.observe(Operation::Put, begun.elapsed());
        sent?;
        self.sent += bytes;
        inner.count_bytes(bytes);
        Ok(())
    }

    /// Sends the last part, and makes all of them an object: they are the content of the digest.
    ///
    /// # Errors
    /// The tier does not take it.
    pub(crate) async fn complete(mut self, content: Vec<u8>, permit: PartPermit) -> Result<(), Error> {
        let written = self.finish(content, permit).await;
        let (inner, registry) = (Arc::clone(&self.inner), self.registry.clone());
        if written.is_ok() {
            self.parts = None;
        }
        inner.note_written(&registry, self.digest, 0, written)
    }

    fn frozen(&self, content: Vec<u8>) -> Bytes {
        self.memory.freeze(content, self.inner.config.uploads as usize)
    }

    async fn finish(&mut self, content: Vec<u8>, permit: PartPermit) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        if self.parts.is_some() {
            self.send(content, permit).await?;
            let Some(parts) = &mut self.parts else { return Ok(()) };
            return inner.bucket.within(PART_WAIT, parts.complete()).await;
        }
        let (whole, bytes) = (self.frozen(content), self.size);
        let put = inner.bucket.objects.put(&self.key, whole, Replace::Anything);
        let written = inner.bucket.within(PART_WAIT, put).await;
        drop(permit);
        written.inspect(|()| inner.count_bytes(bytes))
    }

    /// Counts that the tier did not take a part.
    pub(crate) fn failed(&self, error: &Error) {
        let _ = self.inner.note_written(&self.registry, self.digest, 0, Err(error.clone()));
    }

    /// Throws away what was written: the download failed.
    pub(crate) fn abort(self) {
        self.inner.count_write(Write::Aborted);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        let bucket = Arc::clone(&self.inner.bucket);
        self.inner.bucket.tasks.spawn_detached(async move {
            if let Err(error) = bucket.bounded(parts.abort()).await {
                tracing::debug!(%error, "an unfinished upload to the shared tier could not be thrown away");
            }
        });
    }
}

impl Inner {
    fn count_bytes(&self, bytes: u64) {
        self.counts.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bucket.metrics.written_bytes.inc_by(bytes);
    }

    fn count_write(&self, result: Write) {
        self.bucket.metrics.writes.count(result);
    }

    fn note_written(
        &self,
        registry: &Registry,
        digest: Digest,
        bytes: usize,
        written: Result<(), Error>,
    ) -> Result<(), Error> {
        self.health.writing.record(&written, Instant::now());
        match &written {
            Ok(()) => {
                self.count_bytes(bytes as u64);
                self.counts.written.fetch_add(1, Ordering::Relaxed);
                self.count_write(Write::Written);
                self.writes.present.note(registry, digest);
            }
            Err(error) if error.kind == ErrorKind::Exists => {
                self.count_write(Write::Present);
                self.writes.present.note(registry, digest);
            }
            Err(error) => {
                self.count_write(Write::Failed);
                tracing::warn!(%error, "content could not be written to the shared tier");
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_more_parts_than_a_store_takes() {
        for size in [1, PART, PART + 1, PART * PARTS_MAX, PART * PARTS_MAX + 1, PART_MAX * PARTS_MAX] {
            let part = part_of(size).unwrap();
            assert!(size.div_ceil(part) <= PARTS_MAX && (PART..=PART_MAX).contains(&part), "{size}");
        }
        assert_eq!(part_of(PART_MAX * PARTS_MAX + 1), None);
    }
}
