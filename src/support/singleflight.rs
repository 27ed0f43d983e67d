//! Singleflight: one run for any number of equal requests.
//!
//! A caller that is alone runs the work itself, so that it costs no task and no wake-up of another thread. Once another
//! caller asks the same, or the first one goes away, the work goes on as a task of its own: a caller that leaves or
//! stands still neither cancels it nor strands the others. A stop waits for it either way. Nothing is remembered after
//! the answer: this is no cache.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tracing::Instrument;

use super::sync::{Mutex, MutexGuard};
use super::tasks::Tasks;

/// The runs under way.
type Running<K, V> = HashMap<K, Run<V>>;

/// One run. The lock is held while its first caller polls the work; none is taken meanwhile but those of the work.
struct Run<V>(Arc<Mutex<State<V>>>);

struct State<V> {
    /// What the first caller runs; `None` once it has ended, or runs as a task. It gives `None` only in a panic.
    work: Option<BoxFuture<'static, Option<V>>>,
    /// The first caller, where it waits for the work.
    caller: Option<Waker>,
    /// What the work gave to its first caller.
    value: Option<V>,
    /// Where the value will be, once the work runs as a task: one caller alone needs no channel.
    from_task: Option<watch::Receiver<Option<V>>>,
}

impl<V> Clone for Run<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Turns equal requests `K` into one run with one answer `V`. Cheap to clone; clones share the runs.
pub struct Singleflight<K, V> {
    running: Arc<Mutex<Running<K, V>>>,
    tasks: Tasks,
}

impl<K, V> std::fmt::Debug for Singleflight<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Singleflight(..)")
    }
}

impl<K, V> Clone for Singleflight<K, V> {
    fn clone(&self) -> Self {
        Self { running: Arc::clone(&self.running), tasks: self.tasks.clone() }
    }
}

impl<K, V> Singleflight<K, V> {
    /// Each run counts as one of `tasks`, so that a stop waits for it.
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
        let (run, leads) = self.join_or_lead(key, make);
        if leads {
            Leading { run: &run, tasks: &self.tasks }.await;
        } else {
            run.go_on_as_task(&self.tasks);
        }
        run.answer().await
    }

    /// The run under way, or a new one; and whether it is new.
    fn join_or_lead<F>(&self, key: K, make: impl FnOnce() -> F) -> (Run<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(running) => (running.get().clone(), false),
            Entry::Vacant(vacant) => {
                let running = Arc::clone(&self.running);
                let (key, counted) = (RunningKey { running, key }, self.tasks.count());
                // In the log the work belongs to the request that began it.
                let work = AssertUnwindSafe(make().in_current_span()).catch_unwind();
                let work = async move {
                    let value = work.await;
                    drop((key, counted));
                    // The panic has been logged where it was.
                    value.ok()
                };
                let state = State { work: Some(work.boxed()), caller: None, value: None, from_task: None };
                let run = Run(Arc::new(Mutex::new(state)));
                vacant.insert(run.clone());
                (run, true)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running<K, V>> {
        self.running.lock()
    }
}

impl<V: Clone + Send + Sync + 'static> Run<V> {
    /// Lets the work go on as a task of its own, if its first caller runs it, which waits for the answer from then on.
    fn go_on_as_task(&self, tasks: &Tasks) {
        let mut state = self.0.lock();
        let Some(work) = state.work.take() else { return };
        let (sender, receiver) = watch::channel(None);
        state.from_task = Some(receiver);
        let caller = state.caller.take();
        drop(state);
        tasks.spawn_if_running(async move {
            if let Some(value) = work.await {
                sender.send_replace(Some(value));
            }
        });
        caller.into_iter().for_each(Waker::wake);
    }

    /// The answer, once the first caller does not run the work any more.
    async fn answer(&self) -> Option<V> {
        let (value, from_task) = {
            let state = self.0.lock();
            (state.value.clone(), state.from_task.clone())
        };
        match from_task {
            Some(mut answer) => answer.wait_for(Option::is_some).await.ok().and_then(|value| value.clone()),
            None => value,
        }
    }
}

/// The first caller of a run, as long as it runs the work: until that has ended, or goes on as a task.
struct Leading<'a, V: Clone + Send + Sync + 'static> {
    run: &'a Run<V>,
    tasks: &'a Tasks,
}

impl<V: Clone + Send + Sync + 'static> Future for Leading<'_, V> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.run.0.lock();
        let State { work, caller, value, .. } = &mut *state;
        let Some(running) = work else { return Poll::Ready(()) };
        let Poll::Ready(given) = running.as_mut().poll(cx) else {
            if caller.as_ref().is_none_or(|caller| !caller.will_wake(cx.waker())) {
                *caller = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        *value = given;
        let ended = (work.take(), caller.take());
        drop(state);
        drop(ended);
        Poll::Ready(())
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for Leading<'_, V> {
    fn drop(&mut self) {
        self.run.go_on_as_task(self.tasks);
    }
}

/// Frees the key when the work ends, in a panic too.
struct RunningKey<K: Hash + Eq, V> {
    running: Arc<Mutex<Running<K, V>>>,
    key: K,
}

impl<K: Hash + Eq, V> Drop for RunningKey<K, V> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn equal_questions_are_asked_once_and_a_caller_that_leaves_cancels_no_other() {
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
    async fn a_caller_that_stands_still_keeps_no_other_waiting() {
        let singleflight: Singleflight<u8, u8> = Singleflight::new(Tasks::default());
        let gate = Arc::new(Notify::new());
        let opened = Arc::clone(&gate);
        let mut first = Box::pin(singleflight.run(1, || async move {
            opened.notified().await;
            7
        }));
        assert!(first.as_mut().now_or_never().is_none());
        // From here on nothing polls the first caller.
        let second = singleflight.run(1, || async { 8 });
        gate.notify_one();
        assert_eq!(second.await, Some(7));
        assert_eq!(first.await, Some(7));
    }

    #[tokio::test]
    async fn a_question_of_one_caller_costs_no_task() {
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let singleflight: Singleflight<u8, usize> = Singleflight::new(Tasks::default());
        let run = singleflight.run(1, || async move {
            tokio::task::yield_now().await;
            tasks()
        });
        assert_eq!(run.await, Some(0));
    }

    #[tokio::test]
    async fn a_stop_waits_for_work_that_its_caller_runs_or_has_left() {
        let tasks = Tasks::default();
        let singleflight: Singleflight<u8, ()> = Singleflight::new(tasks.clone());
        let mut caller = Box::pin(singleflight.run(1, std::future::pending));
        assert!(caller.as_mut().now_or_never().is_none());
        assert_eq!(tasks.running(), 1);
        drop(caller);
        assert!(tasks.running() > 0);
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
