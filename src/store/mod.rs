//! The store: an OCI image layout on disk that never hands out a wrong byte.
//!
//! Promises: a blob exists only after its digest was proved and its bytes are durable; every chunk is checked before
//! it leaves; a crash at any instant loses nothing committed and leaves nothing half done that the next start does
//! not sweep; the files are the truth and the index is derived from them; it stays within its budget.
//!
//! Deliberately not here: where bytes come from, and who may read them (it records memberships and grants, `pull`
//! judges them).

mod admission;
mod blob;
mod buffers;
mod error;
pub mod evict;
mod failpoints;
mod growing;
mod hashing;
mod index;
mod ingest;
mod integrity;
mod inventory;
mod last_access;
mod layout;
mod maintenance;
pub mod metrics;
mod open;
mod pins;
mod records;
mod reserve;
mod table;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use blob::Blob;
pub use error::Error;
pub use growing::GrowingBlob;
pub use ingest::{Ingest, Verified};
pub use inventory::{CachedImage, RemovedImage};
pub use maintenance::scrub::{Finding, Verifier};
pub use pins::Pin;
pub use records::aliases::SynthesizedIndex;
pub use records::tags::{Member, TagRecord};
pub use reserve::{Amount, Budget, StoreLimits, Totals};

use crate::reference::{Digest, Repository};
use crate::support::clock::{Clock, Moment};
use index::Index;
use layout::Layout;
use metrics::Metrics;
use reserve::Space;

/// Bytes at most of one blob whose size upstream did not declare.
const BLOB_BYTES_MAX: u64 = 1 << 40;
/// How long the disk is left alone after it failed.
const DISK_PAUSE: Duration = Duration::from_secs(10);
/// How often the log says that there is no room.
const NO_ROOM_SAID_EVERY: Duration = Duration::from_secs(60);

/// Where the store is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its root directory; made if it is missing.
    pub path: PathBuf,
    /// How large it may get.
    pub budget: Budget,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    layout: Layout,
    clock: Clock,
    metrics: Arc<Metrics>,
    index: Index,
    tags_changed: Notify,
    failed_at: Mutex<Option<Moment>>,
    no_room_said: Mutex<Option<Moment>>,
    budget: Budget,
    space: Space,
    opens: blob::Opens,
    touched: last_access::Touched,
    /// Held while room is made, so that two do not count the same bytes. Nothing else is locked under it.
    making_room: Mutex<()>,
    _lock: open::Lock,
}

impl Store {
    /// Takes possession of the store at `config.path`. Blocks for a moment; serves while the index is rebuilt.
    ///
    /// # Errors
    /// Another daemon has it, its format is unknown, or the disk refuses.
    pub fn open(config: &Config, clock: Clock, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let layout = Layout::new(&config.path);
        let lock = open::take_possession(&layout)?;
        let space = Space::default();
        let index = Index::start(layout.clone(), clock.clone(), Arc::clone(&metrics), space.clone())?;
        let tags_changed = Notify::new();
        tags_changed.notify_one();
        metrics.caching.set(1);
        Ok(Self(Arc::new(Inner {
            layout,
            clock,
            metrics,
            index,
            tags_changed,
            failed_at: Mutex::default(),
            no_room_said: Mutex::default(),
            budget: config.budget,
            space,
            opens: blob::Opens::default(),
            touched: last_access::Touched::default(),
            making_room: Mutex::default(),
            _lock: lock,
        })))
    }

    /// The clock that its records are dated by.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        self.0.layout.root()
    }

    /// Blobs and their bytes, as far as the index knows.
    pub fn totals(&self) -> Totals {
        let positive = |n: i64| u64::try_from(n).unwrap_or(0);
        Totals { blobs: positive(self.0.metrics.blobs.get()), bytes: positive(self.0.metrics.bytes.get()) }
    }

    /// How much it may hold; `None` if its filesystem does not say how large that is.
    pub fn limits(&self) -> Option<StoreLimits> {
        let disk = reserve::Disk::of(self.0.layout.root())?;
        Some(StoreLimits {
            max_bytes: self.0.budget.max.of(disk.total),
            free_bytes: disk.free,
            capacity_bytes: self.capacity(Some(disk)),
        })
    }

    fn capacity(&self, disk: Option<reserve::Disk>) -> u64 {
        reserve::capacity(&self.0.budget, disk, self.totals().bytes)
    }

    /// Whether what is fetched is stored: not for a while after the disk failed.
    pub fn is_caching(&self) -> bool {
        self.0.metrics.caching.get() == 1
    }

    /// Opens a blob; `None` if it is not there. A damaged one is set aside and counts as not there.
    ///
    /// # Errors
    /// The disk.
    pub async fn blob(&self, digest: Digest) -> Result<Option<Blob>, Error> {
        if let Some(blob) = self.0.opens.find(&digest) {
            self.record_access(digest);
            return Ok(Some(blob));
        }
        let inner = Arc::clone(&self.0);
        let opened = blocking(move || match Blob::open(&inner.layout, &digest, &inner.space) {
            Err(Error::Damaged { digest, reason }) => inner.set_aside(&digest, &reason).map(|()| None),
            opened => opened,
        })
        .await?;
        match &opened {
            Some(blob) => {
                self.0.opens.keep(blob);
                self.record_access(digest);
            }
            // Whoever took it from outside did not tell the index.
            None => self.0.index.forget(digest),
        }
        Ok(opened)
    }

    /// A blob is in use, though not read from here. Never blocks.
    pub fn record_access(&self, digest: Digest) {
        if self.0.touched.is_news(digest, self.0.clock.now()) {
            self.0.index.touch(digest);
        }
    }

    /// Sets a blob aside that failed a check while it was read; the next reader fetches it anew.
    ///
    /// Those who read it together find the damage one after the other: only the first sets it aside, or the last would do
    /// so with what was fetched anew.
    pub async fn quarantine(&self, blob: &Blob, reason: String) {
        let (inner, digest) = (Arc::clone(&self.0), blob.digest());
        if !inner.opens.take(blob) {
            return;
        }
        let done = blocking(move || inner.set_aside(&digest, &reason)).await;
        if let Err(error) = done {
            tracing::error!(%digest, %error, "a damaged blob could not be set aside");
        }
    }

    /// Begins to receive the content of `digest`, of `declared` bytes where upstream said so.
    ///
    /// # Errors
    /// A declared size beyond 1 TiB; no room; the disk, or that it failed a moment ago.
    pub async fn begin(&self, digest: Digest, declared: Option<u64>) -> Result<Ingest, Error> {
        if self.is_paused() {
            return Err(Error::Paused);
        }
        let inner = Arc::clone(&self.0);
        let begun = blocking(move || inner.begin(digest, declared)).await;
        if let Err(error) = &begun {
            self.record_failure(error);
        }
        begun
    }

    /// Takes note that storing something failed: if the disk did, it is left alone for a while.
    pub fn record_failure(&self, error: &Error) {
        if let Error::Io { .. } = error {
            *self.failed_at() = Some(Moment::recorded(self.0.clock.now()));
            self.0.metrics.caching.set(0);
        }
    }

    /// Whether a failure to store something is worth a line in the log: not while the disk is left alone after one that
    /// was, and a lack of room once in a while only, because it lasts and each blob that is passed through finds it anew.
    pub fn should_log(&self, error: &Error) -> bool {
        match error {
            Error::Paused => false,
            Error::Full { .. } => {
                let (mut said, now) = (locked(&self.0.no_room_said), self.0.clock.now());
                let silent = said.is_some_and(|at| at.age_at(now) < NO_ROOM_SAID_EVERY);
                if !silent {
                    *said = Some(Moment::recorded(now));
                }
                !silent
            }
            _ => true,
        }
    }

    fn failed_at(&self) -> MutexGuard<'_, Option<Moment>> {
        locked(&self.0.failed_at)
    }

    fn is_paused(&self) -> bool {
        let mut failed = self.failed_at();
        if failed.is_some_and(|at| at.age_at(self.0.clock.now()) < DISK_PAUSE) {
            return true;
        }
        if failed.take().is_some() {
            tracing::info!("the store's disk is tried again");
            self.0.metrics.caching.set(1);
        }
        false
    }

    /// Commits verified content that `repository`'s own upstream delivered, and remembers that it did: first the right
    /// to hand it out, then the bytes, so that nobody finds a blob whose right is still being written and asks upstream
    /// for it. A right without bytes is what an eviction leaves, too: it opens nothing. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub fn commit(&self, verified: Verified, repository: &Repository, member: &Member) -> Result<(), Error> {
        let (digest, size) = (verified.digest(), verified.size());
        let reserved = records::tags::add_member(&self.0.layout, repository, &digest, member)
            .and_then(|()| {
                records::tags::add_received(
                    &self.0.layout,
                    repository.registry(),
                    &digest,
                    self.0.clock.now(),
                )
            })
            .and_then(|()| verified.commit())
            .inspect_err(|error| self.record_failure(error))?;
        self.0.index.put(digest, size, reserved);
        Ok(())
    }

    /// Stores small content that is already in memory and proved, such as a manifest.
    ///
    /// # Errors
    /// Content that is not `digest`'s; the disk.
    pub async fn put(
        &self,
        repository: &Repository,
        digest: Digest,
        content: bytes::Bytes,
        member: Member,
    ) -> Result<(), Error> {
        let (store, repository) = (self.clone(), repository.clone());
        blocking(move || {
            let declared = Some(content.len() as u64);
            let mut ingest = store.0.begin(digest, declared)?;
            ingest.write(&content)?;
            ingest.hash(&content);
            store.commit(ingest.verify()?, &repository, &member)
        })
        .await
    }
}

impl Inner {
    fn set_aside(&self, digest: &Digest, reason: &str) -> Result<(), Error> {
        self.opens.forget(digest);
        if maintenance::quarantine::set_aside(&self.layout, digest, reason, self.clock.now())? {
            self.index.remove(*digest);
            self.metrics.quarantined.inc();
        }
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(Error::Io {
            what: "work on",
            path: PathBuf::from("the store"),
            source: Arc::new(std::io::Error::other(panic.to_string())),
        })
    })
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
