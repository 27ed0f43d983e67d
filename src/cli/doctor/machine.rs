//! The files of the machine that is checked.

use std::path::{Path, PathBuf};

/// The machine whose filesystem has its root there.
pub(super) struct Machine<'a>(pub(super) &'a Path);

impl Machine<'_> {
    /// A file; empty if there is none that can be read.
    pub(super) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// Whether there is a file or directory.
    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Whether it is this machine, and not an image of one.
    pub(super) fn is_this_one(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a file of the machine is.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }
}
