//! Admission of new content: bytes are reserved as they arrive, evicting idle blobs where that makes space.
//!
//! Content that would not fit beside what is pinned and read evicts nothing. A registry that the operator did not name
//! evicts others' blobs only up to its share, and what it holds beyond that is evicted first. The decision is pure and
//! lies in `budget` and `share`; here it meets the filesystem, the index that counts and evicts, the quarantine and the
//! reservations of other downloads.

use std::collections::HashSet;

use crate::store::budget::{self, Budget, Disk, StoreLimits};
use crate::store::error::Error;
use crate::store::index::Index;
use crate::store::quarantine_files::QuarantineFiles;
use crate::store::reserve::{Reservation, Reservations};
use crate::store::share::{self, Owner, OwnerId};
use crate::support::sync::Mutex;

/// The filesystem of the store, asked anew each time.
pub(super) type ProbeDisk = Box<dyn Fn() -> Option<Disk> + Send + Sync>;

/// Grants space within the budget.
pub(super) struct Admission {
    budget: Budget,
    probe_disk: ProbeDisk,
    index: Index,
    quarantine: QuarantineFiles,
    reservations: Reservations,
    /// Limited registries that reached their share. Held while space is made, so that two downloads do not count the
    /// same bytes. No other lock is taken under it but those of the index and of the reservations.
    making_space: Mutex<HashSet<OwnerId>>,
}

impl Admission {
    pub(super) fn new(
        budget: Budget,
        probe_disk: ProbeDisk,
        index: Index,
        quarantine: QuarantineFiles,
    ) -> Self {
        Self {
            budget,
            probe_disk,
            index,
            quarantine,
            reservations: Reservations::default(),
            making_space: Mutex::default(),
        }
    }

    /// The damaged blobs, which count towards the budget.
    pub(super) fn quarantine(&self) -> &QuarantineFiles {
        &self.quarantine
    }

    /// Whether `wanted` bytes of `owner` could be stored now; reserves and evicts nothing. Blocks.
    ///
    /// # Errors
    /// [`Error::Full`] if they could not.
    pub(super) fn check(&self, owner: Owner, wanted: u64) -> Result<(), Error> {
        let full = Err(Error::Full { needed: wanted });
        if self.exceeds_share(owner, wanted) {
            return full;
        }
        if self.missing(wanted) == 0 {
            return Ok(());
        }
        // Until the blobs are counted nothing is evicted.
        if !self.index.is_counted() {
            return full;
        }
        // Blobs that were committed a moment ago count as reserved until the index has them, and can be evicted as well.
        self.index.catch_up();
        let missing = self.missing(wanted);
        if missing > self.to_be_had(owner, wanted) { full } else { Ok(()) }
    }

    /// Reserves `wanted` bytes for `owner`, evicting what that takes. Blocks.
    ///
    /// # Errors
    /// [`Error::Full`] if they are not to be had.
    pub(super) fn reserve(&self, owner: Owner, wanted: u64) -> Result<Reservation, Error> {
        let mut at_their_share = self.making_space.lock();
        if self.exceeds_share(owner, wanted) {
            return Err(Error::Full { needed: wanted });
        }
        if self.holds_its_share(owner, wanted) {
            at_their_share.insert(owner.id);
        }
        match self.evict_missing(Some(owner), wanted, &mut at_their_share) {
            0 => Ok(self.reservations.reserve(owner, wanted)),
            _ => Err(Error::Full { needed: wanted }),
        }
    }

    /// Evicts what exceeds the budget; returns how many bytes that freed. Blocks.
    pub(super) fn enforce_budget(&self) -> u64 {
        self.quarantine.measure();
        let before = self.used();
        self.evict_missing(None, 0, &mut self.making_space.lock());
        before.saturating_sub(self.used())
    }

    /// `None` if the size of the filesystem is unknown.
    pub(super) fn limits(&self) -> Option<StoreLimits> {
        let disk = (self.probe_disk)()?;
        Some(StoreLimits {
            max_bytes: self.budget.max.of(disk.total),
            free_bytes: disk.free,
            capacity_bytes: budget::capacity(&self.budget, Some(disk), self.used()),
        })
    }

    /// Bytes that the blobs may occupy now.
    pub(super) fn capacity(&self) -> u64 {
        budget::capacity(&self.budget, (self.probe_disk)(), self.used())
    }

    /// Evicts until `wanted` more bytes fit; returns how many are still missing. Blocks.
    fn evict_missing(&self, owner: Option<Owner>, wanted: u64, at_their_share: &mut HashSet<OwnerId>) -> u64 {
        if self.missing(wanted) == 0 {
            return 0;
        }
        // Until the blobs are counted, what is free on the filesystem decides alone, and nothing is evicted: no download
        // waits for the count. What exceeds the budget by then is evicted afterwards.
        if !self.index.is_counted() {
            return self.missing(wanted);
        }
        // Blobs that were committed a moment ago count as reserved until the index has them, and can be evicted as well.
        self.index.catch_up();
        let missing = self.missing(wanted);
        let would_never_fit = owner.is_some_and(|owner| missing > self.to_be_had(owner, wanted));
        if missing == 0 || would_never_fit {
            return missing;
        }
        if self.quarantine.bytes() > 0 {
            self.quarantine.free(missing);
        }
        self.evict_excess(wanted, at_their_share);
        let missing = self.missing(wanted);
        if missing > 0 {
            let only = owner.filter(|owner| self.holds_its_share(*owner, wanted)).map(|owner| owner.id);
            // A little more than needed, so that not every blob of a busy pull waits for an eviction.
            self.index.evict(missing.saturating_add(wanted / 4), only);
        }
        self.missing(wanted)
    }

    /// Evicts first what limited registries hold beyond their share, because it lay free when they took it.
    fn evict_excess(&self, wanted: u64, at_their_share: &mut HashSet<OwnerId>) {
        let share = share::of_one(self.capacity());
        at_their_share.retain(|id| self.index.bytes_of(*id) + self.reservations.limited(*id).0 > share);
        for id in at_their_share.iter() {
            let missing = self.missing(wanted);
            let excess = self.index.bytes_of(*id).saturating_sub(share);
            self.index.evict(missing.min(excess), Some(*id));
        }
    }

    /// Bytes that could be evicted for `owner`.
    fn to_be_had(&self, owner: Owner, wanted: u64) -> u64 {
        let only = self.holds_its_share(owner, wanted).then_some(owner.id);
        self.quarantine.bytes().saturating_add(self.index.evictable(only))
    }

    /// Whether downloads of limited registries would hold more than they may at once: what is reserved cannot be
    /// evicted.
    fn exceeds_share(&self, owner: Owner, wanted: u64) -> bool {
        if !owner.limited {
            return false;
        }
        let exceeds = || {
            let capacity = self.capacity();
            let (one, all) = self.reservations.limited(owner.id);
            one.saturating_add(wanted) > share::of_one(capacity)
                || all.saturating_add(wanted) > share::of_all(capacity)
        };
        // Blobs that were committed a moment ago count as reserved until the index has them.
        exceeds()
            && (!self.index.is_counted() || {
                self.index.catch_up();
                exceeds()
            })
    }

    /// Whether a registry with `wanted` bytes more has its share or more, so that it evicts nothing of others.
    fn holds_its_share(&self, owner: Owner, wanted: u64) -> bool {
        if !owner.limited {
            return false;
        }
        let held = self.index.bytes_of(owner.id).saturating_add(self.reservations.limited(owner.id).0);
        held.saturating_add(wanted) > share::of_one(self.capacity())
    }

    /// Bytes that are committed or in quarantine.
    fn used(&self) -> u64 {
        self.index.totals().bytes.saturating_add(self.quarantine.bytes())
    }

    fn missing(&self, wanted: u64) -> u64 {
        let disk = (self.probe_disk)();
        // The totals are there a moment before the index says so; a download that sees them by then is not refused.
        let used = || if self.index.is_counted() { self.used() } else { self.quarantine.bytes() };
        let (reserved, used) = self.reservations.sum_and(used);
        budget::missing(&self.budget, disk, used, reserved, wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::reference::Digest;
    use crate::store::budget::Amount;
    use crate::store::in_use::InUse;
    use crate::store::layout::Layout;
    use crate::store::metrics::Metrics;
    use crate::store::open_blobs::OpenBlobs;
    use crate::store::pins::Pins;
    use crate::support::clock::{Clock, Timestamp};
    use crate::support::metrics::Registry;

    /// A filesystem of 10,000 bytes whose free bytes a test sets, and an index without an ingest.
    struct World {
        _directory: tempfile::TempDir,
        layout: Layout,
        free: Arc<AtomicU64>,
        in_use: InUse,
        index: Index,
        admission: Admission,
    }

    impl World {
        fn new(budget: Budget) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let layout = Layout::new(directory.path());
            for directory in [layout.blobs(), layout.index(), layout.ingest()] {
                std::fs::create_dir_all(directory).unwrap();
            }
            let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
            let clock = Clock::manual(Timestamp(1_000));
            let pins = Pins::restore(layout.clone());
            let in_use = InUse::default();
            let open_blobs = Arc::new(OpenBlobs::new(in_use.clone()));
            let index = Index::start(layout.clone(), clock, metrics, open_blobs, pins).unwrap();
            index.catch_up();
            let free = Arc::new(AtomicU64::new(9_000));
            let probed = Arc::clone(&free);
            let probe: ProbeDisk =
                Box::new(move || Some(Disk { total: 10_000, free: probed.load(Ordering::Relaxed) }));
            let gauge = Registry::new().gauge("store_quarantine_bytes", "of a test").unwrap();
            let quarantine = QuarantineFiles::new(layout.clone(), gauge);
            let admission = Admission::new(budget, probe, index.clone(), quarantine);
            Self { _directory: directory, layout, free, in_use, index, admission }
        }

        /// Commits a blob as an ingest does.
        fn commit(&self, content: &[u8], reserved: Reservation) {
            let digest = Digest::of(content);
            std::fs::write(self.layout.blob(&digest), content).unwrap();
            self.index.add(digest, content.len() as u64, reserved.owner().id, Some(reserved));
            self.index.catch_up();
        }
    }

    fn ours() -> Owner {
        Owner::unlimited(&"reg.test".parse().unwrap())
    }

    fn stranger() -> Owner {
        Owner::limited(&"evil.test".parse().unwrap())
    }

    fn budget(max: u64, min_free: u64) -> Budget {
        Budget { max: Amount::Bytes(max), min_free: Amount::Bytes(min_free) }
    }

    #[test]
    fn downloads_under_way_do_not_exceed_the_budget_together() {
        let world = World::new(budget(1_000, 0));
        let first = world.admission.reserve(ours(), 600).unwrap();
        assert!(matches!(world.admission.reserve(ours(), 600), Err(Error::Full { needed: 600 })));
        drop(first);
        assert!(world.admission.reserve(ours(), 600).is_ok(), "an abandoned download gives its bytes back");
    }

    #[test]
    fn idle_blobs_are_evicted_for_new_content_but_not_for_content_that_never_fits() {
        let world = World::new(budget(1_000, 0));
        let reserved = world.admission.reserve(ours(), 600).unwrap();
        world.commit(&[1; 600], reserved);
        assert!(world.admission.reserve(ours(), 1_001).is_err());
        world.index.catch_up();
        assert_eq!(world.index.totals().bytes, 600, "nothing was evicted in vain");
        assert!(world.admission.reserve(ours(), 500).is_ok());
        assert_eq!(world.index.totals().bytes, 0);
    }

    #[test]
    fn other_files_on_the_filesystem_refuse_new_content_and_evict_blobs() {
        let world = World::new(budget(5_000, 1_000));
        let reserved = world.admission.reserve(ours(), 600).unwrap();
        world.commit(&[1; 600], reserved);
        world.index.catch_up();
        let limits = StoreLimits { max_bytes: 5_000, free_bytes: 9_000, capacity_bytes: 5_000 };
        assert_eq!(world.admission.limits(), Some(limits));
        world.free.store(100, Ordering::Relaxed);
        assert_eq!(world.admission.capacity(), 0);
        assert!(world.admission.reserve(ours(), 1).is_err());
        assert_eq!(world.admission.enforce_budget(), 600);
        assert_eq!(world.index.totals().bytes, 0);
    }

    #[test]
    fn what_cannot_fit_beside_what_is_being_read_evicts_nothing() {
        let world = World::new(budget(1_000, 0));
        for content in [[1; 400], [2; 400]] {
            let reserved = world.admission.reserve(ours(), 400).unwrap();
            world.commit(&content, reserved);
        }
        let _read = world.in_use.mark(Digest::of(&[1; 400]));
        assert!(world.admission.check(ours(), 700).is_err());
        assert!(world.admission.reserve(ours(), 700).is_err());
        assert_eq!(world.index.totals().bytes, 800);
        assert!(world.admission.check(ours(), 600).is_ok());
        assert_eq!(world.index.totals().bytes, 800, "a check evicts nothing");
        assert!(world.admission.reserve(ours(), 600).is_ok());
        assert_eq!(world.index.totals().bytes, 400);
    }

    #[test]
    fn bytes_in_flight_that_are_written_do_not_count_twice() {
        let world = World::new(budget(9_000, 1_000));
        let reserved = world.admission.reserve(ours(), 600).unwrap();
        world.commit(&[1; 600], reserved);
        let mut in_flight = world.admission.reserve(ours(), 4_000).unwrap();
        // Written: the filesystem has them already, and still as much as the rest and the floor need.
        in_flight.written(4_000);
        world.free.store(2_000, Ordering::Relaxed);
        in_flight.merge(world.admission.reserve(ours(), 1_000).unwrap());
        world.index.catch_up();
        assert_eq!(world.index.totals().bytes, 600, "nothing had to be evicted");
    }

    #[test]
    fn damaged_blobs_in_quarantine_count_and_are_the_first_to_go() {
        let world = World::new(budget(1_000, 0));
        let reserved = world.admission.reserve(ours(), 400).unwrap();
        world.commit(&[1; 400], reserved);
        std::fs::create_dir(world.layout.quarantine()).unwrap();
        std::fs::write(world.layout.quarantine().join("aa.1"), [0; 500]).unwrap();
        world.admission.quarantine().measure();
        assert!(world.admission.check(ours(), 1_001).is_err());
        let _reserved = world.admission.reserve(ours(), 300).unwrap();
        world.index.catch_up();
        assert_eq!((world.index.totals().bytes, world.admission.quarantine().bytes()), (400, 0));
    }

    #[test]
    fn a_registry_that_the_operator_did_not_name_pushes_out_its_own_blobs_once_it_has_its_share() {
        let world = World::new(budget(1_000, 0));
        let reserved = world.admission.reserve(ours(), 700).unwrap();
        world.commit(&[1; 700], reserved);
        for n in 0..20 {
            let reserved = world.admission.reserve(stranger(), 100).unwrap();
            world.commit(&[2 + n; 100], reserved);
        }
        // Our one large blob went for the stranger's share, and the rest of it lies free.
        let reserved = world.admission.reserve(ours(), 400).unwrap();
        world.commit(&[100; 400], reserved);
        for n in 0..20 {
            let reserved = world.admission.reserve(stranger(), 100).unwrap();
            world.commit(&[200 - n; 100], reserved);
        }
        world.index.catch_up();
        assert_eq!(world.index.bytes_of(ours().id), 400, "a stranger pushed out what others had stored");
    }

    #[test]
    fn what_lay_free_and_was_taken_beyond_the_share_is_evicted_first() {
        let world = World::new(budget(1_000, 0));
        let reserved = world.admission.reserve(ours(), 100).unwrap();
        world.commit(&[1; 100], reserved);
        for n in 0..9 {
            let reserved = world.admission.reserve(stranger(), 100).unwrap();
            world.commit(&[2 + n; 100], reserved);
        }
        world.index.catch_up();
        assert_eq!(world.index.bytes_of(stranger().id), 900, "nothing else wanted the space");
        let _reserved = world.admission.reserve(ours(), 300).unwrap();
        assert_eq!((world.index.bytes_of(ours().id), world.index.bytes_of(stranger().id)), (100, 600));
    }

    #[test]
    fn downloads_of_strangers_leave_room_that_others_can_have() {
        let world = World::new(budget(1_000, 0));
        let _first = world.admission.reserve(stranger(), 500).unwrap();
        assert!(world.admission.reserve(stranger(), 1).is_err(), "more than its share in flight");
        let other = Owner::limited(&"other.test".parse().unwrap());
        assert!(world.admission.reserve(other, 251).is_err(), "more than all of them may have in flight");
        let _second = world.admission.reserve(other, 250).unwrap();
        assert!(world.admission.reserve(ours(), 250).is_ok());
        assert!(world.admission.check(stranger(), 501).is_err());
    }
}
