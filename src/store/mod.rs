//! The store: an OCI image layout on disk that never serves a wrong byte.
//!
//! Promises: a blob exists only after its digest was proved and its bytes are durable; every chunk is checked before it
//! leaves; a crash at any instant loses nothing committed and leaves nothing half done that the next start does not
//! remove; the files are the truth and the index is derived from them; the store stays within its budget.
//!
//! The folders, of which each uses those above it, and of the files beside them `error`, `metrics` and `open`:
//!
//! - `disk`: calls to the disk, whether one hangs and whether writing fails.
//! - `layout`: the tree of files, and how its small files are written, one by one, in batches and after the answer.
//! - `budget`: how many bytes there may be, which are reserved, whose they are and which go first: values.
//! - `integrity`: a checksum for each chunk of a blob.
//! - `read`: blobs are opened, compared and read.
//! - `receive`: bytes come in, are hashed, can be read meanwhile, and are verified.
//! - `records`: which digests a repository may serve and to whom, what its tags name, what is pinned.
//! - `index`: sizes and last access, derived from the files.
//! - `quarantine`: blobs that failed a check are moved away.
//! - `admission`: what comes in stays within the budget, by evicting what is there.
//! - `inventory`: images by name, for an operator; the blobs of one that is removed go through `blobs`.
//! - `maintenance`: what the store does by itself.
//!
//! Above them is the front: [`Store`] owns its `components`, each constructed from what it needs, and moves their
//! blocking work off the async threads. Blobs come in, are opened and leave through `blobs`. How content is written is
//! in `content`, how it is opened for readers in `reading`, what concerns images by name in `images`.
//!
//! Not here: where bytes come from, and who may read them (`pull` decides by the records).

mod admission;
mod blobs;
mod budget;
mod components;
mod content;
mod disk;
mod error;
#[cfg(test)]
mod for_tests;
mod images;
mod index;
mod integrity;
mod inventory;
mod layout;
mod maintenance;
pub mod metrics;
mod open;
mod quarantine;
mod read;
mod reading;
mod receive;
mod records;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use budget::share::Owner;
pub use budget::{Amount, Budget, StoreLimits};
pub use content::{WholeContent, WriteWhen};
pub use disk::calls::READS_MAX;
pub use disk::calls_under_way::HANGS_AFTER;
pub use disk::health::WriteFailure;
pub use error::Error;
pub use index::totals::Totals;
pub use inventory::contents::{ImageContents, PlatformContents};
pub use inventory::{CachedImage, RemovedImage};
pub use maintenance::verify::{Finding, Verifier};
pub use read::blob::Blob;
pub use read::recent_comparisons::RecentComparisons;
pub use receive::growing::GrowingBlob;
pub use receive::hashing::{ContentHash, HASH_BATCH_BYTES};
pub use receive::ingest::{Ingest, Verified};
pub use receive::partial::PartialBlob;
pub use records::Records;
pub use records::aliases::SynthesizedIndex;
pub use records::members::Member;
pub use records::pins::Pin;
pub use records::tags::TagRecord;

use crate::reference::Digest;
use crate::support::clock::{Clock, Timestamp};
use crate::support::shutdown::Shutdown;
use admission::Admission;
use components::Components;
use disk::blocking;
use metrics::Metrics;
use read::limits::ReadLimits;

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
        Self::open_with(config, &clock, &metrics, ReadLimits::default(), open::is_read_only)
    }

    /// The same with other limits of reading, and another word on whether the filesystem takes nothing.
    fn open_with(
        config: &Config,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        limits: ReadLimits,
        is_read_only: fn(&Path) -> bool,
    ) -> Result<Self, Error> {
        Components::open(&config.path, config.budget, clock, metrics, limits, is_read_only)
            .map(|all| Self(Arc::new(all)))
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

    /// Why fetched content is not stored; `None` while it is.
    pub fn write_failure(&self) -> Option<WriteFailure> {
        self.0.health.write_failure()
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

/// What may be stored, and waiting for what is being written.
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

    /// Remembers that a blob of `bytes` was asked for; returns whether it is better not stored, because this is the
    /// first time and it would push out much of what is.
    pub async fn pass_by_unless_asked_before(&self, digest: Digest, bytes: u64) -> bool {
        self.ask_of_large(bytes, move |admission, now| {
            admission.pass_by_unless_asked_before(digest, bytes, now)
        })
        .await
    }

    /// Whether it would better not be stored, if it were asked for; remembers nothing.
    pub async fn is_passed_by(&self, digest: Digest, bytes: u64) -> bool {
        self.ask_of_large(bytes, move |admission, now| admission.is_passed_by(digest, bytes, now)).await
    }

    /// The answer to a question that is asked only of large blobs; no is that to any other.
    async fn ask_of_large(
        &self,
        bytes: u64,
        ask: impl FnOnce(&Admission, Timestamp) -> bool + Send + 'static,
    ) -> bool {
        if !budget::large::may_be_large(bytes) {
            return false;
        }
        let (admission, now) = (Arc::clone(&self.0.admission), self.clock().now());
        blocking::find(self.0.layout.calls(), move || Some(ask(&admission, now))).await.unwrap_or(false)
    }

    /// Whether nothing is written for a while, because the disk failed a moment ago or hangs.
    pub fn is_paused(&self) -> bool {
        self.0.health.is_paused()
    }

    /// Waits until everything is durable that was to be written later, however long the disk takes.
    pub async fn flush(&self) {
        self.0.records.writes().flush().await;
    }

    /// As [`Store::flush`], but no longer than `FLUSH_WAIT`; `false` if it was not enough.
    pub async fn flush_for_a_while(&self) -> bool {
        tokio::time::timeout(FLUSH_WAIT, self.flush()).await.is_ok()
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
