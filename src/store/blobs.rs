//! The blobs of the store: receiving, opening, removing and quarantining them, each change passed on to the index.
//!
//! Promises: a blob is opened once for all its readers; a damaged blob is quarantined by the first reader that finds
//! the damage and by no other; a blob that is being read is not removed.

use std::sync::Arc;

use crate::reference::Digest;
use crate::store::admission::Admission;
use crate::store::budget::share::Owner;
use crate::store::disk::blocking;
use crate::store::disk::calls::{Call, DiskCalls};
use crate::store::disk::health::Health;
use crate::store::disk::low_priority;
use crate::store::error::Error;
use crate::store::index::Index;
use crate::store::index::last_access::LastAccess;
use crate::store::layout::Layout;
use crate::store::layout::batch::Outcome;
use crate::store::metrics::Metrics;
use crate::store::quarantine::Quarantine;
use crate::store::read::blob::{Blob, OpenFile, Opened};
use crate::store::read::open_blobs::OpenBlobs;
use crate::store::read::rehashing::{Rehashing, Turn};
use crate::store::read::removals::Removals;
use crate::store::receive::ingest::{Ingest, Verified};
use crate::support::clock::Clock;

/// Receives and opens blobs.
pub(super) struct Blobs {
    layout: Layout,
    clock: Clock,
    index: Index,
    admission: Arc<Admission>,
    quarantine: Quarantine,
    open_blobs: Arc<OpenBlobs>,
    health: Arc<Health>,
    last_access: LastAccess,
    rehashing: Rehashing,
}

/// What there is of a blob on the disk.
enum Sought {
    Found(Blob),
    /// Also one that was found damaged, and moved away.
    Absent,
    /// Of so many bytes, which have to be hashed before they are read.
    WithoutChecksums(u64),
}

impl Sought {
    fn found(self) -> Option<Blob> {
        match self {
            Self::Found(blob) => Some(blob),
            Self::Absent | Self::WithoutChecksums(_) => None,
        }
    }
}

impl Blobs {
    /// The blobs under `layout`. `open_blobs` is what eviction respects, and forgets.
    pub(super) fn new(
        layout: Layout,
        clock: Clock,
        index: Index,
        admission: Arc<Admission>,
        open_blobs: Arc<OpenBlobs>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let quarantine = Quarantine::new(
            layout.clone(),
            clock.clone(),
            index.clone(),
            Arc::clone(&open_blobs),
            admission.quarantine().clone(),
            Arc::clone(&health),
            metrics,
        );
        let (last_access, rehashing) = (LastAccess::new(), Rehashing::default());
        Self { layout, clock, index, admission, quarantine, open_blobs, health, last_access, rehashing }
    }

    /// Where damaged blobs go.
    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Begins to receive the content of `digest`, of `declared` bytes where upstream said so. Nothing is reserved yet,
    /// but content that cannot be had room for is not begun. Blocks.
    ///
    /// # Errors
    /// A declared size beyond 1 TiB; no space; the disk.
    pub(super) fn begin(&self, digest: Digest, declared: Option<u64>, owner: Owner) -> Result<Ingest, Error> {
        let admission = Arc::clone(&self.admission);
        admission.check(owner, declared.unwrap_or(1))?;
        let reserve = Box::new(move |bytes| admission.reserve(owner, bytes));
        Ingest::begin(&self.layout, digest, declared, owner.id, reserve, self.open_blobs.mark_in_use(&digest))
    }

    /// Verified content was staged, and this became of it: a blob that exists is counted from now on. A change of the
    /// layout must be under way since it was staged, because the index outlives every change. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn end_commit(&self, verified: Verified, outcome: Outcome) -> Result<(), Error> {
        let digest = verified.digest();
        let (size, owner) = (verified.size(), verified.owner());
        match outcome {
            Outcome::Failed(error) => return Err(error),
            Outcome::NamesNothing => return Ok(()),
            Outcome::Durable => self.health.record_success(),
            Outcome::Fragile(error) => {
                self.health.record_failure(&error);
                tracing::error!(%digest, %error, cause = error.cause(), "a blob is stored, but a power cut may lose it");
            }
        }
        // An equal blob that was there has been replaced: its file is on disk for as long as it is open.
        self.open_blobs.forget(&digest);
        self.index.add(digest, size, owner, verified.named());
        Ok(())
    }

    /// Opens a blob; `None` if it is absent. A damaged one is moved to quarantine and counts as absent, and so does one
    /// that the disk does not give.
    pub(super) async fn lookup(self: &Arc<Self>, digest: Digest) -> Option<Blob> {
        if let Some(blob) = self.find_open(digest) {
            return Some(blob);
        }
        let this = Arc::clone(self);
        blocking::found(blocking::read(self.layout.calls(), move |call| this.open(digest, call)).await)
    }

    /// A blob that is open already. Asks no disk.
    pub(super) fn find_open(&self, digest: Digest) -> Option<Blob> {
        let blob = self.open_blobs.find(&digest)?;
        self.record_access(digest);
        Some(blob)
    }

    /// As [`Blobs::lookup`]. Blocks.
    pub(super) fn open(self: &Arc<Self>, digest: Digest, call: &mut Call<'_>) -> Option<Blob> {
        if let Some(blob) = self.find_open(digest) {
            return Some(blob);
        }
        let opened = self.open_or_quarantine(digest, call).unwrap_or_else(|error| {
            tracing::error!(%digest, %error, cause = error.cause(), "a cached blob cannot be opened; upstream is asked");
            None
        });
        match &opened {
            Some(_) => self.record_access(digest),
            None => self.index.recheck(digest),
        }
        opened
    }

    /// Notes that a blob was used. Never blocks.
    pub(super) fn record_access(&self, digest: Digest) {
        if self.last_access.note(digest, self.clock.now()) {
            self.index.record_access(digest);
        }
    }

    /// Moves a blob that failed a check while it was read to quarantine. Does not wait for a disk that hangs; the file
    /// is not opened again meanwhile.
    ///
    /// All its readers find the damage, one after the other. Only the first moves it: the last would move the blob that
    /// has been fetched anew meanwhile.
    pub(super) async fn quarantine_damaged(self: &Arc<Self>, blob: &Blob, reason: String) {
        let digest = blob.digest();
        if !self.open_blobs.remove(blob) {
            return;
        }
        let (this, identity, file) = (Arc::clone(self), blob.file_identity(), blob.file().clone());
        self.quarantine.remember(digest, identity);
        let moved = move || {
            if file.has_sound_checksums() {
                this.quarantine.add(&digest, identity, &reason);
            } else {
                this.discard_checksums(&digest, &reason);
                this.quarantine.forget(&digest);
            }
            Ok(())
        };
        if let Err(error) = blocking::record(self.layout.calls(), moved).await {
            tracing::error!(%digest, %error, cause = error.cause(), "a damaged blob could not be moved to quarantine");
        }
    }

    /// Removes checksums that are not those that were written: the blob is hashed when it is opened next, and has new
    /// ones then if it is sound. Blocks.
    fn discard_checksums(&self, digest: &Digest, reason: &str) {
        match self.layout.remove(&self.layout.checks_of(digest)) {
            Ok(_) => {
                tracing::warn!(%digest, reason, "the checksums of a blob are damaged and were removed; it is hashed again")
            }
            Err(error) => {
                let cause = error.cause();
                tracing::error!(%digest, reason, %error, cause, "the damaged checksums of a blob cannot be removed");
            }
        }
    }

    /// Removes a blob, unless it is being read; `false` if it is. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn remove_idle(&self, digest: &Digest) -> Result<bool, Error> {
        if self.open_blobs.is_in_use(digest) {
            return Ok(false);
        }
        let _change = self.layout.change()?;
        self.open_blobs.forget(digest);
        self.layout.remove(&self.layout.blob(digest))?;
        self.open_blobs.removals().add(*digest);
        // After its file, so that a file that cannot be removed stays counted.
        self.index.remove(*digest);
        // Checksums without their blob do no harm; the next commit replaces them.
        let _ = self.layout.remove(&self.layout.checks_of(digest));
        Ok(true)
    }

    /// The blobs that have left the store since its start.
    pub(super) fn removals(&self) -> &Removals {
        self.open_blobs.removals()
    }

    /// Whether the file of a blob is there, with its size; its bytes are not looked at. Blocks.
    pub(super) fn is_on_disk(&self, digest: &Digest, size: u64) -> bool {
        std::fs::metadata(self.layout.blob(digest)).is_ok_and(|file| file.is_file() && file.len() == size)
    }

    /// As [`Blobs::open`]. A blob without checksums is hashed by one of those who open it; a large one is hashed
    /// meanwhile, and absent until then.
    fn open_or_quarantine(
        self: &Arc<Self>,
        digest: Digest,
        call: &mut Call<'_>,
    ) -> Result<Option<Blob>, Error> {
        let size = match self.open_file(digest, false, call)? {
            Sought::Found(blob) => return Ok(Some(blob)),
            Sought::Absent => return Ok(None),
            Sought::WithoutChecksums(size) => size,
        };
        if size > self.open_blobs.limits().waited_for_bytes {
            if let Some(turn) = self.rehashing.turn_of_large() {
                self.hash_meanwhile(digest, size, turn);
            }
            return Ok(None);
        }
        let Some(_turn) = call.apart(|| self.rehashing.turn(digest)) else { return Ok(None) };
        match self.open_blobs.find(&digest) {
            Some(blob) => Ok(Some(blob)),
            None => Ok(self.open_file(digest, true, call)?.found()),
        }
    }

    /// Makes the checksums of a blob anew, on a thread of low priority, and keeps the blob open.
    fn hash_meanwhile(self: &Arc<Self>, digest: Digest, size: u64, turn: Turn) {
        tracing::warn!(%digest, size, "a large blob has lost its checksums: it is hashed again, and absent until then");
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let this = Arc::clone(self);
        let hash = low_priority::run(move || {
            let _turn = turn;
            // No answer waits for it, and at this priority it says nothing of the disk.
            let calls = DiskCalls::of_command();
            this.open_file(digest, true, &mut calls.begin_read()).map(drop)
        });
        runtime.spawn(async move {
            if let Err(error) = hash.await {
                tracing::error!(%digest, %error, cause = error.cause(), "a blob cannot be hashed again");
            }
        });
    }

    /// Opens the file of a blob, after it was hashed again where it has no checksums and that may be done.
    fn open_file(&self, digest: Digest, may_hash: bool, call: &mut Call<'_>) -> Result<Sought, Error> {
        let is_refused = |file| self.quarantine.remembers(&digest, file);
        let limits = self.open_blobs.limits();
        Ok(match OpenFile::open(&self.layout, &digest, limits, is_refused, may_hash.then_some(call))? {
            Opened::File(file) => {
                file.read_ahead_if_small();
                Sought::Found(self.open_blobs.insert(file))
            }
            Opened::Absent => Sought::Absent,
            Opened::WithoutChecksums(size) => Sought::WithoutChecksums(size),
            Opened::Damaged { file, reason } => {
                self.quarantine.add(&digest, file, &reason);
                Sought::Absent
            }
        })
    }
}
