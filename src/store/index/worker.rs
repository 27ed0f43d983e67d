//! The thread of the index: owns the rows, applies operations one after the other, and evicts.
//!
//! A marker written at a clean stop decides whether the database is opened at all; without it, it is set aside and made
//! anew from the file names while the daemon serves. The same follows from any failure of the database; after
//! [`REBUILDS_MAX`] of them the rows stay in memory until the next start.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::table::{Failure, Row, Table};
use super::totals::{SharedTotals, Totals};
use crate::reference::Digest;
use crate::store::evict::{self, Candidate};
use crate::store::in_use::InUse;
use crate::store::last_access;
use crate::store::layout::{self, Layout};
use crate::store::metrics::Metrics;
use crate::store::pins::Pins;
use crate::store::reserve::Reservation;
use crate::support::clock::{Clock, Timestamp};

/// Written by a clean stop, removed by the next start; the version is that of the rows.
const CLEAN: &[u8] = b"larder index 1\n";
/// Failures of the database in one process before its rows stay in memory.
const REBUILDS_MAX: u32 = 3;

/// What the thread is asked to do.
pub(crate) enum Operation {
    /// A blob exists. Its reservation ends once the blob is counted.
    Add(
        Digest,
        u64,
        #[allow(dead_code, reason = "held, not read: dropped when the blob is counted")] Reservation,
    ),
    /// A blob was used.
    Access(Digest),
    /// A blob is gone.
    Remove(Digest),
    /// A blob was not found: its row goes if its file is gone.
    Recheck(Digest),
    /// Evict blobs of about so many bytes, then answer.
    Evict(u64, SyncSender<()>),
    /// Write everything down and stop.
    Close,
}

/// What the thread works on.
pub(crate) struct Context {
    pub(crate) layout: Layout,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) totals: Arc<SharedTotals>,
    /// Blobs that are not evicted because they are read.
    pub(crate) in_use: InUse,
    /// Blobs that are not evicted because they are pinned.
    pub(crate) pins: Pins,
}

pub(crate) struct Worker {
    context: Context,
    table: Table,
    failures: u32,
}

impl Worker {
    /// Reads the pins, then counts the blobs: from the database of a clean stop, else from the files.
    pub(crate) fn open(context: Context) -> Self {
        // Before anything can be evicted.
        context.pins.restore();
        let mut worker = Self { context, table: Table::Memory(HashMap::new()), failures: 0 };
        let marker = worker.marker();
        let clean = fs::read(&marker).is_ok_and(|content| content == CLEAN);
        if fs::remove_file(&marker).is_err() && clean {
            // A marker that cannot be removed would vouch for the rows of this process after a crash.
            worker.rebuild("the clean-stop marker cannot be removed");
        } else if !clean {
            worker.rebuild("no clean stop");
        } else if let Err(failure) = worker.adopt() {
            worker.rebuild(&failure.to_string());
        }
        worker
    }

    /// Applies operations until one of them is [`Operation::Close`] or every sender is gone.
    pub(crate) fn run(mut self, operations: &Receiver<Operation>) {
        while let Ok(operation) = operations.recv() {
            let close = matches!(operation, Operation::Close);
            if let Err(failure) = self.apply(&operation) {
                self.rebuild(&failure.to_string());
            }
            // By now the blob is counted, by its row or by the rebuild, and its reservation may end.
            drop(operation);
            if close {
                return;
            }
        }
    }

    pub(crate) fn apply(&mut self, operation: &Operation) -> Result<(), Failure> {
        let now = self.context.clock.now();
        match *operation {
            Operation::Add(digest, size, _) => {
                let before = self.table.put(digest, Row { size, used_at: now })?;
                self.context.totals.replace(before.map(|row| row.size), Some(size));
            }
            Operation::Access(digest) => {
                if let Some(row) = self.table.row(digest)?
                    && now.0 >= row.used_at.0.saturating_add(last_access::INTERVAL_SECONDS)
                {
                    self.table.put(digest, Row { used_at: now, ..row })?;
                }
            }
            Operation::Remove(digest) => self.remove(digest)?,
            Operation::Recheck(digest) => {
                // The blob may have been fetched again meanwhile.
                if self.table.row(digest)?.is_some() && !self.context.layout.blob(&digest).exists() {
                    self.remove(digest)?;
                }
            }
            Operation::Evict(wanted, ref done) => {
                self.evict(wanted, now)?;
                let _ = done.send(());
            }
            Operation::Close => self.close()?,
        }
        Ok(())
    }

    fn remove(&mut self, digest: Digest) -> Result<(), Failure> {
        let before = self.table.remove(digest)?;
        self.context.totals.replace(before.map(|row| row.size), None);
        Ok(())
    }

    /// Evicts blobs: each row first, so that no row is left of a blob that is gone.
    fn evict(&mut self, wanted: u64, now: Timestamp) -> Result<(), Failure> {
        if wanted == 0 {
            return Ok(());
        }
        let pinned = self.context.pins.digests();
        let is_candidate =
            |digest: &Digest| !pinned.contains(digest) && !self.context.in_use.contains(digest);
        let rows = self.table.rows()?.into_iter().filter(|(digest, _)| is_candidate(digest));
        let candidates =
            rows.map(|(digest, row)| Candidate { digest, size: row.size, used_at: row.used_at }).collect();
        for Candidate { digest, size, .. } in evict::choose(candidates, now, wanted) {
            self.remove(digest)?;
            match fs::remove_file(self.context.layout.blob(&digest)) {
                Ok(()) => {
                    self.context.metrics.evicted.inc();
                    self.context.metrics.evicted_bytes.inc_by(size);
                    tracing::debug!(%digest, size, "evicted");
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%digest, %error, "a blob cannot be evicted"),
            }
            let _ = fs::remove_file(self.context.layout.checks_of(&digest));
        }
        Ok(())
    }

    /// Opens the database of a clean stop and checks every row.
    fn adopt(&mut self) -> Result<(), Failure> {
        let table = Table::open(&self.database())?;
        let rows = table.rows()?;
        self.context.totals.recount(totals_of(&rows));
        self.table = table;
        Ok(())
    }

    /// Sets the database aside and makes a new one from the files.
    fn rebuild(&mut self, why: &str) {
        // Closes the database before its directory is moved.
        self.table = Table::Memory(HashMap::new());
        let existed = self.database().exists();
        if existed {
            self.failures += 1;
            self.context.metrics.index_rebuilds.inc();
            tracing::info!(why, "the index is rebuilt from the files");
        }
        let aside = self.context.layout.index().join("set-aside");
        let _ = fs::remove_dir_all(&aside);
        let moved = !existed || layout::publish(&self.database(), &aside).is_ok();
        let rows = scan(&self.context.layout.blobs(), self.context.clock.now());
        self.context.totals.recount(totals_of(&rows));
        if self.failures <= REBUILDS_MAX && moved {
            match Table::open(&self.database()).and_then(|table| table.fill(&rows).map(|()| table)) {
                Ok(table) => {
                    self.table = table;
                    return;
                }
                Err(error) => tracing::warn!(%error, "the index stays in memory until the next start"),
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
        self.context.layout.write_small(&self.marker(), CLEAN).map_err(Failure::Marker)
    }

    fn marker(&self) -> PathBuf {
        self.context.layout.index().join("clean")
    }

    fn database(&self) -> PathBuf {
        self.context.layout.index().join("sled")
    }
}

fn totals_of(rows: &[(Digest, Row)]) -> Totals {
    Totals { blobs: rows.len() as u64, bytes: rows.iter().map(|(_, row)| row.size).sum() }
}

/// Every blob by its file name; files that are not named by a digest are skipped.
fn scan(blobs: &Path, now: Timestamp) -> Vec<(Digest, Row)> {
    let Ok(entries) = fs::read_dir(blobs) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let digest = Digest::from_hex(entry.file_name().to_str()?).ok()?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            // The filesystem's own times stand in for the last access that was lost.
            let used = metadata.atime().max(metadata.mtime());
            let used_at = Timestamp(u64::try_from(used).unwrap_or(0).min(now.0));
            Some((digest, Row { size: metadata.len(), used_at }))
        })
        .collect()
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
