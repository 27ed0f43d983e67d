//! The store: an OCI image layout on disk that never serves a wrong byte.
//!
//! Promises: a blob exists only after its digest was proved and its bytes are durable; every chunk is checked before it
//! leaves; a crash at any instant loses nothing committed and leaves nothing half done that the next start does not
//! remove; the files are the truth and the index is derived from them; the store stays within its budget.
//!
//! [`Store`] owns its components and moves their blocking work off the async threads: `records` (which digests a
//! repository may serve), `blobs` (receiving and reading content), `admission` (the budget), `index` (sizes and last
//! access), `health` (the disk), `pins`, `inventory` and `maintenance`. Each is constructed from what it needs.
//!
//! Not here: where bytes come from, and who may read them (`pull` decides by the records).

mod admission;
mod blob;
mod blobs;
mod blocking;
mod budget;
mod buffers;
mod changes;
mod checked_file;
mod components;
mod contents;
mod error;
mod evict;
mod failpoints;
mod file_identity;
mod growing;
mod hashing;
mod health;
mod in_use;
mod index;
mod ingest;
mod integrity;
mod inventory;
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
mod records;
mod reserve;
mod share;
mod write_behind;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use blob::Blob;
pub use budget::{Amount, Budget, StoreLimits};
pub use contents::{ImageContents, PlatformContents};
pub use error::Error;
pub use growing::GrowingBlob;
pub use index::totals::Totals;
pub use ingest::{Ingest, Verified};
pub use inventory::{CachedImage, RemovedImage};
pub use maintenance::verify::{Finding, Verifier};
pub use partial::PartialBlob;
pub use pins::Pin;
pub use records::Records;
pub use records::aliases::SynthesizedIndex;
pub use records::members::Member;
pub use records::tags::TagRecord;
pub use share::Owner;

use crate::reference::{Digest, Reference, Repository};
use crate::support::clock::Clock;
use crate::support::shutdown::Shutdown;
use components::Components;
use metrics::Metrics;

/// How long a stop waits for what is to be written: a manifest is fetched again if it was lost.
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
        Components::open(&config.path, config.budget, &clock, &metrics).map(|all| Self(Arc::new(all)))
    }

    /// Enforces the budget, keeps `index.json` in step with the tags, scrubs blobs and expires records, until `shutdown`,
    /// then closes the index.
    pub async fn maintain(self, shutdown: Shutdown) {
        self.0.maintenance.run(shutdown).await;
        self.close().await;
    }

    /// Closes the index cleanly, so that the next start need not rebuild it, and releases the lock. What outlives this,
    /// such as a download whose registry hangs, can still read and changes no file any more.
    pub async fn close(&self) {
        if tokio::time::timeout(FLUSH_WAIT, self.flush()).await.is_err() {
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

    /// What the blobs may occupy; `None` if the size of its filesystem is unknown.
    pub fn limits(&self) -> Option<StoreLimits> {
        self.0.admission.limits()
    }

    /// Evicts what exceeds the budget; returns how many bytes that freed.
    ///
    /// # Errors
    /// A panic of the eviction.
    pub async fn enforce_budget(&self) -> Result<u64, Error> {
        let admission = Arc::clone(&self.0.admission);
        blocking::run(move || Ok(admission.enforce_budget())).await
    }

    /// Whether fetched content is stored: not for a while after the disk failed.
    pub fn is_caching(&self) -> bool {
        self.0.health.is_caching()
    }

    /// Whether one blob has been damaged on disk again and again: the disk does not hold what is written to it.
    pub fn is_disk_failing(&self) -> bool {
        self.0.health.is_failing()
    }

    /// Takes note of a failure to store something: if the disk failed, nothing is written for a while.
    pub fn record_failure(&self, error: &Error) {
        self.0.health.record_failure(error);
    }

    /// Whether a failure to store something is worth a line in the log: not during the pause after a failure of the disk,
    /// and once a minute for a full store, because each blob that is passed through fails anew.
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
        if self.0.health.is_paused() {
            return Err(Error::Paused);
        }
        let admission = Arc::clone(&self.0.admission);
        blocking::run(move || admission.check(owner, bytes)).await
    }

    /// Begins to receive the content of `digest` from `owner`, of `declared` bytes where upstream said so.
    ///
    /// # Errors
    /// A declared size beyond 1 TiB; no space; the disk, or that it failed a moment ago.
    pub async fn begin(&self, digest: Digest, declared: Option<u64>, owner: Owner) -> Result<Ingest, Error> {
        let store = self.clone();
        blocking::run(move || store.begin_write(digest, declared, owner)).await
    }

    /// The one place where a write of content begins, so that none is tried while the disk is given a pause. Blocks.
    fn begin_write(&self, digest: Digest, declared: Option<u64>, owner: Owner) -> Result<Ingest, Error> {
        if self.0.health.is_paused() {
            return Err(Error::Paused);
        }
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

    /// Commits verified content that an endpoint of `repository`'s registry delivered; `member` is what it is there, if the
    /// registry itself says that the repository has it: first the membership, then the bytes, so that
    /// no request finds a blob whose membership is still being written and asks upstream for it. A membership without
    /// bytes is what an eviction leaves too: it opens nothing. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub fn commit(
        &self,
        verified: Verified,
        repository: &Repository,
        member: Option<&Member>,
    ) -> Result<(), Error> {
        let recorded = self.0.records.add_received(repository, &verified.digest(), member);
        let committed = recorded.and_then(|()| self.0.blobs.commit(verified));
        committed.inspect_err(|error| self.record_failure(error))
    }

    /// Stores small content that is complete in memory, such as a manifest. It counts for its registry and is not refused
    /// for that registry's share: no more is asked for than what a pull names.
    ///
    /// # Errors
    /// Content that is not `digest`'s; no space; the disk, or that it failed a moment ago.
    pub async fn put(
        &self,
        repository: &Repository,
        digest: Digest,
        content: Bytes,
        member: Member,
    ) -> Result<(), Error> {
        let (store, repository) = (self.clone(), repository.clone());
        blocking::run(move || store.write(&repository, digest, &content, &member)).await
    }

    /// As [`Store::put`], for an answer that does not wait for the disk: behind what is being written already, so that a
    /// record that is written later never names content that is not durable. The caller keeps the content until then.
    /// `done` is told whether it is stored.
    pub async fn put_later(
        &self,
        repository: &Repository,
        digest: Digest,
        content: Bytes,
        member: Member,
        done: impl FnOnce(bool) + Send + 'static,
    ) {
        self.write_later(repository, digest, content, member, |_, _| true, done).await;
    }

    /// As [`Store::put_later`], for content that was stored: it is written only if its blob has left the store.
    pub async fn restore_later(
        &self,
        repository: &Repository,
        digest: Digest,
        content: Bytes,
        member: Member,
        done: impl FnOnce(bool) + Send + 'static,
    ) {
        let is_gone =
            move |store: &Self, content: &Bytes| !store.0.blobs.is_on_disk(&digest, content.len() as u64);
        self.write_later(repository, digest, content, member, is_gone, done).await;
    }

    async fn write_later(
        &self,
        repository: &Repository,
        digest: Digest,
        content: Bytes,
        member: Member,
        is_needed: impl FnOnce(&Self, &Bytes) -> bool + Send + 'static,
        done: impl FnOnce(bool) + Send + 'static,
    ) {
        let (store, repository) = (self.clone(), repository.clone());
        let write = move || {
            let written = if is_needed(&store, &content) {
                store.write(&repository, digest, &content, &member)
            } else {
                Ok(())
            };
            done(written.is_ok());
            if let Err(error) = written
                && store.should_log(&error)
            {
                let cause = error.cause();
                tracing::error!(%repository, %digest, %error, cause, "a manifest is served but could not be stored");
            }
        };
        self.0.records.writes().later(write).await;
    }

    /// Whether nothing is written for a while, because the disk failed a moment ago.
    pub fn is_paused(&self) -> bool {
        self.0.health.is_paused()
    }

    /// How many blobs have left the store since its start, by eviction, removal, quarantine or from outside. As long as it
    /// stays the same, what was there is there.
    pub fn removals(&self) -> u64 {
        self.0.blobs.removals()
    }

    /// Waits until everything is durable that was to be written later.
    pub async fn flush(&self) {
        self.0.records.writes().flush().await;
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

    /// Blocks.
    fn write(
        &self,
        repository: &Repository,
        digest: Digest,
        content: &Bytes,
        member: &Member,
    ) -> Result<(), Error> {
        let owner = Owner::unlimited(repository.registry());
        let mut ingest = self.begin_write(digest, Some(content.len() as u64), owner)?;
        ingest.write(content).inspect_err(|error| self.record_failure(error))?;
        ingest.hash(content);
        self.commit(ingest.verify()?, repository, Some(member))
    }

    /// Opens a blob; `None` if it is absent. A damaged one is moved to quarantine and counts as absent, and so does one
    /// that the disk does not give: whatever the disk does, the content can be had from upstream.
    pub async fn blob(&self, digest: Digest) -> Option<Blob> {
        self.0.blobs.lookup(digest).await
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

/// Images: what is in the store by name, and pins.
impl Store {
    /// Every tag, and every image that is pinned by its digest.
    ///
    /// # Errors
    /// A panic of the listing.
    pub async fn inventory(&self) -> Result<Vec<CachedImage>, Error> {
        self.flush().await;
        let inventory = self.0.inventory.clone();
        blocking::run(move || Ok(inventory.list())).await
    }

    /// What is in the store of one image; `None` of a tag that upstream never confirmed.
    ///
    /// # Errors
    /// A panic of the reading.
    pub async fn contents(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<ImageContents>, Error> {
        self.flush().await;
        let (root, confirmed_at) = match reference {
            Reference::Digest(digest) => (*digest, None),
            Reference::Tag(tag) => match self.records().tag(repository, tag).await {
                Some(record) => (record.digest, Some(record.confirmed_at)),
                None => return Ok(None),
            },
        };
        let layout = self.0.layout.clone();
        blocking::run(move || Ok(Some(ImageContents::read(&layout, root, confirmed_at)))).await
    }

    /// Removes a tag, the pins of the reference, and the blobs that no other tag or pin needs. Blobs that are being read
    /// stay until they are evicted.
    ///
    /// # Errors
    /// The disk; parts of the image may have been removed before.
    pub async fn remove_image(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<RemovedImage, Error> {
        self.flush().await;
        self.0.inventory.remove(repository, reference).await
    }

    /// Pins an image: nothing of it is evicted from now on.
    ///
    /// # Errors
    /// The disk; an image with more than 800 manifests and blobs.
    pub async fn pin(&self, pin: Pin) -> Result<(), Error> {
        let pins = self.0.pins.clone();
        blocking::run(move || pins.add(pin)).await
    }

    /// Ends the pins that were made for a reference, or for the digest it had; returns how many there were.
    ///
    /// # Errors
    /// The disk; some pins may have ended before.
    pub async fn unpin(&self, repository: &Repository, reference: &Reference) -> Result<usize, Error> {
        let pins = self.0.pins.clone();
        let repository = repository.clone();
        let reference = reference.to_string();
        blocking::run(move || pins.remove_matching(&repository, &reference)).await
    }

    /// Ends one pin.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_pin(&self, pin: Pin) -> Result<(), Error> {
        let pins = self.0.pins.clone();
        blocking::run(move || pins.remove(&pin)).await
    }

    /// The images that are pinned.
    pub fn pins(&self) -> Vec<Pin> {
        self.0.pins.list()
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
