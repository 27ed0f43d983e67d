//! How long requests wait for a program that has credentials, and that the time is waited once.
//!
//! A run is not ended when its time is over for those who wait: it goes on, and what it returns is there for the next
//! request. While it goes on, further requests for the same do not wait again; nor do they at the next run, until a run
//! has been in time.

use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::support::bounded_map::BoundedMap;

/// How long a request waits for a program: a pull with a hung one must stay well within the time of its client.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Programs that are waited for, with what they are run for, at most. One that is forgotten is waited for again.
const RUNS_MAX: usize = 1_024;

/// Until when each run is waited for.
pub(super) struct Patience<K: Hash + Eq>(Mutex<BoundedMap<K, Instant>>);

impl<K: Hash + Eq> Default for Patience<K> {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(RUNS_MAX)))
    }
}

impl<K: Hash + Eq + Clone> Patience<K> {
    /// What a run returns, if it does in time; `None` if the time is over.
    pub(super) async fn wait<T>(&self, key: &K, run: impl Future<Output = T>) -> Option<T> {
        let deadline = *self.0.lock().get_or_insert_with(key.clone(), || Instant::now() + PATIENCE);
        timeout_at(deadline, run).await.ok()
    }

    /// Records that a run has ended.
    pub(super) fn ended(&self, key: &K) {
        let mut runs = self.0.lock();
        if runs.get(key).is_some_and(|deadline| Instant::now() < *deadline) {
            runs.remove(key);
        }
    }

    /// Records that a run has ended well although it was waited for no more: the next one is.
    pub(super) fn recovered(&self, key: &K) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_waited_for_once() {
        let (patience, begun) = (Patience::default(), Instant::now());
        let hang = || std::future::pending::<()>();
        assert_eq!(patience.wait(&"x", hang()).await, None);
        assert_eq!(begun.elapsed(), PATIENCE);
        patience.ended(&"x");
        assert_eq!(patience.wait(&"x", hang()).await, None, "at the next run");
        assert_eq!(begun.elapsed(), PATIENCE, "it was waited for again");
        assert_eq!(patience.wait(&"x", async { 1 }).await, Some(1), "what is there is taken");
        patience.recovered(&"x");
        assert_eq!(patience.wait(&"x", hang()).await, None);
        assert_eq!(begun.elapsed(), 2 * PATIENCE, "one that recovered is waited for");
    }
}
