//! Directories of the tree: made durably, and moved out of the way where another program put something.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::Layout;
use super::files::{rename, sync_directory};
use crate::store::error::Error;
use crate::store::failpoints;

impl Layout {
    /// Makes a directory and its missing parents durably. Another thread may make them at the same time. A file that has
    /// the name is moved to quarantine.
    pub(crate) fn make_directory(&self, directory: &Path) -> Result<(), Error> {
        if directory.is_dir() {
            return Ok(());
        }
        let _change = self.change()?;
        if let Some(parent) = directory.parent().filter(|_| directory != self.root()) {
            self.make_directory(parent)?;
        }
        let make = || fs::DirBuilder::new().mode(0o700).create(directory);
        let made = match make() {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !directory.is_dir() => {
                if self.move_away(directory) { make() } else { Err(e) }
            }
            made => made,
        };
        match made {
            Ok(()) => {
                failpoints::reached("directory made");
                match (directory.parent(), &self.staged) {
                    (Some(parent), Some(staged)) => {
                        staged.lock().made_in.insert(parent.to_owned());
                        Ok(())
                    }
                    (Some(parent), None) => sync_directory(parent),
                    (None, _) => Ok(()),
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
            Err(e) => Err(Error::io("make directory", directory)(e)),
        }
    }

    /// Moves a directory away that has the name of a file.
    pub(super) fn make_way(&self, to: &Path) {
        if to.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            self.move_away(to);
        }
    }

    /// Moves what has a name that another kind of file must have; `false` if it is still there.
    fn move_away(&self, path: &Path) -> bool {
        let quarantine = self.quarantine();
        // What is needed to move something is not moved.
        if quarantine.starts_with(path) || self.make_directory(&quarantine).is_err() {
            return false;
        }
        // A name without a time: it is the operator's, who decides when it goes.
        let to = quarantine.join(format!("other-{:016x}", fastrand::u64(..)));
        match rename(path, &to) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), moved_to = %to.display(), "something that Larder does not make lay in the store and was moved");
                true
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, cause = error.cause(), "something that Larder does not make lies in the store and cannot be moved");
                false
            }
        }
    }
}
