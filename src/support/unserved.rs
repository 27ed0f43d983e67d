//! What was fetched and has been served to no client yet, by a key: so that a byte counts as fetched for the first
//! client that gets it, and as saved for every other one.
//!
//! Promises: what is counted as served from a fetch is never more than was fetched. Bounded: of a key that is
//! forgotten, what was not served counts as fetched in vain, and what is served later as saved.
//!
//! Deliberately not here: what the keys are, and the sums.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::bounded_map::BoundedMap;

/// Keys that are remembered at most: the blobs of some thousand images that were fetched ahead and not pulled yet.
const KEYS_MAX: usize = 16_384;

/// Bytes that were fetched and not served, of each key. Cheap to clone; clones share them.
pub struct Unserved<K: Hash + Eq>(Arc<Mutex<BoundedMap<K, Bytes>>>);

/// The bytes of one key. Cheap to clone; clones share the number.
#[derive(Debug, Clone, Default)]
pub struct Bytes(Arc<AtomicU64>);

impl<K: Hash + Eq> Clone for Unserved<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq> Default for Unserved<K> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(BoundedMap::new(KEYS_MAX))))
    }
}

impl<K: Hash + Eq + Clone> Unserved<K> {
    /// The number of a key from which something is being fetched.
    pub fn fetched(&self, key: K) -> Bytes {
        self.0.lock().get_or_insert_with(key, Bytes::default).clone()
    }

    /// The number of a key; `None` if nothing of it was fetched.
    pub fn of(&self, key: &K) -> Option<Bytes> {
        self.0.lock().get(key).cloned()
    }
}

impl Bytes {
    /// So many more bytes were fetched.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes are served; returns how many of them were fetched and not served before.
    pub fn serve(&self, bytes: u64) -> u64 {
        let taken =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - left.min(bytes)));
        taken.unwrap_or_else(|left| left).min(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_was_fetched_once_counts_as_fetched_for_one_client() {
        let unserved = Unserved::default();
        assert!(unserved.of(&"a").is_none(), "it was here before");
        let fetched = unserved.fetched("a");
        fetched.add(100);
        let first = unserved.of(&"a").unwrap();
        assert_eq!((first.serve(60), first.serve(60), first.serve(60)), (60, 40, 0));
        fetched.add(10);
        assert_eq!(unserved.of(&"a").unwrap().serve(50), 10);
    }

    #[test]
    fn ever_new_keys_cost_no_memory() {
        let unserved = Unserved::default();
        (0..KEYS_MAX * 2).for_each(|n| unserved.fetched(n).add(1));
        assert_eq!(unserved.0.lock().len(), KEYS_MAX);
        assert!(unserved.of(&0).is_none() && unserved.of(&KEYS_MAX).is_some());
    }
}
