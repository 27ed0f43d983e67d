//! The thread of the index: owns the rows, applies operations one after the other, and evicts.
//!
//! The rows are in memory and the database follows them. A marker written at a clean stop decides whether the database is
//! read at a start; without it, it is set aside and the rows are made from the files. A new database is filled between
//! operations, a few rows at a time, so that no operation waits for it. After [`FAILURES_MAX`] failures of the database
//! in one process the rows stay in memory until the next start.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::database::{Database, Failure};
use super::rows::{Row, Rows};
use super::scan;
use super::totals::SharedTotals;
use crate::reference::Digest;
use crate::store::last_access;
use crate::store::layout::{self, Layout};
use crate::store::metrics::Metrics;
use crate::store::open_blobs::OpenBlobs;
use crate::store::pins::Pins;
use crate::store::reserve::Reservation;
use crate::store::share::OwnerId;
use crate::support::clock::{Clock, Timestamp};
use crate::support::sync::mpsc::{Receiver, SyncSender, TryRecvError};

/// Written by a clean stop, removed by the next start; the version is that of the rows.
const CLEAN: &[u8] = b"larder index 2\n";
/// Failures of the database in one process before its rows stay in memory.
const FAILURES_MAX: u32 = 3;
/// Files that cannot be removed before an eviction ends: then it is the disk, not the file.
const UNLINK_FAILURES_MAX: u32 = 16;
/// Rows that are written to a new database between two operations: less than a millisecond of work.
const FILL_ROWS: usize = 64;
/// How long a stop fills a new database that is not complete yet; without the rest the next start reads the files.
const FILL_AT_STOP: Duration = Duration::from_secs(3);

/// What the thread is asked to do.
#[derive(Debug)]
pub(crate) enum Operation {
    /// A blob exists. Its reservation, which an empty one has none of, ends in the moment in which the blob is counted.
    Add { digest: Digest, size: u64, owner: OwnerId, reserved: Option<Reservation> },
    /// A blob was used.
    Access(Digest),
    /// A blob is gone.
    Remove(Digest),
    /// A blob was not found: its row goes if its file is gone.
    Recheck(Digest),
    /// Evict blobs of about `wanted` bytes, of one registry or of all, then answer.
    Evict { wanted: u64, only: Option<OwnerId>, done: SyncSender<()> },
    /// Answer how many bytes could be evicted, of one registry or of all.
    CountEvictable { only: Option<OwnerId>, answer: SyncSender<u64> },
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
}

pub(crate) struct Worker {
    context: Context,
    rows: Rows,
    /// `None` once it has failed too often.
    database: Option<Database>,
    /// Blobs whose rows a new database does not have yet, in the order in which they are written, from the end.
    unwritten: Vec<Digest>,
    failures: u32,
}

impl Worker {
    /// Counts the blobs: from the database of a clean stop and the names of the files, else from the files alone.
    pub(crate) fn open(context: Context) -> Self {
        let mut worker =
            Self { context, rows: Rows::new(), database: None, unwritten: Vec::new(), failures: 0 };
        let marker = worker.marker();
        let clean = fs::read(&marker).is_ok_and(|content| content == CLEAN);
        // A marker that stays, or that a power cut brings back, would vouch for the rows of this process.
        let vouched_for = match worker.context.layout.remove_durably(&marker) {
            Ok(existed) => existed && clean,
            Err(error) => {
                tracing::warn!(%error, cause = error.cause(), "the clean-stop marker cannot be removed; the index stays in memory until the next start");
                worker.failures = FAILURES_MAX + 1;
                false
            }
        };
        let adopted = if vouched_for {
            worker.adopt().map_err(|failure| failure.to_string())
        } else {
            Err("no clean stop".to_owned())
        };
        if let Err(why) = adopted {
            worker.rows = scan::files(&worker.context.layout.blobs(), worker.context.clock.now());
            scan::find_owners(&mut worker.rows, &worker.context.layout);
            worker.renew_database(&why);
        }
        for (_, row) in worker.rows.iter() {
            worker.context.totals.add(row.owner, row.size);
        }
        worker.context.totals.set(worker.rows.totals());
        worker
    }

    /// Applies operations until one of them is [`Operation::Close`] or every sender is gone.
    pub(crate) fn run(mut self, operations: &Receiver<Operation>) {
        loop {
            let next = if self.unwritten.is_empty() {
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
                }
                Err(TryRecvError::Empty) => self.fill(FILL_ROWS),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    pub(crate) fn apply(&mut self, operation: Operation) {
        let now = self.context.clock.now();
        match operation {
            // The count at the start finds a blob that is just being committed, and another download may have evicted it
            // since.
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
                self.write(|database| database.put(&digest, row));
            }
            Operation::Access(digest) => {
                if let Some(row) = self.rows.row(&digest)
                    && now.0 >= row.used_at.0.saturating_add(last_access::INTERVAL_SECONDS)
                {
                    self.put(digest, Row { used_at: now, reused: true, ..row });
                }
            }
            Operation::Remove(digest) | Operation::Recheck(digest) => self.follow_file(digest, now),
            Operation::Evict { wanted, only, done } => {
                self.evict(wanted, only, now);
                let _ = done.send(());
            }
            Operation::CountEvictable { only, answer } => {
                let _ = answer.send(self.evictable(only));
            }
            Operation::Close => self.close(),
        }
    }

    /// Makes the row of a blob agree with its file: it may have been fetched again since it was removed, and a sound blob
    /// is given its name back by quarantine.
    fn follow_file(&mut self, digest: Digest, now: Timestamp) {
        let found =
            fs::symlink_metadata(self.context.layout.blob(&digest)).ok().filter(fs::Metadata::is_file);
        match (self.rows.row(&digest), found) {
            (Some(_), None) => self.remove(&digest),
            (None, Some(file)) => {
                let row = Row { size: file.len(), used_at: now, owner: OwnerId::UNKNOWN, reused: false };
                self.put(digest, row);
            }
            _ => {}
        }
    }

    fn put(&mut self, digest: Digest, row: Row) {
        self.count_row(digest, row);
        self.write(|database| database.put(&digest, row));
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
            self.write(|database| database.remove(digest));
        }
    }

    /// Bytes that are neither pinned nor being read. Only the rows of those that are get looked up, which are few.
    fn evictable(&self, only: Option<OwnerId>) -> u64 {
        let Context { totals, pins, open_blobs, .. } = &self.context;
        let mut kept = pins.digests();
        kept.extend(open_blobs.in_use());
        let kept_rows = kept.iter().filter_map(|digest| self.rows.row(digest));
        let is_meant = |row: &Row| only.is_none_or(|owner| row.owner == owner);
        let kept_bytes = kept_rows.filter(is_meant).map(|row| row.size).fold(0, u64::saturating_add);
        let bytes = only.map_or_else(|| totals.current().bytes, |owner| totals.of(owner));
        bytes.saturating_sub(kept_bytes)
    }

    /// Evicts blobs: each file first. A blob whose file cannot be removed stays counted and is tried again by the next
    /// eviction; others go instead.
    fn evict(&mut self, wanted: u64, only: Option<OwnerId>, now: Timestamp) {
        let mut search = self.rows.search();
        let (mut freed, mut failures) = (0_u64, 0);
        while freed < wanted {
            let Context { open_blobs, pins, .. } = &self.context;
            let may_go = |digest: &Digest, row: &Row| {
                only.is_none_or(|owner| row.owner == owner)
                    && !open_blobs.is_in_use(digest)
                    && !pins.contains(digest)
            };
            let Some((digest, Row { size, .. })) = self.rows.next_victim(&mut search, now, may_go) else {
                return;
            };
            match self.context.layout.remove(&self.context.layout.blob(&digest)) {
                Ok(existed) => {
                    self.context.open_blobs.forget(&digest);
                    let _ = self.context.layout.remove(&self.context.layout.checks_of(&digest));
                    self.remove(&digest);
                    freed += size;
                    if existed {
                        self.context.metrics.evicted.inc();
                        self.context.metrics.evicted_bytes.inc_by(size);
                        tracing::debug!(%digest, size, "evicted");
                    }
                }
                Err(error) => {
                    self.context.metrics.eviction_failures.inc();
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%digest, %error, cause = error.cause(), "a blob cannot be evicted; its bytes stay counted");
                    }
                    if failures == UNLINK_FAILURES_MAX {
                        return;
                    }
                }
            }
        }
    }

    /// Opens the database of a clean stop, checks every row and compares the rows with the files.
    fn adopt(&mut self) -> Result<(), Failure> {
        let database = Database::open(&self.database_path())?;
        let mut failure = None;
        let readable = |row: Result<_, Failure>| row.map_err(|error| failure = Some(error)).ok();
        let before = Rows::from_unordered(database.rows().map_while(readable));
        if let Some(failure) = failure {
            return Err(failure);
        }
        let scan::Compared { rows, gone, new } =
            scan::compare(before, &self.context.layout.blobs(), self.context.clock.now());
        for digest in &gone {
            database.remove(digest)?;
        }
        self.rows = rows;
        if !new.is_empty() {
            scan::find_owners(&mut self.rows, &self.context.layout);
        }
        self.unwritten = new;
        self.database = Some(database);
        Ok(())
    }

    /// Writes to the database; after a failure makes a new one.
    fn write(&mut self, change: impl FnOnce(&Database) -> Result<(), Failure>) {
        let Some(database) = &self.database else { return };
        if let Err(failure) = change(database) {
            self.renew_database(&failure.to_string());
        }
    }

    /// Sets the database aside and begins a new one, which [`Worker::fill`] fills.
    fn renew_database(&mut self, why: &str) {
        // Closes the database before its directory is moved.
        self.database = None;
        self.unwritten = Vec::new();
        let existed = self.database_path().exists();
        if existed {
            self.failures += 1;
            self.context.metrics.index_rebuilds.inc();
            tracing::info!(why, "the index is rebuilt");
        }
        let aside = self.context.layout.index().join("set-aside");
        let _ = fs::remove_dir_all(&aside);
        let moved = !existed || layout::publish(&self.database_path(), &aside).is_ok();
        if self.failures > FAILURES_MAX || !moved {
            return;
        }
        match Database::open(&self.database_path()) {
            Ok(database) => {
                self.database = Some(database);
                self.unwritten = self.rows.iter().map(|(digest, _)| digest).collect();
                // Neighbours are written together: sled's cache holds a small part of a large store.
                self.unwritten.sort_unstable();
            }
            Err(error) => tracing::warn!(%error, "the index stays in memory until the next start"),
        }
    }

    /// Writes up to `count` of the rows that a new database does not have yet.
    fn fill(&mut self, count: usize) {
        let from = self.unwritten.len().saturating_sub(count);
        for digest in self.unwritten.split_off(from) {
            if let Some(row) = self.rows.row(&digest) {
                self.write(|database| database.put(&digest, row));
            }
        }
        if self.unwritten.is_empty() {
            self.unwritten = Vec::new();
        }
    }

    fn close(&mut self) {
        let until = Instant::now() + FILL_AT_STOP;
        while !self.unwritten.is_empty() && Instant::now() < until {
            self.fill(FILL_ROWS);
        }
        if !self.unwritten.is_empty() {
            tracing::info!(
                rows = self.unwritten.len(),
                "the index is not complete yet; the next start reads the files"
            );
            return;
        }
        self.write(Database::flush);
        // A failure began a new database, which is as good as none.
        if !self.unwritten.is_empty() || self.database.is_none() {
            return;
        }
        // Ends sled's own threads before the marker vouches for what they wrote.
        self.database = None;
        if let Err(error) = self.context.layout.write_small(&self.marker(), CLEAN) {
            tracing::warn!(%error, cause = error.cause(), "the clean-stop marker cannot be written; the next start rebuilds the index");
        }
    }

    fn marker(&self) -> PathBuf {
        self.context.layout.index().join("clean")
    }

    fn database_path(&self) -> PathBuf {
        self.context.layout.index().join("sled")
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
