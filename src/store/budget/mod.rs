//! The budget: how many bytes the blobs may occupy, and how many bytes and inodes the filesystem must keep free.
//!
//! A filesystem without inodes takes no file, however many bytes it has: it counts as one without space. Pure functions
//! of the budget, the filesystem and what is in use; [`Disk::of`] alone asks the operating system. Beside them: what is
//! reserved (`reserve`, `room_for_blob`), whose it is (`share`), what goes first (`evict`) and what is better not
//! stored (`large`). `admission` applies them.

pub(super) mod evict;
pub(super) mod large;
pub(super) mod reserve;
pub(super) mod room_for_blob;
pub(super) mod share;

use std::path::Path;

use rustix::fs::statvfs;

use crate::store::budget::reserve::Reserved;

/// Percent of the filesystem's inodes that stay free: kubelet evicts pods when less than 5 % are.
const MIN_FREE_INODES_PERCENT: u64 = 6;
/// Inodes that new content takes at most: its file, its checksums, two records, and directories of a repository that is
/// new.
const INODES_OF_NEW_CONTENT: u64 = 8;
/// Inodes that a blob gives back when it is evicted: those of its file and of its checksums.
const INODES_OF_A_BLOB: u64 = 2;

/// A number of bytes, or a share of the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Percent of the filesystem's size.
    Percent(u8),
}

impl Amount {
    /// In bytes, on a filesystem of `total` bytes.
    pub(super) fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(share) => total / 100 * u64::from(share),
        }
    }
}

/// The limits of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What all blobs together may occupy.
    pub max: Amount,
    /// What stays free on the filesystem. At 16 % kubelet neither collects images (from 85 % in use on, in whole
    /// percent, which is when less than 16 % are free) nor evicts pods (below 15 % of the image filesystem, 10 % of the
    /// node's) because of the store; and on a node that is four fifths full there is something left for the store.
    pub min_free: Amount,
}

impl Default for Budget {
    fn default() -> Self {
        Self { max: Amount::Percent(20), min_free: Amount::Percent(16) }
    }
}

/// How many bytes the blobs may occupy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// By the budget alone.
    pub max_bytes: u64,
    /// Free on the filesystem.
    pub free_bytes: u64,
    /// Now: the budget, or less if other files fill the filesystem.
    pub capacity_bytes: u64,
    /// Whether nothing can be stored because other files hold the filesystem's inodes.
    pub lacks_inodes: bool,
}

/// Size and free bytes of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) total: u64,
    pub(super) free: u64,
    /// `None` where the filesystem has no bound on them, as btrfs.
    pub(super) inodes: Option<Inodes>,
}

/// The inodes of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inodes {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl Inodes {
    /// How many are missing before content can be stored, or with `wanted` none is to be, before enough are free.
    fn missing(self, wanted: u64) -> u64 {
        let new = if wanted > 0 { INODES_OF_NEW_CONTENT } else { 0 };
        let must_be_free = Amount::Percent(MIN_FREE_INODES_PERCENT as u8).of(self.total).saturating_add(new);
        must_be_free.saturating_sub(self.free)
    }
}

/// What the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Bytes of the committed blobs, and of those in quarantine.
    pub(super) bytes: u64,
    /// Committed blobs.
    pub(super) blobs: u64,
}

impl Disk {
    /// The filesystem of `path`. `None` if its size is unknown: then a budget in bytes alone counts.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = statvfs(path).ok()?;
        let unit = found.f_frsize.max(1);
        let inodes = (found.f_files > 0).then_some(Inodes { total: found.f_files, free: found.f_favail });
        let (total, free) = (found.f_blocks.saturating_mul(unit), found.f_bavail.saturating_mul(unit));
        Some(Self { total, free, inodes })
    }

    /// Whether it has too few inodes for anything new, even if all blobs went.
    pub(super) fn lacks_inodes(&self, used: Used) -> bool {
        let given_back = used.blobs.saturating_mul(INODES_OF_A_BLOB);
        self.inodes.is_some_and(|inodes| inodes.missing(1) > given_back)
    }
}

/// How many bytes the blobs may occupy now, if all of them could be evicted.
pub(super) fn capacity(budget: &Budget, disk: Option<Disk>, used: Used) -> u64 {
    let Some(disk) = disk else { return budget.max.of(u64::MAX) };
    if disk.lacks_inodes(used) {
        return 0;
    }
    let left = disk.free.saturating_add(used.bytes).saturating_sub(budget.min_free.of(disk.total));
    left.min(budget.max.of(disk.total))
}

/// Bytes of the capacity that eviction ahead of need leaves free at most: what a large image takes, so that its pull
/// evicts nothing.
const HEADROOM_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// What the low watermark leaves free of a capacity: a tenth. Down to there blobs are evicted ahead of need.
pub(super) fn low_headroom(capacity: u64) -> u64 {
    (capacity / 10).min(HEADROOM_MAX)
}

/// What the high watermark leaves free: half of that. Below it nothing is evicted ahead of need.
pub(super) fn high_headroom(capacity: u64) -> u64 {
    low_headroom(capacity) / 2
}

/// What has to be freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Bytes beyond the budget, as the store counts it itself.
    pub(super) in_budget: u64,
    /// Bytes that the filesystem must have free besides. It may show what was evicted a moment later.
    pub(super) on_disk: u64,
    /// Inodes that the filesystem must have free.
    pub(super) inodes: u64,
}

impl Missing {
    /// Whether nothing has to be.
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Bytes of blobs that have to go.
    pub(super) fn bytes(self) -> u64 {
        self.in_budget.max(self.on_disk)
    }

    /// How many blobs have to go at least, whatever their size.
    pub(super) fn blobs(self) -> u64 {
        self.inodes.div_ceil(INODES_OF_A_BLOB)
    }
}

/// What has to be freed before `wanted` bytes more fit. `used` bytes are committed, `reserved` bytes belong to
/// downloads under way: those that are written count as used, and not as still to be taken from the free bytes.
pub(super) fn missing(
    budget: &Budget,
    disk: Option<Disk>,
    used: u64,
    reserved: Reserved,
    wanted: u64,
) -> Missing {
    let occupied = used.saturating_add(reserved.bytes).saturating_add(wanted);
    // A filesystem of unknown size counts as never full.
    let Some(Disk { total, free, inodes }) = disk else {
        let in_budget = occupied.saturating_sub(budget.max.of(u64::MAX));
        return Missing { in_budget, ..Missing::default() };
    };
    let must_be_free = budget.min_free.of(total).saturating_add(reserved.unwritten).saturating_add(wanted);
    Missing {
        in_budget: occupied.saturating_sub(budget.max.of(total)),
        on_disk: must_be_free.saturating_sub(free),
        inodes: inodes.map_or(0, |inodes| inodes.missing(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_count_and_reserved_bytes_count_as_used() {
        let budget = Budget { max: Amount::Bytes(1_000), min_free: Amount::Percent(10) };
        let disk = |free| Some(Disk { total: 10_000, free, inodes: None });
        let unwritten = |bytes| Reserved { bytes, unwritten: bytes };
        for (disk, used, reserved, wanted, expected) in [
            (disk(9_000), 0, unwritten(0), 1_000, 0),
            (disk(9_000), 0, unwritten(0), 1_001, 1),
            (disk(9_000), 600, unwritten(300), 100, 0),
            (disk(9_000), 600, unwritten(300), 200, 100),
            (disk(1_500), 0, unwritten(0), 500, 0),
            (disk(1_500), 0, unwritten(100), 500, 100),
            (disk(1_500), 0, Reserved { bytes: 100, unwritten: 0 }, 500, 0),
            (disk(1_500), 0, Reserved { bytes: 100, unwritten: 40 }, 500, 40),
            (disk(500), 100, unwritten(0), 0, 500),
            (None, 600, unwritten(300), 200, 100),
            (None, 0, unwritten(0), u64::MAX, u64::MAX - 1_000),
        ] {
            assert_eq!(
                missing(&budget, disk, used, reserved, wanted).bytes(),
                expected,
                "{disk:?} {used} {reserved:?} {wanted}"
            );
        }
        let all = Budget { max: Amount::Percent(100), min_free: Amount::Bytes(0) };
        assert_eq!(missing(&all, None, 5, unwritten(5), 5), Missing::default());
    }

    #[test]
    fn the_watermarks_leave_a_tenth_and_a_twentieth_free_and_no_more_than_a_large_image() {
        const GIB: u64 = 1024 * 1024 * 1024;
        for (capacity, high, low) in
            [(0, 0, 0), (1_000, 50, 100), (20 * GIB, GIB, 2 * GIB), (u64::MAX, 2 * GIB, 4 * GIB)]
        {
            assert_eq!((high_headroom(capacity), low_headroom(capacity)), (high, low), "{capacity}");
        }
    }

    #[test]
    fn other_files_reduce_the_capacity() {
        let budget = Budget { max: Amount::Percent(20), min_free: Amount::Percent(20) };
        let disk = |free| Some(Disk { total: 10_000, free, inodes: None });
        for (disk, used, expected) in [
            (disk(9_000), 0, 2_000),
            (disk(7_000), 2_000, 2_000),
            (disk(2_500), 1_000, 1_500),
            (disk(3_500), 0, 1_500),
            (disk(2_000), 0, 0),
            (disk(100), 500, 0),
            (None, 7, u64::MAX / 100 * 20),
        ] {
            let used = Used { bytes: used, blobs: 1 };
            assert_eq!(capacity(&budget, disk, used), expected, "{disk:?} {used:?}");
        }
    }

    #[test]
    fn a_filesystem_without_inodes_has_no_space_for_what_is_new_however_many_bytes_are_free() {
        let budget = Budget { max: Amount::Percent(100), min_free: Amount::Bytes(0) };
        let disk = |free| Disk { total: 10_000, free: 9_000, inodes: Some(Inodes { total: 1_000, free }) };
        let nothing = Reserved::default();
        for (free, wanted, inodes, blobs) in
            [(68, 1, 0, 0), (67, 1, 1, 1), (60, 0, 0, 0), (59, 0, 1, 1), (0, 1, 68, 34), (0, 0, 60, 30)]
        {
            let missing = missing(&budget, Some(disk(free)), 0, nothing, wanted);
            assert_eq!((missing.bytes(), missing.inodes, missing.blobs()), (0, inodes, blobs), "{free}");
            assert_eq!(missing.is_nothing(), inodes == 0);
        }
        for (free, blobs, expected) in
            [(68, 0, 9_000), (67, 0, 0), (67, 1, 9_000), (0, 33, 0), (0, 34, 9_000)]
        {
            let used = Used { bytes: 0, blobs };
            assert_eq!(capacity(&budget, Some(disk(free)), used), expected, "{free} {blobs}");
        }
    }
}
