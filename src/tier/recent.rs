//! What was noted of objects a while ago, bounded in number and time. Nothing here outlives a restart.

use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::{Digest, Registry};
use crate::support::bounded_map::BoundedMap;

/// How long an object that did not deliver is not read: as long as an endpoint is avoided for a digest.
pub(super) const AVOIDED_FOR: Duration = Duration::from_secs(600);
/// How long an object counts as present without being asked for: a store that lost it costs no more than that.
pub(super) const PRESENT_FOR: Duration = Duration::from_secs(3_600);
/// How often the last use of an object is recorded at most.
pub(super) const TOUCHED_FOR: Duration = Duration::from_secs(86_400);
/// Objects remembered; one that is forgotten costs a request.
const OBJECTS_MAX: usize = 4_096;

/// How long a lease that nothing renews is known to be that of a writer that is gone.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(600);
/// How long no other node is waited for after a wait for nothing: the store is slow to take what writers have.
pub(super) const VAIN_FOR: Duration = Duration::from_secs(300);
/// How often one name is shared, or looked at whether it is, at most.
pub(super) const SHARED_FOR: Duration = Duration::from_secs(3_600);

/// What something was noted of: objects by registry and digest, or names.
pub(super) struct Recent<K: Hash + Eq = (Registry, Digest)> {
    noted: Mutex<BoundedMap<K, Instant>>,
    lasts: Duration,
}

impl<K: Hash + Eq> Recent<K> {
    pub(super) fn new(lasts: Duration) -> Self {
        Self { noted: Mutex::new(BoundedMap::new(OBJECTS_MAX)), lasts }
    }

    /// Notes it; returns whether nothing was noted of it a while ago.
    pub(super) fn note_once(&self, key: K) -> bool {
        let mut noted = self.noted.lock();
        let is_new = noted.peek(&key).is_none_or(|at| at.elapsed() >= self.lasts);
        if is_new {
            noted.insert(key, Instant::now());
        }
        is_new
    }

    /// Forgets that it was noted.
    pub(super) fn forget_key(&self, key: &K) {
        self.noted.lock().remove(key);
    }

    /// Whether it was noted a while ago.
    pub(super) fn is_noted(&self, key: &K) -> bool {
        self.noted.lock().peek(key).is_some_and(|at| at.elapsed() < self.lasts)
    }
}

impl Recent {
    pub(super) fn note(&self, registry: &Registry, digest: Digest) {
        self.noted.lock().insert((registry.clone(), digest), Instant::now());
    }

    pub(super) fn forget(&self, registry: &Registry, digest: Digest) {
        self.noted.lock().remove(&(registry.clone(), digest));
    }

    pub(super) fn has(&self, registry: &Registry, digest: Digest) -> bool {
        let key = (registry.clone(), digest);
        self.noted.lock().peek(&key).is_some_and(|at| at.elapsed() < self.lasts)
    }
}
