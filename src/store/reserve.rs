//! The budget: how many bytes the store may have, how many the disk must keep free, and who has reserved some.
//!
//! Room is reserved before a download and given back when it ends, however it ends; what was committed counts as used
//! from then on. A blob that is being read is marked so that it is not evicted under its reader.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::statvfs;

use crate::reference::Digest;
use crate::store::pins::Pins;

/// A number of bytes, or a part of the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Percent of the filesystem's size.
    Percent(u8),
}

impl Amount {
    pub(crate) fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(part) => total / 100 * u64::from(part),
        }
    }
}

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of all blobs at most.
    pub max: Amount,
    /// Bytes that stay free on the filesystem. Above kubelet's image-filesystem thresholds, so that it does not evict
    /// pods because of us.
    pub min_free: Amount,
}

impl Default for Budget {
    fn default() -> Self {
        Self { max: Amount::Percent(20), min_free: Amount::Percent(20) }
    }
}

/// What the blobs occupy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Committed blobs.
    pub blobs: u64,
    /// Bytes of all committed blobs.
    pub bytes: u64,
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
}

/// What the filesystem says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

impl Disk {
    /// Asks the filesystem of `path`. `None` if it does not say: then only the budget by bytes counts.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = statvfs(path).ok()?;
        let unit = found.f_frsize.max(1);
        Some(Self { total: found.f_blocks.saturating_mul(unit), free: found.f_bavail.saturating_mul(unit) })
    }
}

/// How many bytes the blobs may have as things are, if all of them could go: pure. `used` are committed.
pub(crate) fn capacity(budget: &Budget, disk: Option<Disk>, used: u64) -> u64 {
    let (total, free) = disk.map_or((u64::MAX, u64::MAX), |disk| (disk.total, disk.free));
    let left = free.saturating_add(used).saturating_sub(budget.min_free.of(total));
    let left = if disk.is_some() { left } else { u64::MAX };
    left.min(budget.max.of(total))
}

/// How many bytes are missing for `wanted` more: pure. `used` are committed, `reserved` promised to others.
pub(crate) fn missing(budget: &Budget, disk: Option<Disk>, used: u64, reserved: u64, wanted: u64) -> u64 {
    let taken = used.saturating_add(reserved).saturating_add(wanted);
    let (total, free) = disk.map_or((u64::MAX, u64::MAX), |disk| (disk.total, disk.free));
    let over = taken.saturating_sub(budget.max.of(total));
    let needed = budget.min_free.of(total).saturating_add(reserved).saturating_add(wanted);
    // A disk that does not say how large it is cannot be too full.
    let short = if disk.is_some() { needed.saturating_sub(free) } else { 0 };
    over.max(short)
}

/// Bytes promised, and blobs in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    reserved: AtomicU64,
    in_use: Mutex<HashMap<Digest, usize>>,
    pins: Pins,
}

impl Space {
    /// Bytes promised to downloads under way.
    pub(crate) fn reserved(&self) -> u64 {
        self.0.reserved.load(Ordering::Relaxed)
    }

    /// Promises bytes. Whoever asks has made sure that they are there.
    pub(crate) fn reserve(&self, bytes: u64) -> Reservation {
        self.0.reserved.fetch_add(bytes, Ordering::Relaxed);
        Reservation { space: self.clone(), bytes }
    }

    /// Marks a blob as being used.
    pub(crate) fn using(&self, digest: Digest) -> InUse {
        *self.in_use().entry(digest).or_default() += 1;
        InUse { space: self.clone(), digest }
    }

    /// What is pinned.
    pub(crate) fn pins(&self) -> &Pins {
        &self.0.pins
    }

    /// Whether a blob is being used.
    pub(crate) fn is_used(&self, digest: &Digest) -> bool {
        self.in_use().contains_key(digest)
    }

    fn in_use(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes promised to one download; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    space: Space,
    bytes: u64,
}

impl Reservation {
    /// How many they are.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes another promise in.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.0.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Keeps a blob from being evicted while it lives.
#[derive(Debug)]
pub(crate) struct InUse {
    space: Space,
    digest: Digest,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut in_use = self.space.in_use();
        if let Some(count) = in_use.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                in_use.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_count_and_promises_count_as_used() {
        let budget = Budget { max: Amount::Bytes(1_000), min_free: Amount::Percent(10) };
        let disk = |free| Some(Disk { total: 10_000, free });
        for (disk, used, reserved, wanted, expected) in [
            (disk(9_000), 0, 0, 1_000, 0),
            (disk(9_000), 0, 0, 1_001, 1),
            (disk(9_000), 600, 300, 100, 0),
            (disk(9_000), 600, 300, 200, 100),
            (disk(1_500), 0, 0, 500, 0),
            (disk(1_500), 0, 100, 500, 100),
            (disk(500), 100, 0, 0, 500),
            (None, 600, 300, 200, 100),
            (None, 0, 0, u64::MAX, u64::MAX - 1_000),
        ] {
            assert_eq!(
                missing(&budget, disk, used, reserved, wanted),
                expected,
                "{disk:?} {used} {reserved} {wanted}"
            );
        }
        let all = Budget { max: Amount::Percent(100), min_free: Amount::Bytes(0) };
        assert_eq!(missing(&all, None, 5, 5, 5), 0);
    }

    #[test]
    fn what_others_have_taken_leaves_less_room() {
        let budget = Budget { max: Amount::Percent(20), min_free: Amount::Percent(20) };
        let disk = |free| Some(Disk { total: 10_000, free });
        for (disk, used, expected) in [
            (disk(9_000), 0, 2_000),
            (disk(7_000), 2_000, 2_000),
            (disk(2_500), 1_000, 1_500),
            (disk(3_500), 0, 1_500),
            (disk(2_000), 0, 0),
            (disk(100), 500, 0),
            (None, 7, u64::MAX / 100 * 20),
        ] {
            assert_eq!(capacity(&budget, disk, used), expected, "{disk:?} {used}");
        }
    }

    #[test]
    fn promises_and_marks_end_with_their_owners() {
        let (space, digest) = (Space::default(), Digest::of(b"x"));
        let mut first = space.reserve(100);
        first.add(space.reserve(50));
        assert_eq!((space.reserved(), first.bytes()), (150, 150));
        drop(first);
        assert_eq!(space.reserved(), 0);
        let (one, two) = (space.using(digest), space.using(digest));
        drop(one);
        assert!(space.is_used(&digest));
        drop(two);
        assert!(!space.is_used(&digest));
    }
}
