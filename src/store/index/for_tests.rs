//! What tests do with the thread of an index: wait for it, hold it up.

use super::{Batch, Demand, Evictable, Index, Wanted};
use crate::support::sync::atomic::Ordering;
use crate::support::sync::mpsc::{Receiver, SyncSender, sync_channel};
use crate::support::sync::thread::JoinHandle;

impl Index {
    /// From now on waits for an answer as long as it takes.
    pub(in crate::store) fn wait_for_every_answer(&self) {
        self.0.waits_for_every_answer.store(true, Ordering::Release);
    }

    /// Waits until every operation so far is applied, the count at the start included.
    pub(in crate::store) fn catch_up(&self) {
        let (done, wait) = sync_channel(1);
        self.look(move |_| {
            let _ = done.send(());
        });
        let _ = wait.recv();
    }

    /// As [`Index::catch_up`], and until no eviction is under way either.
    pub(in crate::store) fn settle(&self) {
        struct Last(SyncSender<()>);
        impl Demand for Last {
            fn next(&mut self, _: Evictable<'_>) -> Option<Wanted> {
                let _ = self.0.send(());
                None
            }
            fn evicted(&mut self, _: &Batch) {}
        }
        let mut is_settled = false;
        while !is_settled && self.0.thread.lock().is_some() {
            let (done, wait) = sync_channel(1);
            self.evict_ahead(Last(done));
            // Dropped while another eviction ahead of need is under way.
            is_settled = wait.recv().is_ok();
        }
    }

    /// Keeps the thread busy until a value is received from the other end, to see what happens meanwhile.
    pub(in crate::store) fn hold_up(&self) -> Receiver<()> {
        let (done, wait) = sync_channel(0);
        self.look(move |_| {
            let _ = done.send(());
        });
        wait
    }

    /// The thread, for a test that waits for its end.
    pub(in crate::store) fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.0.thread.lock().take()
    }
}
