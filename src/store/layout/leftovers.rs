//! Files in `ingest/` that could not be removed when their write failed: a filesystem that takes no writes removes
//! nothing either. They are removed later, before the next write or a moment after the disk is well again, so that they
//! do not occupy space until the next start.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// Paths that are remembered at most; further files stay until the next start empties `ingest/`.
const PATHS_MAX: usize = 1_024;

/// The files that are still to be removed. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Leftovers(Arc<Mutex<Vec<PathBuf>>>);

impl Leftovers {
    /// Removes a file, now or later.
    pub(in crate::store) fn remove(&self, path: &Path) {
        if !is_removed(path) {
            let mut paths = self.0.lock();
            if paths.len() < PATHS_MAX {
                paths.push(path.to_owned());
            }
        }
    }

    /// Tries again to remove what could not be removed. Cheap if there is nothing.
    pub(super) fn retry(&self) {
        let paths = std::mem::take(&mut *self.0.lock());
        for path in &paths {
            self.remove(path);
        }
    }
}

fn is_removed(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_does_not_remove_is_removed_once_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let (stuck, gone) = (directory.path().join("stuck"), directory.path().join("gone"));
        // A directory stands for a file that cannot be removed: these tests run as root too.
        fs::create_dir(&stuck).unwrap();
        let leftovers = Leftovers::default();
        leftovers.remove(&stuck);
        leftovers.remove(&gone);
        leftovers.retry();
        assert_eq!(*leftovers.0.lock(), std::slice::from_ref(&stuck));
        fs::remove_dir(&stuck).unwrap();
        fs::write(&stuck, "x").unwrap();
        leftovers.retry();
        assert!(!stuck.exists() && leftovers.0.lock().is_empty());
    }
}
