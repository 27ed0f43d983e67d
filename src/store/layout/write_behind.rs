//! Writes that no answer waits for: in the order in which they were asked for, those that wait together in one batch.
//!
//! Promises: a record that is written behind its content never names what is not durable, because the content gets its
//! name first; what is asked for while too much waits, waits a second for a place and is not written without one, so
//! that a disk that hangs holds up no answer. A panic of a write ends that write alone.
//!
//! Not here: what readers see until a write is done. Each kind of write keeps that in memory, from when it has its
//! place: a request that gives up while it waits for one leaves nothing behind.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::store::disk::calls_under_way::HANGS_AFTER;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::layout::batch;

/// Writes that wait at most, each with a manifest of at most 128 KiB: 32 MiB on a disk that hangs.
const WAITING_MAX: usize = 256;
/// How long an answer waits for a place: a disk that is merely slow has done a batch by then.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// How long a result is waited for where one was waited for in vain since anything was done last.
const LATE_WAIT: Duration = Duration::from_millis(10);
/// Writes in one batch: each has two or three files open until they are synced.
const BATCH_MAX: usize = 16;

/// Something that is to be done.
enum Work {
    /// By itself: what comes after it begins when it is done.
    Alone(Box<dyn FnOnce() + Send>),
    /// Together with others.
    Staged(batch::Write),
}

/// What waits, with its place.
type Waiting = (Option<OwnedSemaphorePermit>, Work);

/// A place among what waits.
pub struct Place<'a> {
    writes: &'a WriteBehind,
    permit: Option<OwnedSemaphorePermit>,
}

/// The writes of one store. Cheap to clone; clones share the order.
#[derive(Clone)]
pub(in crate::store) struct WriteBehind {
    layout: Layout,
    places: Arc<Semaphore>,
    queue: Arc<Mutex<Queue>>,
    /// Whether one has waited for a place in vain since anything was done last: further ones do not wait.
    is_late: Arc<AtomicBool>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a thread works on them.
    is_running: bool,
}

impl std::fmt::Debug for WriteBehind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteBehind(..)")
    }
}

impl WriteBehind {
    /// Writes to `layout`.
    pub(in crate::store) fn new(layout: Layout) -> Self {
        Self {
            layout,
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            queue: Arc::default(),
            is_late: Arc::default(),
        }
    }

    /// Does `work` on a blocking thread after everything that was asked for before. Returns when it has its place in
    /// the order, however long that takes.
    pub(in crate::store) async fn later(&self, work: impl FnOnce() + Send + 'static) {
        self.place_at_last().await.take(Work::Alone(Box::new(work)));
    }

    /// Writes files that may get their names together with others, in a place as [`WriteBehind::place`] gives it;
    /// without one `write` is dropped.
    pub(in crate::store) async fn stage(&self, write: batch::Write) {
        if let Some(place) = self.place().await {
            place.stage(write);
        }
    }

    /// Waits for a place, [`PLACE_WAIT`] at most; `None` if there is none, as on a disk that hangs. What is noted after
    /// that, and before it is taken, is noted for a write that will be done.
    pub(in crate::store) async fn place(&self) -> Option<Place<'_>> {
        if let Some(place) = self.place_now() {
            return Some(place);
        }
        if self.is_late.load(Ordering::Relaxed) {
            return None;
        }
        let place = tokio::time::timeout(PLACE_WAIT, self.place_at_last()).await.ok();
        if place.is_none() {
            self.is_late.store(true, Ordering::Relaxed);
        }
        place
    }

    /// A place, if one is free.
    pub(in crate::store) fn place_now(&self) -> Option<Place<'_>> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { writes: self, permit: Some(permit) })
    }

    async fn place_at_last(&self) -> Place<'_> {
        // Closed never; without a place the work is only bounded less.
        let permit = Arc::clone(&self.places).acquire_owned().await.ok();
        Place { writes: self, permit }
    }

    fn add(&self, permit: Option<OwnedSemaphorePermit>, work: Work) {
        {
            let mut queue = self.queue.lock();
            queue.waiting.push_back((permit, work));
            if std::mem::replace(&mut queue.is_running, true) {
                return;
            }
        }
        let (layout, queue, is_late) =
            (self.layout.clone(), Arc::clone(&self.queue), Arc::clone(&self.is_late));
        tokio::task::spawn_blocking(move || run(&layout, &queue, &is_late));
    }

    /// Does `work` as [`WriteBehind::later`], in a place as [`WriteBehind::place`] gives it, and waits for the result:
    /// [`HANGS_AFTER`] at most, and not at all where that was in vain since anything was done last. It is done all the
    /// same.
    ///
    /// # Errors
    /// Those of `work`; a panic of `work` becomes [`Error::Io`]; [`Error::Hangs`] if there is no place, or no result in
    /// time.
    pub(in crate::store) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.place().await.ok_or(Error::Hangs)?;
        self.take_for_result(place, work).await
    }

    /// As [`WriteBehind::run`], without a place, and done also if this is not polled again: for an end that must come
    /// although its request gives up. The caller bounds how many there are.
    ///
    /// # Errors
    /// As [`WriteBehind::run`].
    pub(in crate::store) async fn run_surely<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.take_for_result(Place { writes: self, permit: None }, work).await
    }

    async fn take_for_result<T: Send + 'static>(
        &self,
        place: Place<'_>,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        place.take(Work::Alone(Box::new(move || drop(done.send(work())))));
        let panicked =
            |ended| Error::io("finish work on", Path::new("the store"))(std::io::Error::other(ended));
        let wait = if self.is_late.load(Ordering::Relaxed) { LATE_WAIT } else { HANGS_AFTER };
        match tokio::time::timeout(wait, result).await {
            Ok(result) => result.unwrap_or_else(|ended| Err(panicked(ended))),
            Err(_) => {
                self.is_late.store(true, Ordering::Relaxed);
                Err(Error::Hangs)
            }
        }
    }

    /// Waits until everything that was asked for before is done.
    pub(in crate::store) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let tell = move || {
            let _ = done.send(());
        };
        self.later(tell).await;
        let _ = flushed.await;
    }
}

impl Place<'_> {
    /// Takes it for a write whose files may get their names together with others.
    pub(in crate::store) fn stage(self, write: batch::Write) {
        self.take(Work::Staged(write));
    }

    fn take(self, work: Work) {
        self.writes.add(self.permit, work);
    }
}

/// Does what waits, until nothing does.
fn run(layout: &Layout, queue: &Mutex<Queue>, is_late: &AtomicBool) {
    loop {
        is_late.store(false, Ordering::Relaxed);
        let (alone, staged) = {
            let mut queue = queue.lock();
            let alone = queue.take_alone();
            let staged = if alone.is_none() { queue.take_staged() } else { Vec::new() };
            if alone.is_none() && staged.is_empty() {
                queue.is_running = false;
                return;
            }
            (alone, staged)
        };
        if !staged.is_empty() {
            batch::write(layout, staged);
        }
        if let Some(work) = alone
            && catch_unwind(AssertUnwindSafe(work)).is_err()
        {
            tracing::error!("a write of the store panicked; what it should have written is not there");
        }
    }
}

impl Queue {
    /// What is next, if that is to be done by itself.
    fn take_alone(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        let (_, Work::Alone(_)) = self.waiting.front()? else { return None };
        match self.waiting.pop_front() {
            Some((_, Work::Alone(work))) => Some(work),
            _ => None,
        }
    }

    /// What is next, as far as it is done together.
    fn take_staged(&mut self) -> Vec<batch::Write> {
        let mut taken = Vec::new();
        while taken.len() < BATCH_MAX
            && let Some((_, Work::Staged(_))) = self.waiting.front()
            && let Some((_, Work::Staged(write))) = self.waiting.pop_front()
        {
            taken.push(write);
        }
        taken
    }
}

#[cfg(test)]
impl WriteBehind {
    /// Takes all places but as many as are taken already; they are free again once the result is dropped.
    pub(in crate::store) fn fill_places(&self) -> Option<OwnedSemaphorePermit> {
        let left = u32::try_from(self.places.available_permits()).ok()?;
        Arc::clone(&self.places).try_acquire_many_owned(left).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_answer_waits_for_a_disk_that_hangs_and_only_the_first_waits_for_one_that_is_slow() {
        let directory = tempfile::tempdir().unwrap();
        let writes = WriteBehind::new(Layout::new(directory.path()));
        let full = writes.fill_places();
        let start = tokio::time::Instant::now();
        assert!(writes.place().await.is_none() && start.elapsed() == PLACE_WAIT);
        for _ in 0..100 {
            assert!(writes.place().await.is_none() && start.elapsed() == PLACE_WAIT);
        }
        drop(full);
        assert!(writes.place().await.is_some());
        writes.flush().await;
        let full = writes.fill_places();
        let waiting = tokio::join!(writes.place(), async { drop(full) });
        assert!(waiting.0.is_some(), "it went on meanwhile");
    }

    #[tokio::test]
    async fn writes_are_done_in_order_also_after_one_that_panicked() {
        let directory = tempfile::tempdir().unwrap();
        let (writes, done) =
            (WriteBehind::new(Layout::new(directory.path())), Arc::new(Mutex::new(Vec::new())));
        for n in 0..2 * WAITING_MAX {
            let done = Arc::clone(&done);
            if n % 3 == 0 {
                writes.later(move || done.lock().push(n)).await;
            } else {
                let end = move |_| done.lock().push(n);
                writes.stage(Box::new(move |_| (Ok(()), Box::new(end)))).await;
            }
            if n == 7 {
                writes.later(|| panic!("on purpose")).await;
                writes.stage(Box::new(|_| panic!("on purpose"))).await;
                writes.stage(Box::new(|_| (Ok(()), Box::new(|_| panic!("on purpose"))))).await;
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
