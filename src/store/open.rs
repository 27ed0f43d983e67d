//! Opening the directory tree of a store: one path, however the last process ended.
//!
//! The directories are made, the lock is taken, the format is checked and `ingest/` is emptied. Whatever an earlier
//! process left half done lies in `ingest/` and nowhere else, so a clean stop is never needed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{OFlags, StatVfsMountFlags};

use crate::reference::Algorithm;
use crate::store::error::Error;
use crate::store::layout::{self, FORMAT, FORMAT_WITHOUT_SHA512, Layout};

const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The exclusive lock of a store, held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "held, not read: the lock ends with the file")] File);

/// Locks the tree under `layout` and prepares it for use. What cannot be prepared because the disk is full, read-only
/// or failing is said and does not stop the start: what is cached is served, and what cannot be stored is passed
/// through. Blocks.
///
/// # Errors
/// There is no directory or no lock to be had; another daemon holds the lock; the format is unknown or cannot be read.
pub(super) fn lock_and_prepare(layout: &Layout) -> Result<Lock, Error> {
    // Cached content may be private: other users of the node must not read it past the access checks.
    let root = fs::DirBuilder::new().recursive(true).mode(0o700).create(layout.root());
    root.map_err(|source| not_opened(layout, "make directory", layout.root(), source))?;
    let lock = lock(layout)?;
    // What is in a store of the format before is served without a write.
    if format_of(layout)? != Some(FORMAT) {
        let made = layout.make_directory(&layout.ingest());
        log_failure(made.and_then(|()| layout.write_small(&layout.format(), FORMAT.as_bytes())));
    }
    empty_directory(&layout.ingest());
    let of_algorithms = Algorithm::ALL.map(|algorithm| [layout.blobs(algorithm), layout.checks(algorithm)]);
    let others = [layout.refs(), layout.ingest(), layout.quarantine(), layout.index()];
    for directory in of_algorithms.into_iter().flatten().chain(others) {
        log_failure(layout.make_directory(&directory));
    }
    if layout::read_small(&layout.oci_layout()).ok().flatten().as_deref() != Some(OCI_LAYOUT) {
        log_failure(layout.write_small(&layout.oci_layout(), OCI_LAYOUT));
    }
    Ok(lock)
}

/// Logs why a part of the tree could not be prepared.
fn log_failure(prepared: Result<(), Error>) {
    match prepared {
        Ok(()) => {}
        // It was said when the lock was taken.
        Err(error) if error.is_read_only() => {}
        Err(error) => {
            tracing::warn!(%error, cause = error.cause(), "the store is not prepared in full; what is cached is served");
        }
    }
}

/// Refuses a tree that is no store of this version. Blocks.
///
/// # Errors
/// There is no store; the format is unknown; the disk.
pub(super) fn require_format(layout: &Layout) -> Result<(), Error> {
    if format_of(layout)?.is_some() {
        return Ok(());
    }
    Err(Error::io("find a store at", layout.root())(std::io::ErrorKind::NotFound.into()))
}

fn lock(layout: &Layout) -> Result<Lock, Error> {
    let path = layout.lock();
    let opened = alone(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600)).open(&path);
    let file = lock_file(layout, opened)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(layout.root().to_owned())),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path)(e)),
    }
}

/// To open no link, which leads elsewhere, and to wait for nothing that is no file.
fn alone(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
}

/// The lock's file, as it was opened for writing; for reading where the filesystem is read-only and it is there.
fn lock_file(layout: &Layout, opened: io::Result<File>) -> Result<File, Error> {
    let path = layout.lock();
    match opened {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let file =
                alone(OpenOptions::new().read(true)).open(&path).map_err(|found| match found.kind() {
                    // Without a store there is nothing to serve.
                    io::ErrorKind::NotFound => not_opened(layout, "open", &path, error),
                    _ => Error::io("open", &path)(found),
                })?;
            tracing::warn!(store = %layout.root().display(), "the store is on a filesystem that is read-only for this process: cached content is served and nothing is added");
            Ok(file)
        }
        opened => opened.map_err(|error| not_opened(layout, "open", &path, error)),
    }
}

/// Whether the filesystem of `path` is mounted read-only for this process.
pub(super) fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|of| of.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Why there is no store to be had; where the process may not write there, what to do.
fn not_opened(layout: &Layout, what: &'static str, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            Error::NotWritable { path: layout.root().to_owned(), source: Arc::new(source) }
        }
        _ => Error::io(what, path)(source),
    }
}

/// The format of the tree, one of this version or the one before; `None` if it has none yet.
fn format_of(layout: &Layout) -> Result<Option<&'static str>, Error> {
    let path = layout.format();
    let found = layout::read_small(&path).map_err(Error::io("read", &path))?;
    let known =
        |found: &[u8]| [FORMAT, FORMAT_WITHOUT_SHA512].into_iter().find(|known| known.as_bytes() == found);
    match found {
        Some(found) if let Some(known) = known(&found) => Ok(Some(known)),
        Some(found) => Err(Error::Format {
            path: layout.root().to_owned(),
            found: String::from_utf8_lossy(&found).trim().to_owned(),
            known: FORMAT.trim(),
        }),
        None => Ok(None),
    }
}

/// Removes everything in a directory, if it exists, as far as the disk lets it.
fn empty_directory(directory: &Path) {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => return log_failure(Err(Error::io("list", directory)(e))),
        Ok(entries) => entries,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        log_failure(removed.map_err(Error::io("remove", &path)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::reference::Digest;

    #[test]
    fn only_one_process_holds_a_store_and_none_holds_an_unknown_format() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("store"));
        assert!(require_format(&layout).is_err(), "there is no store yet");
        let lock = lock_and_prepare(&layout).unwrap();
        assert!(require_format(&layout).is_ok());
        assert!(matches!(lock_and_prepare(&layout), Err(Error::Locked(_))));
        drop(lock);
        fs::write(layout.format(), "larder store 99\n").unwrap();
        let refused = lock_and_prepare(&layout);
        assert!(matches!(refused, Err(Error::Format { found, .. }) if found == "larder store 99"));
        assert!(require_format(&layout).is_err());
    }

    #[test]
    fn no_link_and_no_fifo_is_a_lock() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("store"));
        drop(lock_and_prepare(&layout).unwrap());
        fs::remove_file(layout.lock()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, layout.lock(), 0o600.into()).unwrap();
        assert!(lock_and_prepare(&layout).is_err(), "a FIFO");
        fs::remove_file(layout.lock()).unwrap();
        symlink(directory.path().join("elsewhere"), layout.lock()).unwrap();
        assert!(lock_and_prepare(&layout).is_err(), "a link");
        assert!(!directory.path().join("elsewhere").exists());
    }

    #[test]
    fn a_place_that_the_unit_may_not_write_to_is_told_from_a_disk_that_fails_and_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let failed = |kind: io::ErrorKind| lock_file(&layout, Err(kind.into()));
        for kind in [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied] {
            let error = failed(kind).unwrap_err();
            let said = error.to_string();
            assert!(
                said.contains("/var/lib/private/larder/store") && said.contains("ReadWritePaths="),
                "{said}"
            );
            assert!(!said.contains("LOCK") && !error.cause().is_empty(), "{said}");
        }
        assert!(matches!(failed(io::ErrorKind::StorageFull), Err(Error::Io { .. })));
        // A store that is there is served from.
        drop(lock_and_prepare(&layout).unwrap());
        assert!(failed(io::ErrorKind::ReadOnlyFilesystem).is_ok());
    }

    #[test]
    fn what_is_of_the_wrong_kind_is_moved_and_what_cannot_be_prepared_does_not_stop_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        drop(lock_and_prepare(&layout).unwrap());
        fs::remove_dir(layout.refs()).unwrap();
        fs::write(layout.refs(), b"no directory").unwrap();
        fs::remove_file(layout.oci_layout()).unwrap();
        fs::create_dir(layout.oci_layout()).unwrap();
        drop(lock_and_prepare(&layout).unwrap());
        assert!(layout.refs().is_dir() && layout.oci_layout().is_file());
        assert_eq!(fs::read_dir(layout.quarantine()).unwrap().count(), 2);

        fs::remove_dir_all(layout.quarantine()).unwrap();
        fs::write(layout.quarantine(), b"no directory, and what would be needed to move it").unwrap();
        let _lock = lock_and_prepare(&layout).unwrap();
    }

    #[test]
    fn a_store_of_the_format_before_keeps_its_blobs_and_becomes_one_of_this_format() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let digest = Digest::of(b"old");
        fs::create_dir_all(layout.blobs(Algorithm::Sha256)).unwrap();
        fs::write(layout.blob(&digest), b"old").unwrap();
        fs::write(layout.format(), FORMAT_WITHOUT_SHA512).unwrap();
        assert!(require_format(&layout).is_ok(), "a verification from outside changes nothing");
        assert_eq!(fs::read_to_string(layout.format()).unwrap(), FORMAT_WITHOUT_SHA512);
        drop(lock_and_prepare(&layout).unwrap());
        assert_eq!(fs::read_to_string(layout.format()).unwrap(), FORMAT);
        assert_eq!(fs::read(layout.blob(&digest)).unwrap(), b"old");
        for directory in [layout.blobs(Algorithm::Sha512), layout.checks(Algorithm::Sha512)] {
            assert!(directory.is_dir());
        }
        drop(lock_and_prepare(&layout).unwrap());
    }

    #[test]
    fn half_written_content_is_removed_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(layout.ingest()).unwrap();
        fs::write(layout.ingest().join("half"), b"half").unwrap();
        fs::create_dir(layout.ingest().join("directory")).unwrap();
        symlink(outside.path(), layout.ingest().join("link")).unwrap();
        let _lock = lock_and_prepare(&layout).unwrap();
        assert_eq!(fs::read_dir(layout.ingest()).unwrap().count(), 0);
        assert!(outside.path().exists());
    }
}
