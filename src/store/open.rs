//! Taking possession of a store at start: one path, whatever happened before.
//!
//! There is no "clean" and "unclean" start of the tree itself: the directories are made, the format is checked, the
//! lock is taken, `ingest/` is emptied. Whatever an earlier process left half done lies in `ingest/` and nowhere
//! else.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::store::error::Error;
use crate::store::layout::{self, FORMAT, Layout};

const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Keeps other daemons out while it lives.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held, not read: the lock ends with the file")] File);

/// Prepares the tree under `layout` and locks it.
pub(crate) fn take_possession(layout: &Layout) -> Result<Lock, Error> {
    // What is cached may be private: nobody else on the node reads it around us.
    let root = fs::DirBuilder::new().recursive(true).mode(0o700).create(layout.root());
    root.map_err(Error::io("make directory", layout.root()))?;
    let lock = lock(layout)?;
    check_format(layout)?;
    empty(&layout.ingest())?;
    for directory in
        [layout.blobs(), layout.checks(), layout.refs(), layout.ingest(), layout.quarantine(), layout.index()]
    {
        layout.make_directory(&directory)?;
    }
    if layout::read_small(&layout.oci_layout()).ok().flatten().as_deref() != Some(OCI_LAYOUT) {
        layout.write_small(&layout.oci_layout(), OCI_LAYOUT)?;
    }
    Ok(lock)
}

fn lock(layout: &Layout) -> Result<Lock, Error> {
    let path = layout.lock();
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = match file.map_err(Error::io("open", &path)) {
        Err(error) if error.is_read_only() => {
            tracing::warn!(store = %layout.root().display(), "the store is on a read-only filesystem: what is cached is served, and nothing is added");
            File::open(&path).map_err(Error::io("open", &path))?
        }
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(layout.root().to_owned())),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path)(e)),
    }
}

fn check_format(layout: &Layout) -> Result<(), Error> {
    if format(layout)?.is_some() {
        return Ok(());
    }
    layout.make_directory(&layout.ingest())?;
    layout.write_small(&layout.format(), FORMAT.as_bytes())
}

/// Whether there is a store, and one that this version knows.
pub(crate) fn known_format(layout: &Layout) -> Result<(), Error> {
    let missing = || Error::io("find a store at", layout.root())(std::io::ErrorKind::NotFound.into());
    format(layout)?.ok_or_else(missing)
}

fn format(layout: &Layout) -> Result<Option<()>, Error> {
    let path = layout.format();
    match layout::read_small(&path).map_err(Error::io("read", &path))? {
        Some(found) if found == FORMAT.as_bytes() => Ok(Some(())),
        Some(found) => Err(Error::Format {
            path: layout.root().to_owned(),
            found: String::from_utf8_lossy(&found).trim().to_owned(),
            known: FORMAT.trim(),
        }),
        None => Ok(None),
    }
}

/// Removes what an earlier process was writing; whatever it is.
fn empty(directory: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("list", directory))?,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        match removed.map_err(Error::io("remove", &path)) {
            // What is there can be served all the same.
            Err(error) if error.is_read_only() => {}
            removed => removed?,
        }
    }
    Ok(())
}
