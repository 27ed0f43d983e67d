//! Whose blobs go next, and how many bytes of them: pure.
//!
//! First what limited registries hold beyond their share, then what the one that wants space may evict. What was freed is
//! counted here too: a filesystem may show it only a moment later, and nothing must go twice for that.

use std::collections::HashSet;

use crate::store::budget::Missing;
use crate::store::index::{Batch, Wanted};
use crate::store::share::OwnerId;

/// What one eviction has come to.
#[derive(Debug, Default)]
pub(super) struct Victims {
    /// What the filesystem lacked at the beginning, less what has been freed since; `None` before the beginning.
    disk: Option<u64>,
    /// Of which registries, or of all, nothing is left that may go.
    exhausted: HashSet<Option<OwnerId>>,
    asked: Option<OwnerId>,
}

impl Victims {
    /// Bytes that have still to be freed for what is missing.
    pub(super) fn still_missing(&mut self, missing: Missing) -> u64 {
        let disk = *self.disk.get_or_insert(missing.on_disk);
        missing.in_budget.max(missing.on_disk.min(disk))
    }

    /// What is to go next for `missing` bytes: `excesses` are what registries hold beyond their share, `only` is the
    /// registry that evicts its own blobs alone. `None` if nothing is left.
    pub(super) fn next(
        &mut self,
        missing: u64,
        excesses: &[(OwnerId, u64)],
        only: Option<OwnerId>,
    ) -> Option<Wanted> {
        let excesses =
            excesses.iter().map(|(id, bytes)| Wanted { bytes: *bytes.min(&missing), only: Some(*id) });
        let mut wanted = excesses.chain([Wanted { bytes: missing, only }]);
        let next = wanted.find(|wanted| wanted.bytes > 0 && !self.exhausted.contains(&wanted.only))?;
        self.asked = next.only;
        Some(next)
    }

    /// So many bytes have gone by other means.
    pub(super) fn freed(&mut self, bytes: u64) {
        self.disk = self.disk.map(|disk| disk.saturating_sub(bytes));
    }

    /// What was to go last has gone, as far as it was there.
    pub(super) fn evicted(&mut self, batch: &Batch) {
        self.freed(batch.bytes);
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
        let of = |bytes, only| Some(Wanted { bytes, only });
        assert_eq!(victims.next(100, &excesses, None), of(30, Some(THEIRS)));
        assert_eq!(victims.next(10, &excesses, None), of(10, Some(THEIRS)), "no more than is missing");
        victims.evicted(&Batch { bytes: 10, is_last: true });
        assert_eq!(victims.next(90, &excesses, Some(OURS)), of(90, Some(OURS)));
        victims.evicted(&Batch { bytes: 0, is_last: true });
        assert_eq!(victims.next(90, &excesses, Some(OURS)), None);
        assert_eq!(victims.next(90, &[], None), of(90, None), "what all hold is another matter");
    }

    #[test]
    fn what_was_freed_and_is_not_shown_yet_is_not_freed_again() {
        let mut victims = Victims::default();
        let on_disk = |on_disk| Missing { in_budget: 0, on_disk };
        assert_eq!(victims.still_missing(on_disk(100)), 100);
        victims.evicted(&Batch { bytes: 60, is_last: false });
        assert_eq!(victims.still_missing(on_disk(100)), 40, "the filesystem shows nothing of it");
        assert_eq!(victims.still_missing(on_disk(20)), 20, "others have freed more");
        victims.freed(60);
        assert_eq!(victims.still_missing(on_disk(100)), 0);
        assert_eq!(victims.still_missing(Missing { in_budget: 7, on_disk: 100 }), 7, "the budget is exact");
    }
}
