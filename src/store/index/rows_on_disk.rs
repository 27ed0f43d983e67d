//! The database that follows the rows: opened after a clean stop, filled anew otherwise, and marked at a clean stop.
//!
//! A marker decides whether the database is read at a start; without it, it is set aside and the rows are made from the
//! files. A new database is filled a few rows at a time, so that no operation waits for it. After [`FAILURES_MAX`]
//! failures of the database in one process the rows stay in memory until the next start.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::database::{Database, Failure};
use super::rows::{Row, Rows};
use super::scan;
use crate::reference::Digest;
use crate::store::layout::{self, Layout};
use crate::store::metrics::Metrics;
use crate::support::clock::Clock;

/// Written by a clean stop, removed by the next start; the version is that of the rows.
pub(crate) const CLEAN: &[u8] = b"larder index 3\n";
/// Failures of the database in one process before its rows stay in memory.
const FAILURES_MAX: u32 = 3;
/// Rows that are written to a new database between two operations: less than a millisecond of work.
pub(crate) const FILL_ROWS: usize = 64;
/// How long a stop fills a new database that is not complete yet; without the rest the next start reads the files.
const FILL_AT_STOP: Duration = Duration::from_secs(3);

/// The rows as they are on disk.
pub(crate) struct RowsOnDisk {
    layout: Layout,
    metrics: Arc<Metrics>,
    /// `None` once it has failed too often.
    database: Option<Database>,
    /// Places of rows that a new database does not have yet, in the order in which they are written, from the end. What
    /// has come to such a place since is written once more.
    unwritten: Vec<u32>,
    failures: u32,
}

impl RowsOnDisk {
    /// Reads the rows of every blob: from the database of a clean stop and the names of the files, else from the files
    /// alone. Blocks.
    pub(crate) fn open(layout: Layout, metrics: Arc<Metrics>, clock: &Clock) -> (Self, Rows) {
        let mut this = Self { layout, metrics, database: None, unwritten: Vec::new(), failures: 0 };
        let marker = this.marker();
        let clean = fs::read(&marker).is_ok_and(|content| content == CLEAN);
        // A marker that stays, or that a power cut brings back, would vouch for the rows of this process.
        let vouched_for = match this.layout.remove_durably(&marker) {
            Ok(existed) => existed && clean,
            Err(error) => {
                tracing::warn!(%error, cause = error.cause(), "the clean-stop marker cannot be removed; the index stays in memory until the next start");
                this.failures = FAILURES_MAX + 1;
                false
            }
        };
        let adopted = if vouched_for {
            this.adopt(clock).map_err(|failure| failure.to_string())
        } else {
            Err("no clean stop".to_owned())
        };
        match adopted {
            Ok(rows) => (this, rows),
            Err(why) => {
                let mut rows = scan::files(&this.layout, clock.now());
                scan::find_owners(&mut rows, &this.layout);
                this.renew(&rows, &why);
                (this, rows)
            }
        }
    }

    /// Opens the database of a clean stop, checks every row and compares the rows with the files.
    fn adopt(&mut self, clock: &Clock) -> Result<Rows, Failure> {
        let database = Database::open(&self.path())?;
        let mut failure = None;
        let readable = |row: Result<_, Failure>| row.map_err(|error| failure = Some(error)).ok();
        let before = Rows::from_unordered(database.rows().map_while(readable));
        if let Some(failure) = failure {
            return Err(failure);
        }
        let scan::Compared { mut rows, gone, new } = scan::compare(before, &self.layout, clock.now());
        for digest in &gone {
            database.remove(digest)?;
        }
        if !new.is_empty() {
            scan::find_owners(&mut rows, &self.layout);
        }
        self.unwritten = new.iter().filter_map(|digest| rows.place(digest)).collect();
        self.database = Some(database);
        Ok(rows)
    }

    /// A row was set.
    pub(crate) fn put(&mut self, digest: &Digest, row: Row, rows: &Rows) {
        self.write(rows, |database| database.put(&[(*digest, row)]));
    }

    /// A row was removed.
    pub(crate) fn remove(&mut self, digest: &Digest, rows: &Rows) {
        self.write(rows, |database| database.remove(digest));
    }

    /// Whether a new database has all rows.
    pub(crate) fn is_filled(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Rows that a new database does not have yet.
    #[cfg(test)]
    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// Writes up to `count` of the rows that a new database does not have yet.
    pub(crate) fn fill(&mut self, count: usize, rows: &Rows) {
        let from = self.unwritten.len().saturating_sub(count);
        let next = self.unwritten.split_off(from).into_iter();
        let next: Vec<_> = next.filter_map(|place| rows.at(place)).collect();
        self.write(rows, |database| database.put(&next));
        if self.unwritten.is_empty() {
            self.unwritten = Vec::new();
        }
    }

    /// Writes everything down and marks the stop as clean. Blocks.
    pub(crate) fn close(&mut self, rows: &Rows) {
        let until = Instant::now() + FILL_AT_STOP;
        while !self.is_filled() && Instant::now() < until {
            self.fill(FILL_ROWS, rows);
        }
        if !self.is_filled() {
            tracing::info!(
                rows = self.unwritten.len(),
                "the index is not complete yet; the next start reads the files"
            );
            return;
        }
        self.write(rows, Database::flush);
        // A failure began a new database, which is as good as none.
        if !self.is_filled() || self.database.is_none() {
            return;
        }
        // Ends sled's own threads before the marker vouches for what they wrote.
        self.database = None;
        if let Err(error) = self.layout.write_small(&self.marker(), CLEAN) {
            tracing::warn!(%error, cause = error.cause(), "the clean-stop marker cannot be written; the next start rebuilds the index");
        }
    }

    /// Writes to the database; after a failure makes a new one.
    fn write(&mut self, rows: &Rows, change: impl FnOnce(&Database) -> Result<(), Failure>) {
        let Some(database) = &self.database else { return };
        if let Err(failure) = change(database) {
            self.renew(rows, &failure.to_string());
        }
    }

    /// Sets the database aside and begins a new one, which [`RowsOnDisk::fill`] fills.
    fn renew(&mut self, rows: &Rows, why: &str) {
        // Closes the database before its directory is moved.
        self.database = None;
        self.unwritten = Vec::new();
        let existed = self.path().exists();
        if existed {
            self.failures += 1;
            self.metrics.index_rebuilds.inc();
            tracing::info!(why, "the index is rebuilt");
        }
        let aside = self.layout.index().join("set-aside");
        let _ = fs::remove_dir_all(&aside);
        if existed && let Err(error) = layout::publish(&self.path(), &aside) {
            let (index, cause) = (self.layout.index(), error.cause());
            tracing::warn!(%error, cause, index = %index.display(), "the old index cannot be set aside, and the index stays in memory: stop the daemon and remove that directory, from which nothing is lost");
            return;
        }
        if self.failures > FAILURES_MAX {
            return;
        }
        match Database::open(&self.path()) {
            Ok(database) => {
                self.database = Some(database);
                // Neighbours are written together: sled's cache holds a small part of a large store.
                self.unwritten = rows.places_by_digest();
            }
            Err(error) => tracing::warn!(%error, "the index stays in memory until the next start"),
        }
    }

    fn marker(&self) -> PathBuf {
        self.layout.index().join("clean")
    }

    fn path(&self) -> PathBuf {
        self.layout.index().join("sled")
    }
}
