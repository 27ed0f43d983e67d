//! Permits for what untrusted parties can make many: bounded in sum, with a share for each of those who cause it.
//!
//! Who waits for its share holds nothing, and who waits for the whole holds no more than its share: one key cannot keep
//! the others from theirs. Keys that hold nothing are forgotten. Deliberately not here: how long to wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits, of which the users of each key may hold a share.
pub(crate) struct FairShares<K> {
    all: Arc<Semaphore>,
    /// Of the keys that hold something or wait. Bounded by the permits that are held or waited for.
    shares: Mutex<HashMap<K, Arc<Semaphore>>>,
    of_one: usize,
}

/// What one key may hold of them.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Permits of a key, until they are dropped.
#[derive(Debug)]
pub(crate) struct Permits([Option<OwnedSemaphorePermit>; 2]);

impl<K: Hash + Eq + Clone> FairShares<K> {
    /// So many permits in `all`, of which each key may hold `of_one`.
    pub(crate) fn new(all: usize, of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), shares: Mutex::default(), of_one }
    }

    /// The share of a key.
    pub(crate) fn of(&self, key: &K) -> Share {
        let mut shares = self.shares.lock();
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let new = || Arc::new(Semaphore::new(self.of_one));
        let own = Arc::clone(shares.entry(key.clone()).or_insert_with(new));
        Share { own, all: Arc::clone(&self.all) }
    }

    /// How many keys are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shares.lock().len()
    }
}

impl Share {
    /// Waits until so many permits are free, no more than the share has, in the order of the requests. One that is
    /// dropped before it is done holds nothing.
    pub(crate) async fn take(&self, permits: u32) -> Permits {
        // The semaphores are never closed.
        let own = Arc::clone(&self.own).acquire_many_owned(permits).await.ok();
        let of_all = Arc::clone(&self.all).acquire_many_owned(permits).await.ok();
        Permits([own, of_all])
    }
}

impl Permits {
    /// Keeps no more than so many.
    pub(crate) fn shrink(&mut self, permits: usize) {
        for held in self.0.iter_mut().flatten() {
            drop(held.split(held.num_permits().saturating_sub(permits)));
        }
    }
}
