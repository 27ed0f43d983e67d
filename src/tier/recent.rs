//! What was noted of objects a while ago, bounded in number and time. Nothing here outlives a restart.

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

/// Objects that something was noted of.
pub(super) struct Recent {
    noted: Mutex<BoundedMap<(Registry, Digest), Instant>>,
    lasts: Duration,
}

impl Recent {
    pub(super) fn new(lasts: Duration) -> Self {
        Self { noted: Mutex::new(BoundedMap::new(OBJECTS_MAX)), lasts }
    }

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
