//! The store: an OCI image layout on disk that never serves a wrong byte.
//!
//! Promises: a blob exists only after its digest was proved and its bytes are durable; every chunk is checked before it
//! leaves; a crash at any instant loses nothing committed and leaves nothing half done that the next start does not
//! remove; the files are the truth and the index is derived from them; the store stays within its budget.
//!
//! [`Store`] owns its components and moves their blocking work off the async threads: `records` (which digests a
//! repository may serve), `blobs` (receiving and reading content), `admission` (the budget), `index` (sizes and last
//! access), `health` (the disk), `pins`, `inventory` and `maintenance`. Each is constructed from what it needs. How
//! content is written is in `content`, what concerns images by name in `images`.
//!
//! Not here: where bytes come from, and who may read them (`pull` decides by the records).

mod admission;
mod batch;
mod blob;
mod blobs;
mod blocking;
mod budget;
mod buffers;
mod cached_images;
mod calls_under_way;
mod changes;
mod checked_file;
mod components;
mod content;
mod crc32c;
mod disk_calls;
mod error;
mod evict;
mod failpoints;
mod file_identity;
#[cfg(test)]
mod for_tests;
mod growing;
mod hashing;
mod health;
mod image_contents;
mod images;
mod in_use;
mod index;
mod ingest;
mod integrity;
mod inventory;
mod large;
mod last_access;
mod layout;
mod leftovers;
mod maintenance;
pub mod metrics;
mod open;
mod open_blobs;
mod page_cache;
mod partial;
mod pins;
mod quarantine;
mod quarantine_files;
mod read_limits;
mod recent_comparisons;
mod records;
mod rehashing;
mod removals;
mod reserve;
mod room_for_blob;
mod share;
mod stored_checksums;
mod sync_pace;
mod unsynced;
mod write_behind;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use blob::Blob;
pub use budget::{Amount, Budget, StoreLimits};
pub use calls_under_way::HANGS_AFTER;
pub use disk_calls::READS_MAX;
pub use error::Error;
pub use growing::GrowingBlob;
pub use hashing::{ContentHash, HASH_BATCH_BYTES};
pub use image_contents::{ImageContents, PlatformContents};
pub use index::totals::Totals;
pub use ingest::{Ingest, Verified};
pub use inventory::{CachedImage, RemovedImage};
pub use maintenance::verify::{Finding, Verifier};
pub use partial::PartialBlob;
pub use pins::Pin;
pub use recent_comparisons::RecentComparisons;
pub use records::Records;
pub use records::aliases::SynthesizedIndex;
pub use records::members::Member;
pub use records::tags::TagRecord;
pub use share::Owner;

use crate::reference::{Digest, Repository};
use crate::support::clock::Clock;
use crate::support::shutdown::Shutdown;
use components::Components;
use disk_calls::Call;
use metrics::Metrics;
use read_limits::ReadLimits;

/// How long a stop waits for what is to be written: a manifest is fetched again if it was lost. Commands wait as long
/// for it before they read what is there.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// Where the store is, and how large.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its root directory; created if it is missing.
    pub path: PathBuf,
    /// Its limits.
    pub budget: Budget,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Components>);

impl Store {
    /// Locks and opens the store at `config.path`. Blocks for a moment; serves while the index is rebuilt.
    ///
    /// # Errors
    /// Another daemon holds it, its format is unknown, or the disk refuses.
    pub fn open(config: &Config, clock: Clock, metrics: Arc<Metrics>) -> Result<Self, Error> {
        Self::open_with(config, &clock, &metrics, ReadLimits::default())
    }

    /// The same with other limits of reading.
    fn open_with(
        config: &Config,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        limits: ReadLimits,
    ) -> Result<Self, Error> {
        Components::open(&config.path, config.budget, clock, metrics, limits).map(|all| Self(Arc::new(all)))
    }

    /// Enforces the budget, keeps `index.json` in step with the tags, scrubs blobs and expires records, until
    /// `shutdown`, then closes the index.
    pub async fn maintain(self, shutdown: Shutdown) {
        self.0.maintenance.run(shutdown).await;
        self.close().await;
    }

    /// Closes the index cleanly, so that the next start need not rebuild it, and releases the lock. What outlives this,
    /// such as a download whose registry hangs, can still read and changes no file any more.
    pub async fn close(&self) {
        if !self.flush_for_a_while().await {
            tracing::warn!("the disk is too slow: not everything that was fetched last is stored");
        }
        let this = self.clone();
        let closed = blocking::run(move || {
            this.0.layout.end_changes();
            this.0.index.close();
            drop(this.0.lock.lock().take());
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, cause = error.cause(), "the store could not be closed");
        }
    }

    /// What its repositories may serve, for a caller that needs neither bytes nor budget.
    pub fn records(&self) -> &Records {
        &self.0.records
    }

    /// The clock that its records are dated by.
    pub fn clock(&self) -> &Clock {
        self.0.records.clock()
    }

    /// What the blobs occupy, as far as the index has counted them.
    pub fn totals(&self) -> Totals {
        self.0.index.totals()
    }

    /// What the blobs may occupy; `None` if the size of its filesystem is unknown, or its disk hangs.
    pub async fn limits(&self) -> Option<StoreLimits> {
        let admission = Arc::clone(&self.0.admission);
        blocking::find(self.0.layout.calls(), move || admission.limits()).await
    }

    /// Evicts what exceeds the budget; returns how many bytes that freed. Of an eviction that takes long, as many as it
    /// has freed by then.
    ///
    /// # Errors
    /// A panic of the eviction; a disk that hangs: the eviction goes on when it does.
    pub async fn enforce_budget(&self) -> Result<u64, Error> {
        let admission = Arc::clone(&self.0.admission);
        if self.is_disk_hanging() {
            return Err(Error::Hangs);
        }
        let enforced = blocking::run(move || Ok(admission.enforce_budget()));
        tokio::time::timeout(admission::ENFORCE_WAIT + HANGS_AFTER, enforced)
            .await
            .unwrap_or(Err(Error::Hangs))
    }

    /// Whether fetched content is stored: after the disk failed, once content has been stored again.
    pub fn is_caching(&self) -> bool {
        self.0.health.is_caching()
    }

    /// Whether the disk has not ended a call for seconds.
    pub fn is_disk_hanging(&self) -> bool {
        self.0.layout.calls().is_hanging()
    }

    /// Whether one blob has been damaged on disk again and again: the disk does not hold what is written to it.
    pub fn is_disk_failing(&self) -> bool {
        self.0.health.is_failing()
    }

    /// Takes note of a failure to store something: if the disk failed, nothing is written for a while.
    pub fn record_failure(&self, error: &Error) {
        self.0.health.record_failure(error);
    }

    /// Whether a failure to store something is worth a line in the log: not during the pause after a failure of the
    /// disk, and once a minute for a full store, because each blob that is passed through fails anew.
    pub fn should_log(&self, error: &Error) -> bool {
        self.0.health.should_log(error)
    }
}

/// Blobs.
impl Store {
    /// Whether `bytes` of `owner` could be stored now. Nothing is reserved or evicted.
    ///
    /// # Errors
    /// No space, or that the disk failed a moment ago.
    pub async fn check_room(&self, owner: Owner, bytes: u64) -> Result<(), Error> {
        self.0.health.begin_write()?;
        let admission = Arc::clone(&self.0.admission);
        blocking::run_bounded(self.0.layout.calls(), move || admission.check(owner, bytes)).await
    }

    /// Whether a blob of `bytes` is better not stored, because it is asked for the first time and would push out much
    /// of what is. Remembers that it was asked for.
    pub async fn is_passed_by(&self, digest: Digest, bytes: u64) -> bool {
        if !large::may_be_large(bytes) {
            return false;
        }
        let admission = Arc::clone(&self.0.admission);
        let now = self.clock().now();
        let is_passed_by = move || Some(admission.is_passed_by(digest, bytes, now));
        blocking::find(self.0.layout.calls(), is_passed_by).await.unwrap_or(false)
    }

    /// Whether it would be, if it were asked for; remembers nothing.
    pub async fn would_be_passed_by(&self, digest: Digest, bytes: u64) -> bool {
        if !large::may_be_large(bytes) {
            return false;
        }
        let admission = Arc::clone(&self.0.admission);
        let now = self.clock().now();
        let would_be = move || Some(admission.would_be_passed_by(digest, bytes, now));
        blocking::find(self.0.layout.calls(), would_be).await.unwrap_or(false)
    }

    /// Begins to receive the content of `digest` from `owner`, of `declared` bytes where upstream said so.
    ///
    /// # Errors
    /// A declared size beyond 1 TiB; no space; the disk, that it hangs, or that it failed a moment ago.
    pub async fn begin(&self, digest: Digest, declared: Option<u64>, owner: Owner) -> Result<Ingest, Error> {
        let store = self.clone();
        let begun =
            blocking::run_bounded(self.0.layout.calls(), move || store.begin_write(digest, declared, owner));
        // What the write itself failed with has been recorded.
        begun.await.inspect_err(|error| {
            if let Error::Hangs = error {
                self.record_failure(error);
            }
        })
    }

    /// The one place where a write of content begins, so that none is tried while the disk is given a pause. Blocks.
    fn begin_write(&self, digest: Digest, declared: Option<u64>, owner: Owner) -> Result<Ingest, Error> {
        self.0.health.begin_write()?;
        let begun = self.0.blobs.begin(digest, declared, owner);
        begun.inspect_err(|error| self.record_failure(error))
    }

    /// Begins to keep parts of the content of `digest`, which has `size` bytes.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub async fn begin_partial(&self, digest: Digest, size: u64, owner: Owner) -> Result<PartialBlob, Error> {
        self.begin(digest, Some(size), owner).await.map(PartialBlob::new)
    }

    /// Whether nothing is written for a while, because the disk failed a moment ago or hangs.
    pub fn is_paused(&self) -> bool {
        self.0.health.is_paused()
    }

    /// How many blobs have left the store since its start, by eviction, removal, quarantine or from outside.
    pub fn removals(&self) -> u64 {
        self.0.blobs.removals().count()
    }

    /// Whether a blob that was there may have left since [`Store::removals`] were so many. Asks no disk.
    pub fn may_have_left(&self, digest: &Digest, removals: u64) -> bool {
        self.0.blobs.removals().may_have_left(digest, removals)
    }

    /// Waits until everything is durable that was to be written later, however long the disk takes.
    pub async fn flush(&self) {
        self.0.records.writes().flush().await;
    }

    /// As [`Store::flush`], but no longer than `FLUSH_WAIT`; `false` if it was not enough.
    pub async fn flush_for_a_while(&self) -> bool {
        tokio::time::timeout(FLUSH_WAIT, self.flush()).await.is_ok()
    }

    /// No call that creates or writes content ends before the result is dropped.
    #[cfg(test)]
    pub(crate) fn hang(&self) -> impl Sized + use<> {
        self.0.layout.calls().hold()
    }

    /// From now on what writes the content of a download panics.
    #[cfg(test)]
    pub(crate) fn panic_at_writes(&self) {
        self.0.layout.calls().panic_at_writes();
    }

    /// No file that was begun is removed before the result is dropped.
    #[cfg(test)]
    pub(crate) fn hang_removals(&self) -> impl Sized + use<> {
        self.0.layout.calls().hold_removals()
    }

    /// No call that reads what is not in memory ends before the result is dropped.
    #[cfg(test)]
    pub(crate) fn hang_reads(&self) -> impl Sized + use<> {
        self.0.layout.calls().hold_reads()
    }

    /// Nothing that is written later is written before the sender is dropped.
    #[cfg(test)]
    pub(crate) async fn hold_writes(&self) -> std::sync::mpsc::Sender<()> {
        let (held, release) = std::sync::mpsc::channel();
        let wait = move || {
            let _ = release.recv();
        };
        self.0.records.writes().later(wait).await;
        held
    }

    /// No write has a place before the result is dropped.
    #[cfg(test)]
    pub(crate) fn fill_writes(&self) -> impl Sized + use<> {
        self.0.records.writes().fill_places()
    }

    /// Opens a blob; `None` if it is absent. A damaged one is moved to quarantine and counts as absent, and so does one
    /// that the disk does not give: whatever the disk does, the content can be had from upstream.
    pub async fn blob(&self, digest: Digest) -> Option<Blob> {
        self.0.blobs.lookup(digest).await
    }

    /// A blob that the registry of `repository` itself has sent, and what it is there, if `repository` may serve it;
    /// `None` as [`Store::blob`]. What was looked up a moment ago costs no trip to another thread, anything else one.
    pub async fn received_blob(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Option<(Blob, Option<Member>)> {
        if let Some(member) = self.0.records.known(repository, digest)
            && let Some(blob) = self.0.blobs.find_open(digest)
        {
            return Some((blob, Some(member)));
        }
        let (store, repository) = (self.clone(), repository.clone());
        let look = move |call: &mut Call<'_>| {
            if !store.0.records.look_for_receipt(repository.registry(), digest) {
                return None;
            }
            let blob = store.0.blobs.open(digest, call)?;
            Some((blob, store.0.records.look_for_member(&repository, digest)))
        };
        blocking::found(blocking::read(self.0.layout.calls(), look).await)
    }

    /// Notes that a blob was used without being opened. Never blocks.
    pub fn record_access(&self, digest: Digest) {
        self.0.blobs.record_access(digest);
    }

    /// Moves a blob that failed a check while it was read to quarantine; the next reader fetches it anew.
    pub async fn quarantine(&self, blob: &Blob, reason: String) {
        self.0.blobs.quarantine_damaged(blob, reason).await;
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod image_tests;
#[cfg(test)]
mod lifecycle_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
#[cfg(feature = "model")]
mod schedule_tests;
#[cfg(test)]
mod tests;
