//! The index: size and last access of every blob, derived from the files and never the truth about anything.
//!
//! sled 0.34 can lose data on a power cut and does not notice damage in its log, so it holds nothing that cannot be
//! rebuilt from the files. The rows belong to one thread, which also evicts; this is the handle to it. A pull never
//! waits for that thread unless it needs space, and never fails because of it.

pub(super) mod database;
pub(super) mod rows;
mod scan;
pub(super) mod totals;
pub(super) mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::reference::Digest;
use crate::store::error::Error;
use crate::store::index::totals::{SharedTotals, Totals};
use crate::store::index::worker::{Context, Operation, Worker};
use crate::store::layout::Layout;
use crate::store::metrics::Metrics;
use crate::store::open_blobs::OpenBlobs;
use crate::store::pins::Pins;
use crate::store::reserve::Reservation;
use crate::store::share::OwnerId;
use crate::support::clock::Clock;
use crate::support::sync::Mutex;
use crate::support::sync::atomic::{AtomicBool, Ordering};
use crate::support::sync::mpsc::{SyncSender, sync_channel};
use crate::support::sync::thread::{self, JoinHandle};

/// Operations that may wait for the thread; an access beyond that is dropped, because only its time is lost.
const QUEUE: usize = 16 * 1024;
/// How long a download waits for blobs to be evicted.
const EVICT_WAIT: Duration = Duration::from_secs(20);

/// Handle to the thread of the index. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Index(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    queue: SyncSender<Operation>,
    totals: Arc<SharedTotals>,
    is_counted: Arc<AtomicBool>,
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
        let is_counted = Arc::new(AtomicBool::new(false));
        let (queue, operations) = sync_channel(QUEUE);
        let context = Context { layout, clock, metrics, totals: Arc::clone(&totals), open_blobs, pins };
        let counted = Arc::clone(&is_counted);
        let thread = thread::Builder::new()
            .name("larder-index".to_owned())
            .spawn(move || {
                let worker = Worker::open(context);
                counted.store(true, Ordering::Release);
                worker.run(&operations);
            })
            .map_err(Error::io("start the thread of", &path))?;
        Ok(Self(Arc::new(Handle { queue, totals, is_counted, thread: Mutex::new(Some(thread)) })))
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
        self.0.totals.of(owner)
    }

    /// A blob of `owner` exists; its reservation, if it has one, ends once it is counted. Blocks while the queue is full.
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

    /// Evicts blobs of about `wanted` bytes, of one registry or of all. Blocks until that is done, but no longer than
    /// [`EVICT_WAIT`].
    pub(super) fn evict(&self, wanted: u64, only: Option<OwnerId>) {
        let (done, wait) = sync_channel(1);
        if self.0.queue.send(Operation::Evict { wanted, only, done }).is_ok() {
            let _ = wait.recv_timeout(EVICT_WAIT);
        }
    }

    /// Bytes of the blobs that are neither pinned nor being read, of one registry or of all. Blocks as [`Index::evict`]
    /// does; nothing is known after that time.
    pub(super) fn evictable(&self, only: Option<OwnerId>) -> u64 {
        let (answer, wait) = sync_channel(1);
        if self.0.queue.send(Operation::CountEvictable { only, answer }).is_err() {
            return 0;
        }
        wait.recv_timeout(EVICT_WAIT).unwrap_or(0)
    }

    /// Waits until every operation so far is applied, the count at the start included. Blocks as [`Index::evict`] does.
    pub(super) fn catch_up(&self) {
        self.evict(0, None);
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

    /// Keeps the thread busy until a value is received from the other end, for a test of what happens meanwhile.
    #[cfg(test)]
    pub(super) fn hold_up(&self) -> crate::support::sync::mpsc::Receiver<()> {
        let (done, wait) = sync_channel(0);
        self.0.queue.send(Operation::Evict { wanted: 0, only: None, done }).unwrap();
        wait
    }

    /// The thread, for a test that waits for its end.
    #[cfg(test)]
    pub(super) fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.0.thread.lock().take()
    }
}

#[cfg(test)]
mod policy_tests;
