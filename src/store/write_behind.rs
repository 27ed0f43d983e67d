//! Writes that no answer waits for: done one after the other, in the order in which they were asked for.
//!
//! Promises: a record that is written behind its content never names what is not durable, because the content is written
//! first; what is asked for while too much waits, waits for a place itself. A panic of a write ends that write alone.
//!
//! Not here: what readers see until a write is done. Each kind of write keeps that in memory.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::store::error::Error;

/// Writes that wait at most, each with a manifest of at most 128 KiB: 32 MiB on a disk that hangs.
const WAITING_MAX: usize = 256;

type Work = Box<dyn FnOnce() + Send>;

/// The writes of one store. Cheap to clone; clones share the order.
#[derive(Clone)]
pub(super) struct WriteBehind {
    places: Arc<Semaphore>,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    /// Whether a thread works on them.
    is_running: bool,
}

impl std::fmt::Debug for WriteBehind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteBehind(..)")
    }
}

impl Default for WriteBehind {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(WAITING_MAX)), queue: Arc::default() }
    }
}

impl WriteBehind {
    /// Does `work` on a blocking thread after everything that was asked for before. Returns when it has its place in the
    /// order.
    pub(super) async fn later(&self, work: impl FnOnce() + Send + 'static) {
        // Closed never; without a place the work is only bounded less.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let work = Box::new(move || {
            drop(place);
            work();
        });
        {
            let mut queue = self.queue.lock();
            queue.waiting.push_back(work);
            if std::mem::replace(&mut queue.is_running, true) {
                return;
            }
        }
        let queue = Arc::clone(&self.queue);
        tokio::task::spawn_blocking(move || run(&queue));
    }

    /// As [`WriteBehind::later`], and waits for the result.
    ///
    /// # Errors
    /// Those of `work`; a panic of `work` becomes [`Error::Io`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        self.later(move || drop(done.send(work()))).await;
        let panicked =
            |ended| Error::io("finish work on", Path::new("the store"))(std::io::Error::other(ended));
        result.await.unwrap_or_else(|ended| Err(panicked(ended)))
    }

    /// Waits until everything that was asked for before is done.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let tell = move || {
            let _ = done.send(());
        };
        self.later(tell).await;
        let _ = flushed.await;
    }
}

/// Does what waits, until nothing does.
fn run(queue: &Mutex<Queue>) {
    loop {
        let work = {
            let mut queue = queue.lock();
            let Some(work) = queue.waiting.pop_front() else {
                queue.is_running = false;
                return;
            };
            work
        };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("a write of the store panicked; what it should have written is not there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_are_done_in_order_also_after_one_that_panicked() {
        let (writes, done) = (WriteBehind::default(), Arc::new(Mutex::new(Vec::new())));
        for n in 0..2 * WAITING_MAX {
            let done = Arc::clone(&done);
            writes.later(move || done.lock().push(n)).await;
            if n == 7 {
                writes.later(|| panic!("on purpose")).await;
            }
        }
        writes.flush().await;
        assert_eq!(*done.lock(), (0..2 * WAITING_MAX).collect::<Vec<_>>());
        let panicked = writes.run(|| -> Result<(), Error> { panic!("on purpose") }).await;
        assert!(panicked.is_err());
        assert_eq!(writes.run(|| Ok(5)).await.unwrap(), 5);
        assert_eq!(writes.places.available_permits(), WAITING_MAX);
    }
}
