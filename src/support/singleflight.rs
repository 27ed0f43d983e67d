//! Singleflight: one run for any number of equal requests.
//!
//! The work runs on a task of its own, which a stop waits for, so that a caller that goes away neither cancels it nor
//! strands the others. Nothing is remembered after the answer: this is no cache.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::Instrument;

use super::sync::{Mutex, MutexGuard};
use super::tasks::Tasks;

type Running<K, V> = HashMap<K, watch::Receiver<Option<V>>>;

/// Turns equal requests `K` into one run with one answer `V`. Cheap to clone; clones share the runs.
#[derive(Debug)]
pub struct Singleflight<K, V> {
    running: Arc<Mutex<Running<K, V>>>,
    tasks: Tasks,
}

impl<K, V> Clone for Singleflight<K, V> {
    fn clone(&self) -> Self {
        Self { running: Arc::clone(&self.running), tasks: self.tasks.clone() }
    }
}

impl<K, V> Singleflight<K, V> {
    /// Each run becomes one of `tasks`, so that a stop waits for it.
    pub fn new(tasks: Tasks) -> Self {
        Self { running: Arc::default(), tasks }
    }
}

impl<K, V> Singleflight<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The answer to `key`: of the run under way, else of `make`. `None` only when the run died in a panic.
    pub async fn run<F>(&self, key: K, make: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut answer = match self.lock().entry(key.clone()) {
            Entry::Occupied(running) => running.get().clone(),
            Entry::Vacant(vacant) => {
                let (sender, receiver) = watch::channel(None);
                vacant.insert(receiver.clone());
                let key = RunningKey { running: self.clone(), key };
                let work = make();
                let run = async move {
                    let value = work.await;
                    drop(key);
                    sender.send_replace(Some(value));
                };
                // In the log the work belongs to the request that began it.
                self.tasks.spawn_detached(run.in_current_span());
                receiver
            }
        };
        answer.wait_for(Option::is_some).await.ok().and_then(|value| value.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Running<K, V>> {
        self.running.lock()
    }
}

/// Frees the key when the work ends, in a panic too.
struct RunningKey<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    running: Singleflight<K, V>,
    key: K,
}

impl<K, V> Drop for RunningKey<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn equal_questions_are_asked_once_and_a_caller_that_leaves_cancels_nobody() {
        let singleflight: Singleflight<&str, usize> = Singleflight::new(Tasks::default());
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (singleflight, runs, gate) = (singleflight.clone(), Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let make = || async move {
                    let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                    gate.notified().await;
                    run
                };
                singleflight.run("key", make).await
            }
        };
        let leaver = tokio::spawn(ask());
        let others: Vec<_> = (0..10).map(|_| tokio::spawn(ask())).collect();
        tokio::task::yield_now().await;
        leaver.abort();
        gate.notify_one();
        for other in others {
            assert_eq!(other.await.unwrap(), Some(1));
        }
        gate.notify_one();
        assert_eq!(ask().await, Some(2), "an answer is not remembered");
    }

    #[tokio::test]
    async fn a_panic_frees_the_key() {
        let singleflight: Singleflight<u8, u8> = Singleflight::new(Tasks::default());
        assert_eq!(singleflight.run(1, || async { panic!("on purpose") }).await, None);
        assert_eq!(singleflight.run(1, || async { 7 }).await, Some(7));
    }
}

#[cfg(test)]
#[cfg(feature = "model")]
#[path = "schedule_tests.rs"]
mod schedule_tests;
