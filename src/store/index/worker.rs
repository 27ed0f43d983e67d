//! The thread of the index: owns the rows, applies operations one after the other, and evicts.
//!
//! The rows are in memory and the database follows them. Evictions are done in batches of a few files, and a new
//! database is filled a few rows at a time, so that no operation waits for the whole of either.

use std::fs;
use std::sync::Arc;

use super::cursors::Sought;
use super::evictions::{Batch, Demand, Evictable, Eviction, Evictions, Need, Stuck, Wanted};
use super::rows::{Row, Rows, Search};
use super::rows_on_disk::{FILL_ROWS, RowsOnDisk};
use super::totals::{SharedTotals, Totals};
use crate::reference::Digest;
use crate::store::budget::evict::Order;
use crate::store::budget::reserve::Reservation;
use crate::store::budget::share::OwnerId;
use crate::store::index::last_access;
use crate::store::layout::Layout;
use crate::store::metrics::Metrics;
use crate::store::read::open_blobs::OpenBlobs;
use crate::store::records::pins::Pins;
use crate::support::clock::{Clock, Timestamp};
use crate::support::sync::atomic::{AtomicBool, Ordering};
use crate::support::sync::mpsc::{Receiver, TryRecvError};

/// Files that are removed in one batch: a few milliseconds.
pub(crate) const BATCH_FILES: usize = 64;
/// Bytes that are removed in one batch, besides its last file: the time to remove a file grows with its size.
const BATCH_BYTES: u64 = 256 * 1024 * 1024;
/// Operations between two batches at most: what is waited for goes on however busy the thread is.
const OPERATIONS_BETWEEN: usize = 64;
/// Files that cannot be removed before an eviction ends: then it is the disk, not the file.
const UNLINK_FAILURES_MAX: usize = 16;

/// What the thread is asked to do.
pub(crate) enum Operation {
    /// A blob exists. Its reservation, which an empty one has none of, ends in the moment in which the blob is counted.
    Add { digest: Digest, size: u64, owner: OwnerId, reserved: Option<Reservation> },
    /// A blob was used.
    Access(Digest),
    /// A blob is gone.
    Remove(Digest),
    /// A blob was not found: its row goes if its file is gone.
    Recheck(Digest),
    /// Evict, in batches.
    Evict(Box<dyn Demand>),
    /// Evict while there is nothing else to do.
    EvictAhead(Box<dyn Demand>),
    /// Look at what could be evicted. Must not wait.
    Look(Box<dyn FnOnce(Evictable<'_>) + Send>),
    /// Write everything down and stop.
    Close,
}

/// What the thread works on.
pub(crate) struct Context {
    pub(crate) layout: Layout,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) totals: Arc<SharedTotals>,
    /// Blobs that are not evicted because they are read, and others that are open, to be closed when they are.
    pub(crate) open_blobs: Arc<OpenBlobs>,
    /// Blobs that are not evicted because they are pinned.
    pub(crate) pins: Pins,
    /// Set by one who waited in vain, and ended by every step of the thread.
    pub(crate) is_late: Arc<AtomicBool>,
}

pub(crate) struct Worker {
    context: Context,
    rows: Rows,
    on_disk: RowsOnDisk,
    evictions: Evictions,
    stuck: Stuck,
}

impl Worker {
    /// Counts the blobs. Blocks.
    pub(crate) fn open(context: Context) -> Self {
        let Context { layout, metrics, clock, totals, .. } = &context;
        let (on_disk, rows) = RowsOnDisk::open(layout.clone(), Arc::clone(metrics), clock);
        for (_, row) in rows.iter() {
            totals.add(row.owner, row.size);
        }
        totals.set(rows.totals());
        Self { context, rows, on_disk, evictions: Evictions::default(), stuck: Stuck::default() }
    }

    /// Applies operations until one of them is [`Operation::Close`] or every sender is gone. Evictions under way end
    /// with that.
    pub(crate) fn run(mut self, operations: &Receiver<Operation>) {
        let mut applied = 0;
        loop {
            let is_idle = self.evictions.is_empty() && self.on_disk.is_filled();
            let next = if is_idle {
                operations.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                operations.try_recv()
            };
            match next {
                Ok(operation) => {
                    let close = matches!(operation, Operation::Close);
                    self.apply(operation);
                    if close {
                        return;
                    }
                    applied += 1;
                    if applied % OPERATIONS_BETWEEN == 0 && self.evictions.is_waited_for() {
                        self.evict_batch();
                    }
                }
                Err(TryRecvError::Empty) => {
                    if !self.evict_batch() {
                        self.on_disk.fill(FILL_ROWS, &self.rows);
                    }
                }
                Err(TryRecvError::Disconnected) => return,
            }
            self.context.is_late.store(false, Ordering::Release);
        }
    }

    pub(crate) fn apply(&mut self, operation: Operation) {
        let now = self.context.clock.now();
        match operation {
            // The count at the start finds a blob that is just being committed, and another download may have evicted
            // it since.
            Operation::Add { digest, .. } if !self.context.layout.blob(&digest).exists() => {
                self.remove(&digest)
            }
            Operation::Add { digest, size, owner, reserved } => {
                // A registry that delivers what another one delivered before does not become its owner.
                let known = self.rows.row(&digest).map(|row| row.owner).filter(|id| *id != OwnerId::UNKNOWN);
                let row = Row { size, used_at: now, owner: known.unwrap_or(owner), reused: false };
                match reserved {
                    Some(reserved) => reserved.end_as_counted(|| self.count_row(digest, row)),
                    None => self.count_row(digest, row),
                }
                self.on_disk.put(&digest, row, &self.rows);
            }
            Operation::Access(digest) => {
                if let Some(row) = self.rows.row(&digest)
                    && now.0 >= row.used_at.0.saturating_add(last_access::INTERVAL_SECONDS)
                {
                    let row = Row { used_at: now, reused: true, ..row };
                    self.count_row(digest, row);
                    self.on_disk.put(&digest, row, &self.rows);
                }
            }
            Operation::Remove(digest) | Operation::Recheck(digest) => self.follow_file(digest, now),
            Operation::Evict(demand) => self.evictions.add(demand),
            Operation::EvictAhead(demand) => self.evictions.set_ahead(demand),
            Operation::Look(look) => look(&|only| self.evictable(only)),
            Operation::Close => self.on_disk.close(&self.rows),
        }
    }

    /// Makes the row of a blob agree with its file: it may have been fetched again since it was removed, and a sound
    /// blob is given its name back by quarantine.
    fn follow_file(&mut self, digest: Digest, now: Timestamp) {
        let found =
            fs::symlink_metadata(self.context.layout.blob(&digest)).ok().filter(fs::Metadata::is_file);
        match (self.rows.row(&digest), found) {
            (Some(_), None) => {
                self.context.open_blobs.removals().add(digest);
                self.remove(&digest);
            }
            (None, Some(file)) => {
                let row = Row { size: file.len(), used_at: now, owner: OwnerId::UNKNOWN, reused: false };
                self.count_row(digest, row);
                self.on_disk.put(&digest, row, &self.rows);
            }
            _ => {}
        }
    }

    fn count_row(&mut self, digest: Digest, row: Row) {
        if let Some(before) = self.rows.row(&digest) {
            self.context.totals.subtract(before.owner, before.size);
        }
        self.context.totals.add(row.owner, row.size);
        self.rows.put(digest, row);
        self.context.totals.set(self.rows.totals());
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some(row) = self.rows.remove(digest) {
            self.context.totals.subtract(row.owner, row.size);
            self.context.totals.set(self.rows.totals());
            self.on_disk.remove(digest, &self.rows);
        }
    }

    /// What is neither pinned nor being read, and can be removed as far as is known. Only the rows of the others are
    /// looked up, which are few.
    fn evictable(&self, only: Option<OwnerId>) -> Totals {
        let Context { totals, pins, open_blobs, clock, .. } = &self.context;
        let mut kept = pins.digests();
        kept.extend(open_blobs.in_use());
        kept.extend(self.stuck.digests(clock.now()));
        let kept_rows = kept.iter().filter_map(|digest| self.rows.row(digest));
        let is_meant = |row: &Row| only.is_none_or(|owner| row.owner == owner);
        let mut left = only.map_or_else(|| totals.current(), |owner| totals.of(owner));
        for row in kept_rows.filter(is_meant) {
            left.bytes = left.bytes.saturating_sub(row.size);
            left.blobs = left.blobs.saturating_sub(1);
        }
        left
    }

    /// Does the next batch of the eviction whose turn it is; `false` if none is under way.
    pub(crate) fn evict_batch(&mut self) -> bool {
        let Some(mut eviction) = self.evictions.take() else { return false };
        if let Some(wanted) = eviction.demand.next(&|only| self.evictable(only)) {
            let batch = self.evict(wanted, &mut eviction);
            eviction.demand.evicted(&batch);
            self.evictions.put_back(eviction);
        }
        true
    }

    /// Evicts a batch of blobs: each file first. A blob whose file cannot be removed stays counted and is tried again
    /// after a minute; others go instead. What is protected goes after all others, and stays where nothing is needed
    /// yet.
    fn evict(&mut self, wanted: Wanted, eviction: &mut Eviction) -> Batch {
        let Wanted { bytes, blobs, .. } = wanted;
        let now = self.context.clock.now();
        let (mut search, mut is_resumed) = self.search(wanted, true, now);
        let mut protected = self.context.pins.protected();
        let mut gone = Batch::default();
        for _ in 0..BATCH_FILES {
            if gone.bytes >= bytes.min(BATCH_BYTES) && gone.blobs >= blobs {
                break;
            }
            let Context { open_blobs, pins, .. } = &self.context;
            let may_go = |digest: &Digest, _: &Row| {
                !open_blobs.is_in_use(digest)
                    && !pins.contains(digest)
                    && !self.stuck.contains(digest, now)
                    && !protected.contains(digest)
            };
            let Some((digest, Row { size, .. })) = self.rows.next_victim(&mut search, now, may_go) else {
                if std::mem::take(&mut is_resumed) {
                    // What was passed may go by now.
                    search = self.rows.begin_anew(&search, now);
                    continue;
                }
                if eviction.need == Need::Ahead || protected.is_empty() {
                    return Batch { is_last: true, ..gone };
                }
                protected = Arc::default();
                (search, is_resumed) = self.search(wanted, false, now);
                continue;
            };
            match self.context.layout.remove(&self.context.layout.blob(&digest)) {
                Ok(existed) => {
                    self.context.open_blobs.forget(&digest);
                    self.context.open_blobs.removals().add(digest);
                    let _ = self.context.layout.remove(&self.context.layout.checks_of(&digest));
                    self.remove(&digest);
                    gone.bytes += size;
                    gone.blobs += 1;
                    if existed {
                        self.context.metrics.evicted.inc();
                        self.context.metrics.evicted_bytes.inc_by(size);
                        tracing::debug!(%digest, size, "evicted");
                    }
                }
                Err(error) => {
                    self.context.metrics.eviction_failures.inc();
                    if eviction.failures == 0 {
                        tracing::warn!(%digest, %error, cause = error.cause(), "a blob cannot be evicted; its bytes stay counted");
                    }
                    self.stuck.insert(digest, now);
                    eviction.failures += 1;
                    if eviction.failures >= UNLINK_FAILURES_MAX {
                        return Batch { is_last: true, ..gone };
                    }
                }
            }
        }
        self.rows.keep(search);
        gone
    }

    /// A search for what is wanted, and whether it goes on with an earlier one.
    fn search(&self, wanted: Wanted, spares_protected: bool, now: Timestamp) -> (Search, bool) {
        let order = if wanted.bytes > 0 { Order::BySize } else { Order::ByCount };
        let sought = wanted.only.map(|owner| Sought { owner, spares_protected });
        match self.rows.resume(order, sought, now) {
            Some(resumed) => (resumed, true),
            None => (self.rows.search(order, sought, now), false),
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
