//! Which file something was found out about: not the one that has its name by then.
//!
//! A blob is looked at for a while, and may be replaced by a sound one meanwhile.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, Statx, StatxFlags, makedev, statx};

/// A file as it was when it was looked at: its place on the disk, its size in bytes and when its content last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    /// An open file's.
    ///
    /// # Errors
    /// The disk.
    pub(in crate::store) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::from_metadata(&metadata))
    }

    /// That of what lies at `path`; a symbolic link is not followed. `None` if there is nothing, or it cannot be told.
    pub(in crate::store) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::from_metadata(&metadata))
    }

    /// Whether an open file is the one, as it was, and still has a name: as far as the kernel knows, which asks no
    /// server for that. Does not block.
    pub(in crate::store) fn is_that_of(self, file: &File) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        match statx(file, c"", flags, StatxFlags::BASIC_STATS) {
            Ok(now) => now.stx_nlink > 0 && Self::from_statx(&now) == self,
            // As where a filter of system calls does not know it.
            Err(_) => file.metadata().is_ok_and(|now| now.nlink() > 0 && Self::from_metadata(&now) == self),
        }
    }

    /// Bytes of the file.
    pub(in crate::store) fn size(&self) -> u64 {
        self.size
    }

    fn from_statx(found: &Statx) -> Self {
        Self {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            size: found.stx_size,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into()),
        }
    }

    fn from_metadata(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}
