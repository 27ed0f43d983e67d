//! Which blob to evict first: a pure order. Least recently used, weighted by size.
//!
//! A manifest or config is needed by every pull of its image and frees next to nothing, so an idle second of a large
//! blob weighs more than one of a small blob: by the logarithm of its size, so that size alone never decides. Blobs with
//! the same logarithm are a class; within a class the order is that of the last access.

use std::time::Duration;

/// Bytes up to which every blob weighs the same.
const SMALL_BYTES: u64 = 4 * 1024;
/// Classes of size: one for each power of two.
pub(super) const CLASSES: usize = 64;

/// The class of a blob of so many bytes, below [`CLASSES`].
pub(super) fn class(size: u64) -> usize {
    (size / SMALL_BYTES).max(2).ilog2() as usize
}

/// The heavier, the sooner evicted.
pub(super) fn weight(idle: Duration, class: usize) -> u64 {
    idle.as_secs().saturating_add(1).saturating_mul(class as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_longest_idle_goes_first_and_size_weighs_but_does_not_decide() {
        for (why, sooner, later) in [
            ("the longest idle", (MIB, 30), (MIB, 20)),
            ("a layer before a manifest of the same age", (100 * MIB, 100), (2_000, 100)),
            ("a manifest that has been idle for far longer", (2_000, 10_000), (100 * MIB, 100)),
            ("a megabyte that is idle for an hour before a gigabyte in use", (MIB, 3_600), (1_024 * MIB, 60)),
        ] {
            let weight = |(size, idle)| weight(Duration::from_secs(idle), class(size));
            assert!(weight(sooner) > weight(later), "{why}");
        }
        assert!(class(u64::MAX) < CLASSES);
        assert_eq!(class(0), 1, "an empty blob has a weight too");
    }
}
