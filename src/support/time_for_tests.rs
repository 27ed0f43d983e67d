//! Virtual time for unit tests of what waits for threads that block.
//!
//! The clock of a test that has paused it does not move by itself while such a thread has work. Moved by the test at a
//! pace of its own, it runs ahead of threads that a busy machine gives no processor, and these count as hanging. So it
//! moves only while no thread of the process runs, or waits for one of the machine's disks: what a thread was given is
//! done then, or a test holds the thread up.

use std::fs;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, advance};

/// How far the clock moves at once: far less than what counts as hanging.
const STEP: Duration = Duration::from_millis(50);

/// How much real time passes beside each step, for a thread that something else has stopped (`make stall`): that one
/// counts as one that rests.
const BESIDE: Duration = Duration::from_millis(5);

/// How much time passes at most for a test's work.
const LONGEST: Duration = Duration::from_secs(120);

/// The threads that let time pass, of tests in the same process: no other waits for them.
static PASSING: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What comes of `work` while time passes beside threads that block.
pub(crate) async fn as_time_passes<T>(work: impl Future<Output = T>) -> T {
    as_time_passes_by(STEP, LONGEST, work).await
}

/// As [`as_time_passes`], in steps of `step`.
pub(crate) async fn as_time_passes_by<T>(
    step: Duration,
    longest: Duration,
    work: impl Future<Output = T>,
) -> T {
    let (mut work, start) = (std::pin::pin!(work), Instant::now());
    loop {
        assert!(start.elapsed() < longest, "it hangs");
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = threads_rest() => {
                advance(step).await;
                std::thread::sleep(BESIDE);
            }
        }
    }
}

/// Waits until no thread has anything to do, without moving the clock: what was begun has ended, or is held up.
pub(crate) async fn threads_rest() {
    let _passing = Passing::begin();
    loop {
        // The tasks that threads have woken, and those that they wake.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        if !others_run() {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

struct Passing(String);

impl Passing {
    fn begin() -> Self {
        let thread = fs::read_link("/proc/thread-self").unwrap();
        let id = thread.file_name().unwrap().to_string_lossy().into_owned();
        PASSING.lock().push(id.clone());
        Self(id)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let mut passing = PASSING.lock();
        let at = passing.iter().position(|id| *id == self.0).unwrap();
        passing.swap_remove(at);
    }
}

/// Whether a thread of this process, other than those that let time pass, has something to do.
fn others_run() -> bool {
    let passing = PASSING.lock().clone();
    fs::read_dir("/proc/self/task").unwrap().any(|thread| {
        let thread = thread.unwrap();
        if passing.iter().any(|id| thread.file_name().to_string_lossy() == *id) {
            return false;
        }
        // A thread that has ended meanwhile has none. The name before its state may have any byte.
        let stat = fs::read(thread.path().join("stat")).unwrap_or_default();
        let name_end = stat.iter().rposition(|byte| *byte == b')');
        name_end.and_then(|at| stat.get(at + 2)).is_some_and(|state| matches!(state, b'R' | b'D'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_time_passes_while_a_thread_works_and_it_does_while_one_is_held_up() {
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let start = Instant::now();
        let work = tokio::task::spawn_blocking(|| {
            // So much that it takes many times longer than the clock needs to move by an hour.
            (0..20_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n))
        });
        as_time_passes(work).await.unwrap();
        assert!(start.elapsed() <= STEP, "{:?}", start.elapsed());
        let held_up = tokio::task::spawn_blocking(move || held.recv());
        as_time_passes(tokio::time::sleep(Duration::from_secs(30))).await;
        drop(go_on);
        as_time_passes(held_up).await.unwrap().unwrap_err();
    }
}
