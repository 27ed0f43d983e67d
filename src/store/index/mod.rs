//! The index: size and last access of every blob, derived from the files and never the truth about anything.
//!
//! sled 0.34 can lose data on a power cut and does not notice damage in its log, so it holds nothing that cannot be
//! rebuilt from the files. The rows belong to one thread, which also evicts; this is the handle to it. A pull never
//! waits for that thread unless it needs space, then for [`ANSWER_WAIT`] at most, and never fails because of it.

mod cursors;
pub(super) mod database;
pub(super) mod evictions;
#[cfg(test)]
mod for_tests;
pub(super) mod last_access;
pub(super) mod rows;
pub(super) mod rows_on_disk;
mod scan;
mod slots;
pub(super) mod totals;
pub(super) mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::reference::Digest;
use crate::store::budget::reserve::Reservation;
use crate::store::budget::share::OwnerId;
use crate::store::error::Error;
pub(super) use crate::store::index::evictions::{Batch, Demand, Evictable, Wanted};
use crate::store::index::totals::{SharedTotals, Totals};
use crate::store::index::worker::{Context, Operation, Worker};
use crate::store::layout::Layout;
use crate::store::metrics::Metrics;
use crate::store::read::open_blobs::OpenBlobs;
use crate::store::records::pins::Pins;
use crate::support::clock::Clock;
use crate::support::sync::Mutex;
use crate::support::sync::atomic::{AtomicBool, Ordering};
use crate::support::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use crate::support::sync::thread::{self, JoinHandle};

/// Operations that may wait for the thread; an access beyond that is dropped, because only its time is lost.
const QUEUE: usize = 16 * 1024;
/// How long a download waits for the thread: then its blob goes past the disk. A client waits meanwhile.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// How long while another has waited in vain and the thread has not gone on since.
const LATE_WAIT: Duration = Duration::from_millis(10);

/// Handle to the thread of the index. Cheap to clone.
#[derive(Clone)]
pub(super) struct Index(Arc<Handle>);

struct Handle {
    queue: SyncSender<Operation>,
    totals: Arc<SharedTotals>,
    is_counted: Arc<AtomicBool>,
    /// Whether a caller has waited in vain since the last step of the thread.
    is_late: Arc<AtomicBool>,
    /// Set by a test whose outcome must not depend on how busy the machine is.
    #[cfg(test)]
    waits_for_every_answer: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Index {
    /// Starts the thread, which counts the blobs first. Blobs that are pinned or in use are not evicted.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        layout: Layout,
        clock: Clock,
        metrics: Arc<Metrics>,
        open_blobs: Arc<OpenBlobs>,
        pins: Pins,
    ) -> Result<Self, Error> {
        let path = layout.index();
        let totals = Arc::new(SharedTotals::new(Arc::clone(&metrics)));
        let (is_counted, is_late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (queue, operations) = sync_channel(QUEUE);
        let (shared, late) = (Arc::clone(&totals), Arc::clone(&is_late));
        let context = Context { layout, clock, metrics, totals: shared, open_blobs, pins, is_late: late };
        let counted = Arc::clone(&is_counted);
        let thread = thread::Builder::new()
            .name("larder-index".to_owned())
            .spawn(move || {
                let worker = Worker::open(context);
                counted.store(true, Ordering::Release);
                worker.run(&operations);
            })
            .map_err(Error::io("start the thread of", &path))?;
        Ok(Self(Arc::new(Handle {
            queue,
            totals,
            is_counted,
            is_late,
            #[cfg(test)]
            waits_for_every_answer: AtomicBool::new(false),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// The blobs that are counted so far.
    pub(super) fn totals(&self) -> Totals {
        self.0.totals.current()
    }

    /// Whether the blobs that were there at the start are counted.
    pub(super) fn is_counted(&self) -> bool {
        self.0.is_counted.load(Ordering::Acquire)
    }

    /// Bytes of the blobs of one registry, as far as they are counted.
    pub(super) fn bytes_of(&self, owner: OwnerId) -> u64 {
        self.0.totals.of(owner).bytes
    }

    /// Bytes of the blobs of all limited registries, of which `owner` is one.
    pub(super) fn limited_bytes(&self, owner: OwnerId) -> u64 {
        self.0.totals.limited_bytes(owner)
    }

    /// The operator named `owner`: it is not limited, or not any more.
    pub(super) fn lift_limit(&self, owner: OwnerId) {
        self.0.totals.lift_limit(owner);
    }

    /// A blob of `owner` exists; its reservation, if it has one, ends once it is counted. Blocks while the queue is
    /// full.
    pub(super) fn add(&self, digest: Digest, size: u64, owner: OwnerId, reserved: Option<Reservation>) {
        let _ = self.0.queue.send(Operation::Add { digest, size, owner, reserved });
    }

    /// A blob was used. Never blocks.
    pub(super) fn record_access(&self, digest: Digest) {
        let _ = self.0.queue.try_send(Operation::Access(digest));
    }

    /// A blob is gone. Blocks while the queue is full.
    pub(super) fn remove(&self, digest: Digest) {
        let _ = self.0.queue.send(Operation::Remove(digest));
    }

    /// A blob was not found; it may have been removed by other means than this process. Never blocks.
    pub(super) fn recheck(&self, digest: Digest) {
        let _ = self.0.queue.try_send(Operation::Recheck(digest));
    }

    /// Evicts what is demanded, in batches. Waits for nothing; a demand that cannot be taken is dropped.
    pub(super) fn evict(&self, demand: impl Demand + 'static) {
        let _ = self.0.queue.try_send(Operation::Evict(Box::new(demand)));
    }

    /// As [`Index::evict`], while there is nothing else to do, and one demand at a time.
    pub(super) fn evict_ahead(&self, demand: impl Demand + 'static) {
        let _ = self.0.queue.try_send(Operation::EvictAhead(Box::new(demand)));
    }

    /// Looks at what could be evicted, after every operation so far, the count at the start included. Waits for
    /// nothing.
    pub(super) fn look(&self, look: impl FnOnce(Evictable<'_>) + Send + 'static) {
        let _ = self.0.queue.try_send(Operation::Look(Box::new(look)));
    }

    /// Waits for an answer of the thread, [`ANSWER_WAIT`] at most. `None` after that, and if there will be none. While
    /// the thread hangs, as on a disk that does, only the first wait so long.
    pub(super) fn wait<T>(&self, answer: &Receiver<T>) -> Option<T> {
        #[cfg(test)]
        if self.0.waits_for_every_answer.load(Ordering::Acquire) {
            return answer.recv().ok();
        }
        let wait = if self.0.is_late.load(Ordering::Acquire) { LATE_WAIT } else { ANSWER_WAIT };
        match answer.recv_timeout(wait) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.0.is_late.store(true, Ordering::Release);
                None
            }
        }
    }

    /// Writes everything to disk, marks the stop as clean and joins the thread. Blocks.
    pub(super) fn close(&self) {
        let thread = self.0.thread.lock().take();
        if let Some(thread) = thread {
            let _ = self.0.queue.send(Operation::Close);
            if thread.join().is_err() {
                tracing::error!("the thread of the index panicked; the next start rebuilds the index");
            }
        }
    }
}

#[cfg(test)]
mod policy_tests;
