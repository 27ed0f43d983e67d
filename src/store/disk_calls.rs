//! Calls that write content to the disk, while they are under way: whether the disk hangs.
//!
//! A filesystem that was frozen for a snapshot, or a device or server that does not answer, fails no call: it ends none.
//! Nothing that is written waits for it longer than [`HANGS_AFTER`], and nothing further is tried until the calls that hang
//! have ended. Each of them keeps a thread; there are no more than had begun by then.
//!
//! Not here: calls that make content durable. On a slow disk they take minutes, and no answer waits for them. Nor calls that
//! read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long one call may take before the disk counts as hanging. A write of 256 KiB to a disk that is merely busy takes less;
/// a client gets no bytes meanwhile, and runtimes wait a minute for them.
pub const HANGS_AFTER: Duration = Duration::from_secs(5);

/// The calls of one store. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct DiskCalls {
    under_way: Arc<Mutex<UnderWay>>,
    /// Held by a test whose disk is to hang.
    #[cfg(test)]
    held: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// When each began, the oldest first. Bounded by the threads that may block.
    begun: BTreeMap<u64, Instant>,
    count: u64,
}

/// A call that is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Call<'a> {
    calls: &'a DiskCalls,
    number: u64,
}

impl DiskCalls {
    /// A call begins.
    pub(super) fn begin(&self) -> Call<'_> {
        let number = {
            let mut under_way = self.under_way.lock();
            under_way.count += 1;
            let number = under_way.count;
            under_way.begun.insert(number, Instant::now());
            number
        };
        #[cfg(test)]
        drop(self.held.lock());
        Call { calls: self, number }
    }

    /// Whether a call hangs.
    pub(super) fn is_hanging(&self) -> bool {
        let under_way = self.under_way.lock();
        under_way.begun.first_key_value().is_some_and(|(_, begun)| begun.elapsed() >= HANGS_AFTER)
    }

    /// No call ends before the result is dropped.
    #[cfg(test)]
    pub(super) fn hold(&self) -> std::sync::mpsc::Sender<()> {
        let ((hold, released), (locked, is_locked)) =
            (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let held = Arc::clone(&self.held);
        std::thread::spawn(move || {
            let _locked = held.lock();
            let _ = locked.send(());
            let _ = released.recv();
        });
        is_locked.recv().unwrap();
        hold
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.under_way.lock().begun.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_disk_hangs_as_long_as_its_oldest_call_does() {
        let calls = DiskCalls::default();
        let first = calls.begin();
        tokio::time::advance(HANGS_AFTER / 2).await;
        let second = calls.begin();
        tokio::time::advance(HANGS_AFTER / 2).await;
        assert!(calls.is_hanging());
        drop(first);
        assert!(!calls.is_hanging(), "the other has not taken so long");
        tokio::time::advance(HANGS_AFTER / 2).await;
        assert!(calls.is_hanging());
        drop(second);
        assert!(!calls.is_hanging());
    }
}
