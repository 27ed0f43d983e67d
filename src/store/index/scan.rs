//! Reading the directory of the blobs: which exist, and how large they are.
//!
//! Files that are not named by a digest are skipped. A start after a clean stop asks the filesystem for names alone,
//! and for the size of those blobs that the rows do not have.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::rows::{Row, Rows};
use crate::reference::{Algorithm, Digest};
use crate::store::budget::share::OwnerId;
use crate::store::layout::Layout;
use crate::store::records::walk;
use crate::support::clock::Timestamp;

/// Rows that follow the files again.
pub(crate) struct Compared {
    pub(crate) rows: Rows,
    /// Had a row and have no file.
    pub(crate) gone: Vec<Digest>,
    /// Had a file and no row.
    pub(crate) new: Vec<Digest>,
}

/// Every blob, by the files alone: those up to where the directories can be read. Blocks.
pub(crate) fn files(layout: &Layout, now: Timestamp) -> Rows {
    let readable = entries(layout).map_while(|entry| entry.map_err(|error| unreadable(&error)).ok());
    Rows::from_unordered(readable.flatten().filter_map(|(entry, digest)| Some((digest, row(&entry, now)?))))
}

/// Compares rows with the files. A directory that cannot be read changes nothing. Blocks.
pub(crate) fn compare(mut rows: Rows, layout: &Layout, now: Timestamp) -> Compared {
    // By the place of the row, because a set of a million digests would be half as large as the rows.
    let mut found = vec![false; rows.len()];
    let mut new = Vec::new();
    for entry in entries(layout) {
        let (entry, digest) = match entry {
            Ok(Some(blob)) => blob,
            Ok(None) => continue,
            Err(error) => {
                // What was not listed is not gone.
                unreadable(&error);
                return Compared { rows, gone: Vec::new(), new: Vec::new() };
            }
        };
        if rows.row(&digest).is_none()
            && let Some(row) = row(&entry, now)
        {
            new.push((digest, row));
        }
        if let Some(found) = rows.place(&digest).and_then(|place| found.get_mut(place as usize)) {
            *found = true;
        }
    }
    let is_gone = |digest: &Digest| rows.place(digest).is_some_and(|place| !found[place as usize]);
    let gone: Vec<Digest> = rows.iter().map(|(digest, _)| digest).filter(is_gone).collect();
    for digest in &gone {
        rows.remove(digest);
    }
    for (digest, row) in &new {
        rows.put(*digest, *row);
    }
    Compared { rows, gone, new: new.into_iter().map(|(digest, _)| digest).collect() }
}

/// Fills in from which registry each blob was received that has no owner: the first by name, where there are several.
/// Blocks.
pub(crate) fn find_owners(rows: &mut Rows, layout: &Layout) {
    let mut registries = walk::registries(layout);
    registries.sort();
    for registry in registries {
        let owner = OwnerId::of(&registry);
        for name in walk::files(&layout.received_from(&registry)) {
            if let Ok(digest) = Digest::from_hex(&name) {
                rows.set_owner(&digest, owner);
            }
        }
    }
}

/// Each entry of the directories; `None` for what is not named by a digest.
fn entries(layout: &Layout) -> impl Iterator<Item = io::Result<Option<(fs::DirEntry, Digest)>>> {
    Algorithm::ALL.into_iter().flat_map(|algorithm| entries_of(layout, algorithm))
}

fn entries_of(
    layout: &Layout,
    algorithm: Algorithm,
) -> impl Iterator<Item = io::Result<Option<(fs::DirEntry, Digest)>>> {
    let (entries, error) = match fs::read_dir(layout.blobs(algorithm)) {
        Ok(entries) => (Some(entries), None),
        // A store of the format before, on a filesystem that takes no writes.
        Err(error) if algorithm != Algorithm::Sha256 && error.kind() == io::ErrorKind::NotFound => {
            (None, None)
        }
        Err(error) => (None, Some(Err(error))),
    };
    let named = move |entry: fs::DirEntry| {
        let digest = Digest::from_hex(entry.file_name().to_str()?).ok()?;
        (digest.algorithm() == algorithm).then_some((entry, digest))
    };
    error.into_iter().chain(entries.into_iter().flatten().map(move |entry| entry.map(named)))
}

fn unreadable(error: &io::Error) {
    tracing::error!(%error, "the directory of the blobs cannot be read; blobs that were not listed may not be counted");
}

/// The row of a blob whose last access was lost: the filesystem's own times stand in for it. `None` if it is no file.
fn row(entry: &fs::DirEntry, now: Timestamp) -> Option<Row> {
    let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
    let used = metadata.atime().max(metadata.mtime());
    let used_at = Timestamp(u64::try_from(used).unwrap_or(0).min(now.0));
    Some(Row { size: metadata.len(), used_at, owner: OwnerId::UNKNOWN, reused: false })
}
