//! Sizes and last use of every blob, in sled: derived from the files, never the truth about anything.
//!
//! sled 0.34 can lose data on a power cut and does not notice damage in its log, so nothing is kept here that cannot
//! be rebuilt. A marker written at a clean stop decides whether the database is opened at all; without it, it is set
//! aside and made anew from the file names while the daemon serves. Every call is fenced: an error, a panic or a
//! value that fails its checksum means set aside and rebuild; after [`REBUILDS_MAX`] of them the index lives in
//! memory until the next start. A pull never waits for this thread and never fails because of it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::error::Error;
use super::evict::{self, Candidate};
use super::last_access;
use super::layout::Layout;
use super::metrics::Metrics;
use super::reserve::{Reservation, Space};
use super::table::{Failure, Row, Table};
use crate::reference::Digest;
use crate::support::clock::{Clock, Timestamp};

/// Written by a clean stop, removed by the next start; the version is that of the rows.
const CLEAN: &[u8] = b"larder index 1\n";
/// Failures of the database in one process before memory takes over.
const REBUILDS_MAX: u32 = 3;
/// Operations that may wait for the thread; a touch beyond that is dropped, it is only a last use.
const QUEUE: usize = 16 * 1024;
/// How long somebody who wants to store waits for room.
const EVICT_WAIT: Duration = Duration::from_secs(20);

/// Handle to the index thread.
#[derive(Debug)]
pub(super) struct Index {
    queue: SyncSender<Op>,
    counted: Arc<AtomicBool>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

enum Op {
    Put(
        Digest,
        u64,
        #[allow(dead_code, reason = "held, not read: it is given back when the blob is counted")] Reservation,
    ),
    Touch(Digest),
    Remove(Digest),
    Missing(Digest),
    Evict(u64, SyncSender<()>),
    Close,
}

impl Index {
    /// Starts the thread; it rebuilds first where it must.
    pub(super) fn start(
        layout: Layout,
        clock: Clock,
        metrics: Arc<Metrics>,
        space: Space,
    ) -> Result<Self, Error> {
        let (queue, operations) = sync_channel(QUEUE);
        let (path, counted) = (layout.index(), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&counted);
        let thread = std::thread::Builder::new()
            .name("larder-index".to_owned())
            .spawn(move || {
                let keeper = Keeper::open(layout, clock, metrics, space);
                done.store(true, Ordering::Release);
                keeper.run(&operations);
            })
            .map_err(Error::io("start the thread of", &path))?;
        Ok(Self { queue, counted, thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// A blob exists; from when it is counted, `reserved` is not needed any more. Blocks while the queue is full.
    pub(super) fn put(&self, digest: Digest, size: u64, reserved: Reservation) {
        let _ = self.queue.send(Op::Put(digest, size, reserved));
    }

    /// Whether what was there at the start has been counted.
    pub(super) fn is_counted(&self) -> bool {
        self.counted.load(Ordering::Acquire)
    }

    /// Waits until everything is counted that it was told of, and what was there at the start. Blocks.
    pub(super) fn catch_up(&self) {
        self.evict(0);
    }

    /// A blob was used. Never blocks.
    pub(super) fn touch(&self, digest: Digest) {
        let _ = self.queue.try_send(Op::Touch(digest));
    }

    /// A blob is gone. Blocks while the queue is full.
    pub(super) fn remove(&self, digest: Digest) {
        let _ = self.queue.send(Op::Remove(digest));
    }

    /// A blob was not there. Never blocks.
    pub(super) fn forget(&self, digest: Digest) {
        let _ = self.queue.try_send(Op::Missing(digest));
    }

    /// Removes blobs that nobody uses until about `wanted` bytes are freed. Blocks until it is done.
    pub(super) fn evict(&self, wanted: u64) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Op::Evict(wanted, done)).is_ok() {
            let _ = wait.recv_timeout(EVICT_WAIT);
        }
    }

    /// Keeps the thread busy until the other end of this is read, for a test of what happens meanwhile.
    #[cfg(test)]
    pub(super) fn hold_up(&self) -> Receiver<()> {
        let (done, wait) = sync_channel(0);
        self.queue.send(Op::Evict(0, done)).unwrap();
        wait
    }

    /// The thread, for a test that wants to see it end.
    #[cfg(test)]
    pub(super) fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Writes everything down and leaves the marker. Blocks.
    pub(super) fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = self.queue.send(Op::Close);
            let _ = thread.join();
        }
    }
}

/// The thread's own state.
struct Keeper {
    layout: Layout,
    clock: Clock,
    metrics: Arc<Metrics>,
    space: Space,
    table: Table,
    failures: u32,
}

impl Keeper {
    fn open(layout: Layout, clock: Clock, metrics: Arc<Metrics>, space: Space) -> Self {
        let memory = Table::Memory(HashMap::new());
        // Before anything can be evicted.
        space.pins().load(&layout);
        let mut keeper = Self { layout, clock, metrics, space, table: memory, failures: 0 };
        let marker = keeper.marker();
        let clean = fs::read(&marker).is_ok_and(|content| content == CLEAN);
        if fs::remove_file(&marker).is_err() && clean {
            // A marker that cannot be removed would vouch for whatever comes after.
            keeper.rebuild("the clean-stop marker cannot be removed");
        } else if !clean {
            keeper.rebuild("no clean stop");
        } else if let Err(Failure(why)) = keeper.adopt() {
            keeper.rebuild(&why);
        }
        keeper
    }

    fn run(mut self, operations: &Receiver<Op>) {
        while let Ok(operation) = operations.recv() {
            let close = matches!(operation, Op::Close);
            if let Err(Failure(why)) = self.apply(&operation) {
                self.rebuild(&why);
            }
            // Only now are its bytes counted in any case, and what was promised for them not needed any more.
            drop(operation);
            if close {
                return;
            }
        }
    }

    fn apply(&mut self, operation: &Op) -> Result<(), Failure> {
        let now = self.clock.now();
        match *operation {
            Op::Put(digest, size, _) => {
                let before = self.table.put(digest, Row { size, used_at: now })?;
                self.metrics.replaced(before.map(|row| row.size), Some(size));
            }
            Op::Touch(digest) => {
                if let Some(row) = self.table.row(digest)?
                    && now.0 >= row.used_at.0.saturating_add(last_access::SECONDS)
                {
                    self.table.put(digest, Row { used_at: now, ..row })?;
                }
            }
            Op::Remove(digest) => {
                let before = self.table.remove(digest)?;
                self.metrics.replaced(before.map(|row| row.size), None);
            }
            Op::Missing(digest) => {
                // It may have come back since.
                if self.table.row(digest)?.is_some() && !self.layout.blob(&digest).exists() {
                    let before = self.table.remove(digest)?;
                    self.metrics.replaced(before.map(|row| row.size), None);
                }
            }
            Op::Evict(wanted, ref done) => {
                self.evict(wanted, now)?;
                let _ = done.send(());
            }
            Op::Close => self.close()?,
        }
        Ok(())
    }

    /// Removes the most dispensable blobs: the row first, so that no row speaks of a blob that is gone.
    fn evict(&mut self, wanted: u64, now: Timestamp) -> Result<(), Failure> {
        if wanted == 0 {
            return Ok(());
        }
        let rows = self.table.rows()?.into_iter();
        let pinned = self.space.pins().digests();
        let unused = rows.filter(|(digest, _)| !pinned.contains(digest) && !self.space.is_used(digest));
        let candidates =
            unused.map(|(digest, row)| Candidate { digest, size: row.size, used_at: row.used_at }).collect();
        for Candidate { digest, size, .. } in evict::choose(candidates, now, wanted) {
            self.table.remove(digest)?;
            self.metrics.replaced(Some(size), None);
            match fs::remove_file(self.layout.blob(&digest)) {
                Ok(()) => {
                    self.metrics.evicted.inc();
                    self.metrics.evicted_bytes.inc_by(size);
                    tracing::debug!(%digest, size, "evicted");
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%digest, %error, "a blob cannot be evicted"),
            }
            let _ = fs::remove_file(self.layout.checks_of(&digest));
        }
        Ok(())
    }

    /// Opens the database of a clean stop and checks every row.
    fn adopt(&mut self) -> Result<(), Failure> {
        let table = Table::open(&self.database())?;
        let rows = table.rows()?;
        self.metrics.reset(rows.len(), rows.iter().map(|(_, row)| row.size).sum());
        self.table = table;
        Ok(())
    }

    /// Sets the database aside and makes a new one from the files.
    fn rebuild(&mut self, why: &str) {
        // Drop the handle before the directory is moved away from under it.
        self.table = Table::Memory(HashMap::new());
        let had_one = self.database().exists();
        if had_one {
            self.failures += 1;
            self.metrics.index_rebuilds.inc();
            tracing::info!(why, "the index is rebuilt from the files");
        }
        let aside = self.layout.index().join("set-aside");
        let _ = fs::remove_dir_all(&aside);
        let moved = !had_one || super::layout::publish(&self.database(), &aside).is_ok();
        let rows = scan(&self.layout.blobs(), self.clock.now());
        self.metrics.reset(rows.len(), rows.iter().map(|(_, row)| row.size).sum());
        if self.failures <= REBUILDS_MAX && moved {
            match Table::open(&self.database()).and_then(|t| t.fill(&rows).map(|()| t)) {
                Ok(table) => return self.table = table,
                Err(Failure(why)) => tracing::warn!(why, "the index stays in memory until the next start"),
            }
        }
        self.table = Table::Memory(rows.into_iter().collect());
    }

    fn close(&mut self) -> Result<(), Failure> {
        if !self.table.flush()? {
            return Ok(());
        }
        // Ends sled's own threads before the marker vouches for what they wrote.
        self.table = Table::Memory(HashMap::new());
        self.layout.write_small(&self.marker(), CLEAN).map_err(|e| Failure(e.to_string()))
    }

    fn marker(&self) -> PathBuf {
        self.layout.index().join("clean")
    }

    fn database(&self) -> PathBuf {
        self.layout.index().join("sled")
    }
}

/// Every blob by its file name; what has no digest for a name is not ours.
fn scan(blobs: &Path, now: Timestamp) -> Vec<(Digest, Row)> {
    let Ok(entries) = fs::read_dir(blobs) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let digest = Digest::from_hex(entry.file_name().to_str()?).ok()?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            // What the filesystem remembers of the last use is better than nothing.
            let used = metadata.atime().max(metadata.mtime());
            let used_at = Timestamp(u64::try_from(used).unwrap_or(0).min(now.0));
            Some((digest, Row { size: metadata.len(), used_at }))
        })
        .collect()
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
