//! What is free within the budget: what may be reserved, what is missing, and what could be evicted for it.
//!
//! Nothing here waits or evicts. Blobs that were committed a moment ago count as reserved until the index has them; the
//! thread of the index, which has applied everything before, sees them as what they are.

use std::collections::HashSet;

use crate::store::budget::reserve::{Reservation, Reservations, Reserved};
use crate::store::budget::share::{self, Owner, OwnerId};
use crate::store::budget::{self, Budget, Disk, Missing, StoreLimits, Used};
use crate::store::error::Error;
use crate::store::index::totals::Totals;
use crate::store::index::{Evictable, Index};
use crate::store::quarantine::files::QuarantineFiles;
use crate::support::sync::Mutex;
use crate::support::sync::atomic::{AtomicU64, Ordering};

/// The filesystem of the store, asked anew each time.
pub(crate) type ProbeDisk = Box<dyn Fn() -> Option<Disk> + Send + Sync>;

/// The space of the store.
pub(super) struct Space {
    budget: Budget,
    probe_disk: ProbeDisk,
    index: Index,
    quarantine: QuarantineFiles,
    reservations: Reservations,
    /// How many reservations have been asked for: no download is under way that needs space while that stays.
    asked: AtomicU64,
    /// Limited registries that reached their share. Held while a reservation is decided on and made, for which the
    /// filesystem is asked how much is free, so that two downloads do not count the same bytes; never across a wait for
    /// an eviction. No other lock is taken under it but those of the totals and of the reservations.
    granting: Mutex<HashSet<OwnerId>>,
}

/// Why nothing is reserved.
#[derive(Debug)]
pub(super) enum Refused {
    /// Downloads of limited registries would hold more than they may.
    Share,
    /// So much is missing.
    Missing(Missing),
}

impl Space {
    pub(super) fn new(
        budget: Budget,
        probe_disk: ProbeDisk,
        index: Index,
        quarantine: QuarantineFiles,
    ) -> Self {
        let reservations = Reservations::default();
        let (asked, granting) = (AtomicU64::new(0), Mutex::default());
        Self { budget, probe_disk, index, quarantine, reservations, asked, granting }
    }

    pub(super) fn quarantine(&self) -> &QuarantineFiles {
        &self.quarantine
    }

    /// A reservation is asked for.
    pub(super) fn note_asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have been asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Reserves what is free.
    pub(super) fn try_reserve(&self, owner: Owner, wanted: u64) -> Result<Reservation, Refused> {
        let mut at_their_share = self.granting.lock();
        if owner.is_named() {
            // It may have been limited until a reload named it.
            at_their_share.remove(&owner.id);
            self.index.lift_limit(owner.id);
        }
        if self.exceeds_share(owner, wanted) {
            return Err(Refused::Share);
        }
        if self.holds_its_share(owner, wanted) {
            at_their_share.insert(owner.id);
        }
        let missing = self.missing(wanted);
        if !missing.is_nothing() {
            return Err(Refused::Missing(missing));
        }
        Ok(self.reservations.reserve(owner, wanted))
    }

    /// Whether `wanted` bytes are free for `owner`.
    pub(super) fn is_free(&self, owner: Owner, wanted: u64) -> bool {
        !self.exceeds_share(owner, wanted) && self.missing(wanted).is_nothing()
    }

    /// Why `wanted` bytes are not stored.
    pub(super) fn refusal(&self, wanted: u64) -> Error {
        if self.missing(wanted).inodes > 0 { Error::NoInodes } else { Error::Full { needed: wanted } }
    }

    /// Whether `wanted` bytes are free for `owner` or could be made so.
    pub(super) fn could_be_had(&self, owner: Owner, wanted: u64, evictable: Evictable<'_>) -> bool {
        !self.exceeds_share(owner, wanted)
            && self.can_be_freed(self.missing(wanted), owner, wanted, evictable)
    }

    /// `None` if the size of the filesystem is unknown.
    pub(super) fn limits(&self) -> Option<StoreLimits> {
        let (disk, used) = ((self.probe_disk)()?, self.used());
        Some(StoreLimits {
            max_bytes: self.budget.max.of(disk.total),
            free_bytes: disk.free,
            capacity_bytes: budget::capacity(&self.budget, Some(disk), used),
            lacks_inodes: disk.lacks_inodes(used),
        })
    }

    /// Bytes that the blobs may occupy now.
    pub(super) fn capacity(&self) -> u64 {
        budget::capacity(&self.budget, (self.probe_disk)(), self.used())
    }

    /// Whether what is missing could be evicted for `owner`.
    pub(super) fn can_be_freed(
        &self,
        missing: Missing,
        owner: Owner,
        wanted: u64,
        evictable: Evictable<'_>,
    ) -> bool {
        let Totals { blobs, bytes } = evictable(self.own_only(owner, wanted));
        missing.bytes() <= self.quarantine.bytes().saturating_add(bytes) && missing.blobs() <= blobs
    }

    /// A registry that holds its share evicts its own blobs only.
    pub(super) fn own_only(&self, owner: Owner, wanted: u64) -> Option<OwnerId> {
        self.holds_its_share(owner, wanted).then_some(owner.id)
    }

    /// What limited registries hold beyond their share, because it lay free when they took it.
    pub(super) fn excesses(&self) -> Vec<(OwnerId, u64)> {
        let share = share::of_one(self.capacity());
        let mut at_their_share = self.granting.lock();
        at_their_share.retain(|id| self.index.bytes_of(*id) + self.reservations.limited(*id).0 > share);
        at_their_share.iter().map(|id| (*id, self.index.bytes_of(*id).saturating_sub(share))).collect()
    }

    /// Whether downloads of limited registries would hold more than they may at once: what is reserved cannot be
    /// evicted.
    fn exceeds_share(&self, owner: Owner, wanted: u64) -> bool {
        if !owner.is_limited_while_downloading() {
            return false;
        }
        let capacity = self.capacity();
        let (one, all) = self.reservations.limited(owner.id);
        one.saturating_add(wanted) > share::of_one(capacity)
            || all.saturating_add(wanted) > share::of_all(capacity)
    }

    /// Whether a registry with `wanted` bytes more has its share or more, or all limited ones together have theirs, so
    /// that it evicts nothing of others.
    fn holds_its_share(&self, owner: Owner, wanted: u64) -> bool {
        if !owner.is_limited() {
            return false;
        }
        let capacity = self.capacity();
        let (reserved, all_reserved) = self.reservations.limited(owner.id);
        let held = self.index.bytes_of(owner.id).saturating_add(reserved);
        if held.saturating_add(wanted) > share::of_one(capacity) {
            return true;
        }
        let all_held = self.index.limited_bytes(owner.id);
        all_held.saturating_add(all_reserved).saturating_add(wanted) > share::of_all(capacity)
    }

    /// What is committed or in quarantine.
    fn used(&self) -> Used {
        let Totals { blobs, bytes } = self.index.totals();
        Used { bytes: bytes.saturating_add(self.quarantine.bytes()), blobs }
    }

    pub(super) fn missing(&self, wanted: u64) -> Missing {
        let disk = (self.probe_disk)();
        let (reserved, used) = self.reserved_and_used();
        budget::missing(&self.budget, disk, used.bytes, reserved, wanted)
    }

    /// What is missing for the headroom that a watermark leaves. What is reserved and not written yet may never come.
    pub(super) fn missing_ahead(&self, headroom: fn(u64) -> u64) -> Missing {
        let disk = (self.probe_disk)();
        let (reserved, used) = self.reserved_and_used();
        let written = Reserved { bytes: reserved.bytes - reserved.unwritten, unwritten: 0 };
        let headroom = headroom(budget::capacity(&self.budget, disk, used));
        budget::missing(&self.budget, disk, used.bytes, written, headroom)
    }

    fn reserved_and_used(&self) -> (Reserved, Used) {
        // The totals are there a moment before the index says so; a download that sees them by then is not refused.
        let uncounted = || Used { bytes: self.quarantine.bytes(), blobs: 0 };
        let used = || if self.index.is_counted() { self.used() } else { uncounted() };
        self.reservations.sum_and(used)
    }
}
