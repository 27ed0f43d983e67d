//! Which blob to evict first: a pure order. Least recently used, weighted by size.
//!
//! A manifest or config is needed by every pull of its image and frees next to nothing, so an idle second of a large
//! blob weighs more than one of a small blob: by the logarithm of its size, so that size alone never decides. What one
//! pull used and no later one weighs more than what was used again, so that images which are pulled once do not push
//! out those that many pulls share. Blobs with the same logarithm are a class; within a class the order is that of the
//! last access. docs/on-disk-format.md has this order beside others on a trace of pulls.

use std::time::Duration;

/// Bytes up to which every blob weighs the same.
const SMALL_BYTES: u64 = 4 * 1024;
/// How much more an idle second of a blob weighs that was used by one pull only.
const USED_ONCE: u64 = 4;
/// Classes of size: one for each power of two.
pub(in crate::store) const CLASSES: usize = 64;

/// What an eviction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Order {
    /// Bytes: an idle second of a large blob weighs more.
    BySize,
    /// Inodes, of which every blob frees as many: an idle second of a small blob, which costs little to fetch again,
    /// weighs more.
    ByCount,
}

/// The class of a blob of so many bytes, below [`CLASSES`].
pub(in crate::store) fn class(size: u64) -> usize {
    (size / SMALL_BYTES).max(2).ilog2() as usize
}

/// The heavier, the sooner evicted.
pub(in crate::store) fn weight(order: Order, idle: Duration, class: usize, reused: bool) -> u64 {
    let by_use = if reused { 1 } else { USED_ONCE };
    let by_size = match order {
        Order::BySize => class,
        Order::ByCount => CLASSES - class,
    };
    idle.as_secs().saturating_add(1).saturating_mul(by_size as u64).saturating_mul(by_use)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_longest_idle_goes_first_and_size_weighs_but_does_not_decide() {
        for (why, sooner, later) in [
            ("the longest idle", (MIB, 30, false), (MIB, 20, false)),
            ("a layer before a manifest of the same age", (100 * MIB, 100, false), (2_000, 100, false)),
            ("a manifest that has been idle for far longer", (2_000, 10_000, false), (100 * MIB, 100, false)),
            ("idle for an hour before a gigabyte in use", (MIB, 3_600, false), (1_024 * MIB, 60, false)),
            ("used by one pull before one that was used again", (MIB, 100, false), (MIB, 300, true)),
            ("but not for ever", (MIB, 2_000, true), (MIB, 100, false)),
        ] {
            let weight =
                |(size, idle, reused)| weight(Order::BySize, Duration::from_secs(idle), class(size), reused);
            assert!(weight(sooner) > weight(later), "{why}");
        }
        let for_inodes = |size, idle| weight(Order::ByCount, Duration::from_secs(idle), class(size), false);
        assert!(for_inodes(2_000, 100) > for_inodes(100 * MIB, 100), "a small one frees as many inodes");
        assert!(for_inodes(100 * MIB, 1_000) > for_inodes(2_000, 100), "the longest idle");
        assert!(class(u64::MAX) < CLASSES);
        assert_eq!(class(0), 1, "an empty blob has a weight too");
    }
}
