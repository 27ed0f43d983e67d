//! Admission of new content: bytes are reserved as they arrive, evicting idle blobs where that makes space.
//!
//! Promises: no lock is held while something is waited for, so that one slow eviction keeps no other download from
//! space that is free; a download waits about a second and passes its blob on past the disk then, while the eviction
//! goes on. Content that would not fit beside what is pinned and read evicts nothing. A registry that the operator did
//! not name evicts others' blobs only up to its share, and what it holds beyond that is evicted first. While no
//! download asks for space, blobs are evicted ahead of need, from a high watermark to a low one and no further.
//!
//! What is free is known by `space`, what goes next is decided by `victims`, and `demands` are what the thread of the
//! index evicts for.

mod demands;
mod space;
mod victims;

use std::sync::Arc;
use std::time::Duration;

use crate::reference::Digest;
use crate::store::budget::large::Passed;
use crate::store::budget::reserve::Reservation;
use crate::store::budget::share::Owner;
use crate::store::budget::{self, Budget, StoreLimits};
use crate::store::error::Error;
use crate::store::index::Index;
use crate::store::quarantine::files::QuarantineFiles;
use crate::support::clock::Timestamp;
use crate::support::sync::Mutex;
use crate::support::sync::atomic::{AtomicU64, Ordering};
use crate::support::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use crate::support::sync::thread;
use demands::{Ahead, Claim, Enforcement, Granted};
pub(super) use space::ProbeDisk;
use space::Space;

/// How long the enforcement of the budget is waited for; it goes on after that.
pub(super) const ENFORCE_WAIT: Duration = Duration::from_secs(20);
/// How often it is looked whether the filesystem shows what was evicted, which XFS does a moment later.
const FREED_POLL: Duration = Duration::from_millis(20);
/// And how often at most.
const FREED_POLLS: u32 = 10;

/// Grants space within the budget.
pub(super) struct Admission {
    space: Arc<Space>,
    index: Index,
    /// How many reservations had been asked for at the last look.
    asked_before: AtomicU64,
    /// The large blobs that were passed by. Held for a look at the map.
    passed: Mutex<Passed>,
}

impl Admission {
    pub(super) fn new(
        budget: Budget,
        probe_disk: ProbeDisk,
        index: Index,
        quarantine: QuarantineFiles,
    ) -> Self {
        let space = Arc::new(Space::new(budget, probe_disk, index.clone(), quarantine));
        Self { space, index, asked_before: AtomicU64::new(0), passed: Mutex::default() }
    }

    /// The damaged blobs, which count towards the budget.
    pub(super) fn quarantine(&self) -> &QuarantineFiles {
        self.space.quarantine()
    }

    /// Whether `wanted` bytes of `owner` could be stored now; reserves and evicts nothing. Blocks for about a
    /// second at most.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::NoInodes`] if they could not, or if that is not known in time.
    pub(super) fn check(&self, owner: Owner, wanted: u64) -> Result<(), Error> {
        if self.space.is_free(owner, wanted) {
            return Ok(());
        }
        // Until the blobs are counted nothing is evicted.
        if !self.index.is_counted() {
            return Err(self.space.refusal(wanted));
        }
        // By the thread of the index: blobs that were committed a moment ago count as reserved until it has them.
        let (answer, wait) = sync_channel(1);
        let space = Arc::clone(&self.space);
        self.index.look(move |evictable| {
            let _ = answer.try_send(space.could_be_had(owner, wanted, evictable));
        });
        if self.index.wait(&wait) == Some(true) { Ok(()) } else { Err(self.space.refusal(wanted)) }
    }

    /// Remembers that a client asks for a blob of `bytes`; returns whether it is better passed by than stored
    /// ([`Passed`]).
    pub(super) fn pass_by_unless_asked_before(&self, digest: Digest, bytes: u64, now: Timestamp) -> bool {
        !self.space.missing(bytes).is_nothing()
            && self.passed.lock().pass_by_unless_asked_before(digest, bytes, self.space.capacity(), now)
    }

    /// Whether it would be passed by, if a client asked for it; remembers nothing.
    pub(super) fn is_passed_by(&self, digest: Digest, bytes: u64, now: Timestamp) -> bool {
        !self.space.missing(bytes).is_nothing()
            && self.passed.lock().is_passed_by(&digest, bytes, self.space.capacity(), now)
    }

    /// Reserves `wanted` bytes for `owner`, evicting what that takes. Blocks for about a
    /// second at most: an eviction that takes longer goes on by itself.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::NoInodes`] if they are not to be had, or not in time.
    pub(super) fn reserve(&self, owner: Owner, wanted: u64) -> Result<Reservation, Error> {
        self.space.note_asked();
        if let Ok(reserved) = self.space.try_reserve(owner, wanted) {
            return Ok(reserved);
        }
        // Until the blobs are counted, what is free on the filesystem decides alone, and nothing is evicted: no
        // download waits for the count. What exceeds the budget by then is evicted afterwards.
        let reserved = if self.index.is_counted() {
            match self.index.wait(&self.claim(owner, wanted)) {
                Some(Granted::Reserved(reserved)) => Some(reserved),
                Some(Granted::NotFreeYet) => self.reserve_soon(owner, wanted),
                None => None,
            }
        } else {
            None
        };
        reserved.ok_or_else(|| self.space.refusal(wanted))
    }

    /// Asks for a reservation for which something may have to be evicted. Dropping the receiver gives up.
    fn claim(&self, owner: Owner, wanted: u64) -> Receiver<Granted> {
        let (answer, wait) = sync_channel(1);
        self.index.evict(Claim::new(Arc::clone(&self.space), owner, wanted, answer));
        wait
    }

    /// Asks, and gives up at once, for a test.
    #[cfg(all(test, feature = "model"))]
    pub(super) fn ask_and_give_up(&self, owner: Owner, wanted: u64) {
        drop(self.claim(owner, wanted));
    }

    /// Reserves bytes that were evicted, once the filesystem shows them.
    fn reserve_soon(&self, owner: Owner, wanted: u64) -> Option<Reservation> {
        (0..FREED_POLLS).find_map(|_| {
            thread::sleep(FREED_POLL);
            self.space.try_reserve(owner, wanted).ok()
        })
    }

    /// Evicts what exceeds the budget; returns how many bytes that freed. Blocks, but no longer than [`ENFORCE_WAIT`];
    /// the eviction goes on after that.
    pub(super) fn enforce_budget(&self) -> u64 {
        self.quarantine().measure();
        if self.space.missing(0).is_nothing() || !self.index.is_counted() {
            return 0;
        }
        let (ended, wait) = sync_channel(1);
        let freed = Arc::new(AtomicU64::new(0));
        self.index.evict(Enforcement::new(Arc::clone(&self.space), Arc::clone(&freed), ended));
        if let Err(RecvTimeoutError::Timeout) = wait.recv_timeout(ENFORCE_WAIT) {
            tracing::debug!("an eviction takes long; it goes on");
        }
        freed.load(Ordering::Relaxed)
    }

    /// Begins to evict ahead of need, if nothing was asked for since the last call and the store is over its high
    /// watermark. Waits for nothing.
    pub(super) fn evict_ahead(&self) {
        let asked = self.space.asked();
        let is_idle = self.asked_before.swap(asked, Ordering::Relaxed) == asked;
        let is_over = || !self.space.missing_ahead(budget::high_headroom).is_nothing();
        if is_idle && self.index.is_counted() && is_over() {
            self.index.evict_ahead(Ahead::new(Arc::clone(&self.space), asked));
        }
    }

    /// `None` if the size of the filesystem is unknown.
    pub(super) fn limits(&self) -> Option<StoreLimits> {
        self.space.limits()
    }

    /// Whether the filesystem has too few inodes for anything new.
    pub(super) fn is_short_of_inodes(&self) -> bool {
        self.space.missing(1).inodes > 0
    }

    /// Bytes that the blobs may occupy now.
    pub(super) fn capacity(&self) -> u64 {
        self.space.capacity()
    }
}

#[cfg(test)]
mod tests;
