//! Admission of new content: bytes are reserved before they are written, evicting idle blobs where that makes space.
//!
//! Content that would not fit into an empty store evicts nothing. The decision is pure and lies in `budget`; here it
//! meets the filesystem, the index that counts and evicts, and the reservations of other downloads.

use crate::store::budget::{self, Budget, Disk, StoreLimits};
use crate::store::error::Error;
use crate::store::index::Index;
use crate::store::reserve::{Reservation, Reservations};
use crate::support::sync::Mutex;

/// The filesystem of the store, asked anew each time.
pub(super) type ProbeDisk = Box<dyn Fn() -> Option<Disk> + Send + Sync>;

/// Grants space within the budget.
pub(super) struct Admission {
    budget: Budget,
    probe_disk: ProbeDisk,
    index: Index,
    reservations: Reservations,
    /// Held while space is made, so that two downloads do not count the same bytes. No other lock is taken under it but
    /// those of the index.
    making_space: Mutex<()>,
}

impl Admission {
    pub(super) fn new(budget: Budget, probe_disk: ProbeDisk, index: Index) -> Self {
        Self {
            budget,
            probe_disk,
            index,
            reservations: Reservations::default(),
            making_space: Mutex::default(),
        }
    }

    /// Reserves `wanted` bytes, evicting what that takes. Blocks.
    ///
    /// # Errors
    /// [`Error::Full`] if they are not to be had.
    pub(super) fn reserve(&self, wanted: u64) -> Result<Reservation, Error> {
        let _one_at_a_time = self.making_space.lock();
        match self.evict_missing(wanted) {
            0 => Ok(self.reservations.reserve(wanted)),
            _ => Err(Error::Full { needed: wanted }),
        }
    }

    /// Evicts what exceeds the budget; returns how many bytes that freed. Blocks.
    pub(super) fn enforce_budget(&self) -> u64 {
        let before = self.index.totals().bytes;
        self.evict_missing(0);
        before.saturating_sub(self.index.totals().bytes)
    }

    /// `None` if the size of the filesystem is unknown.
    pub(super) fn limits(&self) -> Option<StoreLimits> {
        let disk = (self.probe_disk)()?;
        Some(StoreLimits {
            max_bytes: self.budget.max.of(disk.total),
            free_bytes: disk.free,
            capacity_bytes: budget::capacity(&self.budget, Some(disk), self.index.totals().bytes),
        })
    }

    /// Bytes that the blobs may occupy now.
    pub(super) fn capacity(&self) -> u64 {
        budget::capacity(&self.budget, (self.probe_disk)(), self.index.totals().bytes)
    }

    /// Evicts until `wanted` more bytes fit; returns how many are still missing. Blocks.
    fn evict_missing(&self, wanted: u64) -> u64 {
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
        let would_never_fit = wanted > 0 && missing > self.index.totals().bytes;
        if missing == 0 || would_never_fit {
            return missing;
        }
        // A little more than needed, so that not every blob of a busy pull waits for an eviction.
        self.index.evict(missing.saturating_add(wanted / 4));
        self.missing(wanted)
    }

    fn missing(&self, wanted: u64) -> u64 {
        let disk = (self.probe_disk)();
        // In this order: a blob that is counted in between counts twice for a moment, and not for nothing.
        let reserved = self.reservations.bytes();
        // The totals are there a moment before the index says so; a download that sees them by then is not refused.
        let used = if self.index.is_counted() { self.index.totals().bytes } else { 0 };
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
            let pins = Pins::new(layout.clone());
            let open_blobs = Arc::new(OpenBlobs::new(InUse::default()));
            let index = Index::start(layout.clone(), clock, metrics, open_blobs, pins).unwrap();
            let free = Arc::new(AtomicU64::new(9_000));
            let probed = Arc::clone(&free);
            let probe: ProbeDisk =
                Box::new(move || Some(Disk { total: 10_000, free: probed.load(Ordering::Relaxed) }));
            let admission = Admission::new(budget, probe, index.clone());
            Self { _directory: directory, layout, free, index, admission }
        }

        /// Commits a blob as an ingest does.
        fn commit(&self, content: &[u8], reserved: Reservation) {
            let digest = Digest::of(content);
            std::fs::write(self.layout.blob(&digest), content).unwrap();
            self.index.add(digest, content.len() as u64, reserved);
        }
    }

    fn budget(max: u64, min_free: u64) -> Budget {
        Budget { max: Amount::Bytes(max), min_free: Amount::Bytes(min_free) }
    }

    #[test]
    fn downloads_under_way_do_not_exceed_the_budget_together() {
        let world = World::new(budget(1_000, 0));
        let first = world.admission.reserve(600).unwrap();
        assert!(matches!(world.admission.reserve(600), Err(Error::Full { needed: 600 })));
        drop(first);
        assert!(world.admission.reserve(600).is_ok(), "an abandoned download gives its bytes back");
    }

    #[test]
    fn idle_blobs_are_evicted_for_new_content_but_not_for_content_that_never_fits() {
        let world = World::new(budget(1_000, 0));
        let reserved = world.admission.reserve(600).unwrap();
        world.commit(&[1; 600], reserved);
        assert!(world.admission.reserve(1_001).is_err());
        world.index.catch_up();
        assert_eq!(world.index.totals().bytes, 600, "nothing was evicted in vain");
        assert!(world.admission.reserve(500).is_ok());
        assert_eq!(world.index.totals().bytes, 0);
    }

    #[test]
    fn other_files_on_the_filesystem_refuse_new_content_and_evict_blobs() {
        let world = World::new(budget(5_000, 1_000));
        let reserved = world.admission.reserve(600).unwrap();
        world.commit(&[1; 600], reserved);
        world.index.catch_up();
        let limits = StoreLimits { max_bytes: 5_000, free_bytes: 9_000, capacity_bytes: 5_000 };
        assert_eq!(world.admission.limits(), Some(limits));
        world.free.store(100, Ordering::Relaxed);
        assert_eq!(world.admission.capacity(), 0);
        assert!(world.admission.reserve(1).is_err());
        assert_eq!(world.admission.enforce_budget(), 600);
        assert_eq!(world.index.totals().bytes, 0);
    }
}
