//! Work that goes on when the request that began it has ended: every such task is tracked, and a stop waits for it.
//!
//! Promises: [`Tasks::finish`] waits for every task, up to the wait that it was given, and counts those still running
//! then. A panic of a task ends that task alone.
//!
//! Deliberately not here: cancelling. A task that must end early listens to [`super::shutdown::Shutdown`]; one that is
//! of use to a single owner has an [`AbortOnDropHandle`].

use std::time::Duration;

use tokio::task::JoinHandle;
/// The handle of a task that ends with its owner.
pub use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The tasks of one owner. Cheap to clone; clones share the tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks(TaskTracker);

/// Work that a stop waits for, although it is no task.
#[derive(Debug)]
pub struct Counted(#[allow(dead_code, reason = "counts by being there")] TaskTrackerToken);

impl Tasks {
    /// Runs `task` on the runtime of the caller.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.spawn(task)
    }

    /// Runs `task` on the runtime of the caller; how it ends is told by what it does alone.
    pub fn spawn_detached(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[cfg(not(feature = "model"))]
        drop(self.0.spawn(task));
        #[cfg(feature = "model")]
        drop(shuttle::future::spawn(self.0.track_future(task)));
    }

    /// Runs `task` on the runtime of the caller, if there is one: what is dropped after the
    /// end of a runtime has none.
    pub fn spawn_if_running(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[cfg(not(feature = "model"))]
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(self.0.spawn_on(task, &runtime));
        }
        #[cfg(feature = "model")]
        drop(shuttle::future::spawn(self.0.track_future(task)));
    }

    /// Counts as a task until it is dropped: work that its caller runs, and that may become one.
    pub fn count(&self) -> Counted {
        Counted(self.0.token())
    }

    /// Runs `work` on a thread that may block.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.spawn_blocking(work)
    }

    /// Tasks that are running.
    pub fn running(&self) -> usize {
        self.0.len()
    }

    /// Waits until every task has ended, but no longer than `wait`; returns how many are still running.
    pub async fn finish(&self, wait: Duration) -> usize {
        self.0.close();
        let _ = tokio::time::timeout(wait, self.0.wait()).await;
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_what_ends_in_time_and_counts_what_does_not() {
        let tasks = Tasks::default();
        tasks.spawn(tokio::time::sleep(Duration::from_secs(1)));
        tasks.clone().spawn(std::future::pending::<()>());
        let failed = tasks.spawn(async { panic!("on purpose") });
        assert_eq!(tasks.running(), 3);
        assert_eq!(tasks.finish(Duration::from_secs(2)).await, 1);
        assert!(failed.await.is_err());
    }
}
