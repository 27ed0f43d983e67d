//! How the small files and the directories of the tree are written, named and removed.
//!
//! Promises: a file is complete under its name or not there at all, after a crash too; a directory is durable before
//! what is written in it; what another program put where a file of the tree belongs is moved to quarantine. Every
//! change of the tree is counted as one under way, so that a closed store is not changed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Bound;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{
    create, fill_and_publish, rename, rename_at_failpoints, sync_directory, write_and_publish,
};
use super::staged::{Staged, StagedFile};
use super::{Layout, MEMBERS, SYNTHESIZED, TAGS};
use crate::reference::Repository;
use crate::store::disk::failpoints;
use crate::store::error::Error;

impl Layout {
    /// Gives a finished file of `ingest/` its name, and makes its bytes durable before, when what is staged is
    /// published.
    pub(crate) fn name_later(&self, temporary: PathBuf, path: PathBuf, bytes: Arc<File>) {
        if let Some(staged) = &self.staged {
            staged.lock().files.push(StagedFile::new(temporary, path, Some(bytes)));
        }
    }

    /// What is staged is published only if there is a file at `path` by then.
    pub(crate) fn names(&self, path: PathBuf) {
        if let Some(staged) = &self.staged {
            staged.lock().names = Some(path);
        }
    }

    /// Whether a file gets the name `path` before what is staged does: what is there now will not be there then.
    pub(crate) fn is_written_earlier(&self, path: &Path) -> bool {
        self.staged.as_ref().is_some_and(|staged| staged.lock().earlier.lock().contains(path))
    }

    /// Whether a file below `directory` gets its name before what is staged does.
    fn is_any_written_earlier(&self, directory: &Path) -> bool {
        self.staged.as_ref().is_some_and(|staged| {
            let staged = staged.lock();
            let earlier = staged.earlier.lock();
            let first = earlier.range::<Path, _>((Bound::Excluded(directory), Bound::Unbounded)).next();
            first.is_some_and(|path| path.starts_with(directory))
        })
    }

    /// Whether there are records that name content of `repository`, or there will be before what is staged gets its
    /// names.
    pub(crate) fn names_content(&self, repository: &Repository) -> bool {
        [MEMBERS, TAGS, SYNTHESIZED].iter().any(|marker| {
            let directory = self.marked(repository, marker);
            directory.is_dir() || self.is_any_written_earlier(&directory)
        })
    }

    /// Writes a small file so that after a crash it is either complete or as it was.
    pub(crate) fn write_small(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        match &self.staged {
            // A file without content has its name alone.
            Some(staged) => self.stage(staged, path, content, !content.is_empty()),
            None => self.write(path, content, write_and_publish),
        }
    }

    /// Writes a small file that can be made again: complete for every process, but a power cut may take it or parts of
    /// it. Its reader must find that out. Costs no sync.
    pub(crate) fn write_derived(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        if let Some(staged) = &self.staged {
            return self.stage(staged, path, content, false);
        }
        self.write(path, content, |temporary, path, content| {
            let mut file = create(temporary)?;
            file.write_all(content).map_err(Error::io("write", temporary))?;
            failpoints::reached("derived file written");
            rename(temporary, path)
        })
    }

    /// As [`Layout::write_small`], for a file that is written piece by piece; not if `fill` returns `false`, which this
    /// returns too.
    pub(crate) fn write_stream(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<bool>,
    ) -> Result<bool, Error> {
        let mut is_whole = false;
        self.write(path, &[], |temporary, path, _| {
            is_whole = fill_and_publish(temporary, path, fill)?;
            Ok(())
        })?;
        Ok(is_whole)
    }

    /// Writes a file that gets its name later. `is_synced` says whether its bytes have to be durable by then.
    fn stage(
        &self,
        staged: &Mutex<Staged>,
        path: &Path,
        content: &[u8],
        is_synced: bool,
    ) -> Result<(), Error> {
        self.write(path, content, |temporary, path, content| {
            let mut file = create(temporary)?;
            failpoints::reached("staged file created");
            file.write_all(content).map_err(Error::io("write", temporary))?;
            failpoints::reached("staged file written");
            let bytes = is_synced.then(|| Arc::new(file));
            staged.lock().files.push(StagedFile::new(temporary.to_owned(), path.to_owned(), bytes));
            Ok(())
        })
    }

    fn write(
        &self,
        path: &Path,
        content: &[u8],
        write: impl FnOnce(&Path, &Path, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _change = self.change()?;
        self.leftovers.retry();
        let temporary = self.temporary("small");
        let directory = path.parent().map_or(Ok(()), |parent| self.make_directory(parent));
        self.make_way(path);
        let written = directory.and_then(|()| write(&temporary, path, content));
        if written.is_err() {
            self.leftovers.remove(&temporary);
        }
        written
    }

    /// Gives a finished, synced file its final name, which is durable after [`sync_name`]. A directory that has the
    /// name is moved to quarantine: no daemon makes one there.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.make_way(to);
        rename_at_failpoints(from, to)
    }

    /// Removes a file of the tree; `false` if there was none. The removal may be undone by a power cut.
    pub(crate) fn remove(&self, path: &Path) -> Result<bool, Error> {
        let _change = self.change()?;
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("remove", path)(e)),
        }
    }

    /// Tries again to remove files of `ingest/` that the disk did not remove. Cheap if there are none.
    pub(crate) fn remove_leftovers(&self) {
        if let Ok(_change) = self.change() {
            self.leftovers.retry();
        }
    }

    /// As [`Layout::remove`], and no power cut brings the file back.
    pub(crate) fn remove_durably(&self, path: &Path) -> Result<bool, Error> {
        let _change = self.change()?;
        let existed = self.remove(path)?;
        if existed {
            failpoints::reached("removed");
            path.parent().map_or(Ok(()), sync_directory)?;
            failpoints::reached("removal synced");
        }
        Ok(existed)
    }

    /// Makes a directory and its missing parents durably. Another thread may make them at the same time. A file that
    /// has the name is moved to quarantine.
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
    fn make_way(&self, to: &Path) {
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
