//! The last access of each blob, passed on to the index once a minute at most: a hit must not wake another thread.

use parking_lot::Mutex;

use crate::reference::Digest;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;

/// Seconds within which further accesses of a blob are not passed on: eviction needs no finer order.
pub(super) const INTERVAL_SECONDS: u64 = 60;
/// Blobs that are remembered. The accesses of further ones cost a message each.
const BLOBS_MAX: usize = 16 * 1024;

/// When the last access of each blob was passed on.
#[derive(Debug)]
pub(in crate::store) struct LastAccess(Mutex<BoundedMap<Digest, Timestamp>>);

impl LastAccess {
    pub(in crate::store) fn new() -> Self {
        Self(Mutex::new(BoundedMap::new(BLOBS_MAX)))
    }

    /// Notes an access; whether it has to be passed on.
    pub(in crate::store) fn note(&self, digest: Digest, now: Timestamp) -> bool {
        let mut passed_on = self.0.lock();
        // An access before the one that was passed on means that the clock was set back.
        if let Some(at) = passed_on.get(&digest)
            && (at.0..at.0.saturating_add(INTERVAL_SECONDS)).contains(&now.0)
        {
            return false;
        }
        passed_on.insert(digest, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_passed_on_once_a_minute_and_when_the_clock_was_set_back() {
        let accesses = LastAccess::new();
        let digest = Digest::of(b"x");
        for (now, due) in
            [(1_000, true), (1_000, false), (1_059, false), (1_060, true), (900, true), (901, false)]
        {
            assert_eq!(accesses.note(digest, Timestamp(now)), due, "{now}");
        }
        assert!(accesses.note(Digest::of(b"y"), Timestamp(901)));
    }
}
