//! Which file something was found out about: not the one that has its name by then.
//!
//! A blob is looked at for a while, and may be replaced by a sound one meanwhile.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file as it was when it was looked at: its place on the disk, its size in bytes and when its content last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
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
    pub(super) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::from_metadata(&metadata))
    }

    /// That of what lies at `path`; a symbolic link is not followed. `None` if there is nothing, or it cannot be told.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::from_metadata(&metadata))
    }

    /// Whether an open file is the one, as it was, and still has a name.
    pub(super) fn is_that_of(self, file: &File) -> bool {
        file.metadata().is_ok_and(|now| now.nlink() > 0 && Self::from_metadata(&now) == self)
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
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
