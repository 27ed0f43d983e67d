//! Large blobs that are asked for the first time: where one would push out much of what is stored, it is passed by.
//!
//! A layer of several gigabytes that one pod needs once would take the place of many images that pods start with every
//! day. It is stored when it is asked for again: then it is one of those. A small one, or one that finds space, is
//! stored at once. Pure but for what it remembers; docs/on-disk-format.md has it beside other orders on a trace of
//! pulls.

use std::time::Duration;

use crate::reference::Digest;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;

/// Percent of the capacity beyond which a blob is large: a fourth. Smaller ones are evicted soon if they are not used
/// again, and cost the store less than that.
const LARGE_PERCENT: u64 = 25;
/// Bytes up to which no blob is large, however small the store: they are fetched again in a moment.
const LARGE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// How long after its last request a pull is over: it may pause, resume or begin anew, and a slow one asks for range
/// after range.
const AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);
/// How long a pull may last; what asks for a blob for longer needs it more than once.
const SAME_PULL_MAX: Duration = Duration::from_secs(4 * 60 * 60);
/// Blobs that are remembered; of further ones the first request counts again.
const BLOBS_MAX: usize = 1_024;

/// The blobs that were passed by, and when.
#[derive(Debug)]
pub(in crate::store) struct Passed(BoundedMap<Digest, Asked>);

/// The requests of the pull by which a blob was asked for first.
#[derive(Debug, Clone, Copy)]
struct Asked {
    first: Timestamp,
    last: Timestamp,
}

impl Asked {
    /// Whether a request now is of another pull.
    fn is_over(self, now: Timestamp) -> bool {
        self.last.age_at(now) >= AGAIN_AFTER || self.first.age_at(now) >= SAME_PULL_MAX
    }
}

impl Default for Passed {
    fn default() -> Self {
        Self(BoundedMap::new(BLOBS_MAX))
    }
}

impl Passed {
    /// Remembers that a blob of `size` bytes was asked for, for which others would have to be evicted; returns whether
    /// a store of `capacity` bytes passes it by.
    pub(in crate::store) fn pass_by_unless_asked_before(
        &mut self,
        digest: Digest,
        size: u64,
        capacity: u64,
        now: Timestamp,
    ) -> bool {
        if !is_large(size, capacity) {
            return false;
        }
        let asked = self.0.get_or_insert_with(digest, || Asked { first: now, last: now });
        if asked.is_over(now) {
            // It stays so: what another pull asks for is stored, however that pull goes on.
            return false;
        }
        asked.last = now;
        true
    }

    /// Whether it would be passed by, if it were asked for; remembers nothing.
    pub(in crate::store) fn is_passed_by(
        &self,
        digest: &Digest,
        size: u64,
        capacity: u64,
        now: Timestamp,
    ) -> bool {
        let is_new = || self.0.peek(digest).is_none_or(|asked| !asked.is_over(now));
        is_large(size, capacity) && is_new()
    }
}

/// Whether a blob of `size` bytes is large for some store. Asks no disk.
pub(in crate::store) fn may_be_large(size: u64) -> bool {
    size > LARGE_BYTES_MIN
}

/// Whether a blob of `size` bytes is large for a store of `capacity` bytes.
pub(super) fn is_large(size: u64, capacity: u64) -> bool {
    may_be_large(size) && u128::from(size) * 100 > u128::from(capacity) * u128::from(LARGE_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_large_blob_is_passed_by_until_another_pull_asks_for_it() {
        let mut passed = Passed::default();
        let digest = Digest::of(b"large");
        let mut ask =
            |size, capacity, at| passed.pass_by_unless_asked_before(digest, size, capacity, Timestamp(at));
        for (size, capacity, at, expected, why) in [
            (25 * GIB, 100 * GIB, 1_000, false, "not large"),
            (LARGE_BYTES_MIN, 1, 1_000, false, "not large for any store"),
            (25 * GIB + 1, 100 * GIB, 1_000, true, "the first time"),
            (25 * GIB + 1, 100 * GIB, 1_599, true, "the same pull, resumed"),
            (25 * GIB + 1, 100 * GIB, 2_199, false, "again, ten minutes after the last request"),
            (25 * GIB + 1, 100 * GIB, 2_300, false, "that pull goes on"),
            (u64::MAX, u64::MAX, 2_300, false, "no overflow"),
        ] {
            assert_eq!(ask(size, capacity, at), expected, "{why}");
        }
        let other = Digest::of(b"other");
        let ahead = |digest, size| passed.is_passed_by(&digest, size, 10 * GIB, Timestamp(2_300));
        assert!(!ahead(digest, 3 * GIB) && ahead(other, 3 * GIB) && !ahead(other, 2 * GIB));
        assert!(passed.pass_by_unless_asked_before(other, 2 * GIB, GIB, Timestamp(9_000)), "of its own");
    }

    #[test]
    fn a_slow_pull_by_ranges_is_not_taken_for_another_one_unless_it_lasts_for_hours() {
        let mut passed = Passed::default();
        let digest = Digest::of(b"large");
        let first_stored = (0..10_000).step_by(9).find(|minute| {
            let at = Timestamp(1_000 + minute * 60);
            let ahead = passed.is_passed_by(&digest, GIB, GIB, at);
            let is_passed = passed.pass_by_unless_asked_before(digest, GIB, GIB, at);
            assert_eq!(ahead, is_passed, "minute {minute}");
            !is_passed
        });
        assert_eq!(first_stored, Some(243), "the first request after four hours");
    }
}
