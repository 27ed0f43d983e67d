//! Whose blobs go next, and how many of them: pure.
//!
//! First what limited registries hold beyond their share, then what the one that wants space may evict. What was freed
//! is counted here too: a filesystem may show it only a moment later, and nothing must go twice for that.

use std::collections::HashSet;

use crate::store::budget::Missing;
use crate::store::budget::share::OwnerId;
use crate::store::index::{Batch, Wanted};

/// What one eviction has come to.
#[derive(Debug, Default)]
pub(super) struct Victims {
    /// What the filesystem lacked at the beginning, less what has been freed since; `None` before the beginning.
    disk: Option<OfDisk>,
    /// Of which registries, or of all, nothing is left that may go.
    exhausted: HashSet<Option<OwnerId>>,
    asked: Option<OwnerId>,
}

/// What a filesystem lacks.
#[derive(Debug, Clone, Copy)]
struct OfDisk {
    bytes: u64,
    blobs: u64,
}

/// What has still to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StillMissing {
    /// Bytes of blobs.
    pub(super) bytes: u64,
    /// Blobs at least, whatever their size.
    pub(super) blobs: u64,
}

impl StillMissing {
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// The same where so many `blobs` may go: none goes for inodes if all of them would not give back enough.
    pub(super) fn within(self, blobs: u64) -> Self {
        Self { blobs: if self.blobs > blobs { 0 } else { self.blobs }, ..self }
    }
}

impl Victims {
    /// What has still to go for what is missing.
    pub(super) fn still_missing(&mut self, missing: Missing) -> StillMissing {
        let at_first = OfDisk { bytes: missing.on_disk, blobs: missing.blobs() };
        let disk = *self.disk.get_or_insert(at_first);
        StillMissing {
            bytes: missing.in_budget.max(missing.on_disk.min(disk.bytes)),
            blobs: missing.blobs().min(disk.blobs),
        }
    }

    /// What is to go next for what is `missing`: `excesses` are what registries hold beyond their share, `only` is the
    /// registry that evicts its own blobs alone. `None` if nothing is left.
    pub(super) fn next(
        &mut self,
        missing: StillMissing,
        excesses: &[(OwnerId, u64)],
        only: Option<OwnerId>,
    ) -> Option<Wanted> {
        let StillMissing { bytes, blobs } = missing;
        let of_excess =
            |(id, excess): &(OwnerId, u64)| Wanted { bytes: bytes.min(*excess), blobs: 0, only: Some(*id) };
        let mut wanted = excesses.iter().map(of_excess).chain([Wanted { bytes, blobs, only }]);
        let is_left = |Wanted { bytes, blobs, only }: &Wanted| {
            (*bytes > 0 || *blobs > 0) && !self.exhausted.contains(only)
        };
        let next = wanted.find(is_left)?;
        self.asked = next.only;
        Some(next)
    }

    /// So many bytes have gone by other means.
    pub(super) fn freed(&mut self, bytes: u64) {
        self.gone(bytes, 0);
    }

    fn gone(&mut self, bytes: u64, blobs: u64) {
        if let Some(disk) = &mut self.disk {
            disk.bytes = disk.bytes.saturating_sub(bytes);
            disk.blobs = disk.blobs.saturating_sub(blobs);
        }
    }

    /// What was to go last has gone, as far as it was there.
    pub(super) fn evicted(&mut self, batch: &Batch) {
        self.gone(batch.bytes, batch.blobs);
        if batch.is_last {
            self.exhausted.insert(self.asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: OwnerId = OwnerId(1);
    const THEIRS: OwnerId = OwnerId(2);

    #[test]
    fn what_is_beyond_a_share_goes_first_and_what_is_exhausted_is_not_asked_for_again() {
        let mut victims = Victims::default();
        let excesses = [(THEIRS, 30)];
        let of = |bytes, only| Some(Wanted { bytes, blobs: 0, only });
        let bytes = |bytes| StillMissing { bytes, blobs: 0 };
        assert_eq!(victims.next(bytes(100), &excesses, None), of(30, Some(THEIRS)));
        assert_eq!(victims.next(bytes(10), &excesses, None), of(10, Some(THEIRS)), "no more than is missing");
        victims.evicted(&Batch { bytes: 10, blobs: 1, is_last: true });
        assert_eq!(victims.next(bytes(90), &excesses, Some(OURS)), of(90, Some(OURS)));
        victims.evicted(&Batch { bytes: 0, blobs: 0, is_last: true });
        assert_eq!(victims.next(bytes(90), &excesses, Some(OURS)), None);
        assert_eq!(victims.next(bytes(90), &[], None), of(90, None), "what all hold is another matter");
    }

    #[test]
    fn what_was_freed_and_is_not_shown_yet_is_not_freed_again() {
        let mut victims = Victims::default();
        let on_disk = |on_disk| Missing { on_disk, ..Missing::default() };
        assert_eq!(victims.still_missing(on_disk(100)).bytes, 100);
        victims.evicted(&Batch { bytes: 60, blobs: 1, is_last: false });
        assert_eq!(victims.still_missing(on_disk(100)).bytes, 40, "the filesystem shows nothing of it");
        assert_eq!(victims.still_missing(on_disk(20)).bytes, 20, "others have freed more");
        victims.freed(60);
        assert!(victims.still_missing(on_disk(100)).is_nothing());
        let missing = Missing { in_budget: 7, on_disk: 100, inodes: 0 };
        assert_eq!(victims.still_missing(missing).bytes, 7, "the budget is exact");
    }

    #[test]
    fn where_inodes_are_missing_blobs_go_by_their_number_and_none_twice() {
        let mut victims = Victims::default();
        let missing = Missing { inodes: 9, ..Missing::default() };
        let still_missing = victims.still_missing(missing);
        assert_eq!(still_missing, StillMissing { bytes: 0, blobs: 5 });
        let wanted = victims.next(still_missing, &[(THEIRS, 30)], None);
        assert_eq!(wanted, Some(Wanted { bytes: 0, blobs: 5, only: None }));
        victims.evicted(&Batch { bytes: 1_000, blobs: 4, is_last: false });
        assert_eq!(victims.still_missing(missing).blobs, 1, "the filesystem shows nothing of it");
        victims.evicted(&Batch { bytes: 1_000, blobs: 1, is_last: false });
        assert!(victims.still_missing(missing).is_nothing());
    }
}
