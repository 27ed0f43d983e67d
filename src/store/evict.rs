//! Which blobs to evict: a pure choice. Least recently used, weighted by size.
//!
//! A manifest or config is needed by every pull of its image and frees next to nothing, so an idle second of a large
//! blob weighs more than one of a small blob: by the logarithm of its size, so that size alone never decides.

use std::time::Duration;

use crate::reference::Digest;
use crate::support::clock::Timestamp;

/// Bytes up to which every blob weighs the same.
const SMALL_BYTES: u64 = 4 * 1024;

/// A blob that is neither pinned nor being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its last access.
    pub used_at: Timestamp,
}

/// The blobs to evict so that `wanted` bytes are freed, or all candidates if they have fewer.
pub fn choose(mut candidates: Vec<Candidate>, now: Timestamp, wanted: u64) -> Vec<Candidate> {
    candidates.sort_by_key(|c| (std::cmp::Reverse(weight(c.used_at.age_at(now), c.size)), c.digest));
    let mut freed = 0;
    candidates
        .into_iter()
        .take_while(|candidate| {
            let is_needed = freed < wanted;
            freed += candidate.size;
            is_needed
        })
        .collect()
}

/// The heavier, the sooner evicted.
fn weight(idle: Duration, size: u64) -> u64 {
    let by_size = u64::from((size / SMALL_BYTES).max(2).ilog2());
    idle.as_secs().saturating_add(1).saturating_mul(by_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn chosen(blobs: &[(u64, u64)], wanted: u64) -> Vec<usize> {
        let digest = |n: usize| Digest::from_bytes([n as u8; 32]);
        let candidates = blobs.iter().enumerate();
        let candidates = candidates.map(|(n, &(size, idle))| Candidate {
            digest: digest(n),
            size,
            used_at: Timestamp(1_000_000 - idle),
        });
        let found = choose(candidates.collect(), Timestamp(1_000_000), wanted);
        found.iter().map(|c| usize::from(c.digest.as_bytes()[0])).collect()
    }

    #[test]
    fn the_longest_idle_blobs_are_evicted_first_and_no_more_than_needed() {
        for (blobs, wanted, expected) in [
            (vec![(MIB, 10), (MIB, 30), (MIB, 20)], 1, vec![1]),
            (vec![(MIB, 10), (MIB, 30), (MIB, 20)], MIB + 1, vec![1, 2]),
            (vec![(MIB, 10), (MIB, 30), (MIB, 20)], 100 * MIB, vec![1, 2, 0]),
            (vec![(MIB, 10)], 0, vec![]),
            (vec![], 5, vec![]),
            // A manifest stays while a layer of the same age goes, and goes when it has been idle for far longer.
            (vec![(2_000, 100), (100 * MIB, 100)], 1, vec![1]),
            (vec![(2_000, 10_000), (100 * MIB, 100)], 1, vec![0]),
            // Size alone does not decide: a gigabyte in constant use stays before a megabyte idle for an hour.
            (vec![(1_024 * MIB, 60), (MIB, 3_600)], 1, vec![1]),
        ] {
            assert_eq!(chosen(&blobs, wanted), expected, "{blobs:?} {wanted}");
        }
    }
}
