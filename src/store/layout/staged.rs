//! What is written and does not have its names yet.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// What the earlier groups of a batch write. Cheap to clone; clones share it.
pub(crate) type Earlier = Arc<Mutex<BTreeSet<PathBuf>>>;

/// Files that are written and do not have their names yet, in the order in which they get them.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub(crate) files: Vec<StagedFile>,
    /// Directories that others were made in.
    pub(crate) made_in: BTreeSet<PathBuf>,
    /// A file that has to be there by then: what is staged names it.
    pub(crate) names: Option<PathBuf>,
    /// What gets its names before these: the disk does not show it yet.
    pub(crate) earlier: Earlier,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct StagedFile {
    pub(crate) temporary: PathBuf,
    pub(crate) path: PathBuf,
    /// The open file, whose bytes have to be durable before it has its name; `None` where they need not.
    bytes: Option<Arc<File>>,
}

impl StagedFile {
    pub(crate) fn new(temporary: PathBuf, path: PathBuf, bytes: Option<Arc<File>>) -> Self {
        Self { temporary, path, bytes }
    }

    /// Whether its bytes have to be made durable.
    pub(crate) fn needs_sync(&self) -> bool {
        self.bytes.is_some()
    }

    /// Makes its bytes durable, as far as they have to be.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.bytes.as_ref().map_or(Ok(()), |file| file.sync_data())
    }

    /// The same, on a disk that does not make its bytes durable.
    #[cfg(test)]
    pub(crate) fn that_cannot_be_synced(self) -> Self {
        // A device has nothing to sync, and says so.
        Self { bytes: File::open("/dev/null").ok().map(Arc::new), ..self }
    }

    /// The directory that it is in once it has its name.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.path.parent()
    }
}
