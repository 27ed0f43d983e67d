//! Files and directories as the store makes them: created once, given a name by rename, made durable by syncs, and
//! opened without following what another program may have put there. The only place that renames.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};

use crate::store::disk::failpoints;
use crate::store::error::Error;
use crate::support::clock::Timestamp;
use crate::support::open_file::{Links, open_at_once, open_at_once_in};

/// Bytes read of a small file (a tag, a membership). A pin, the largest of them, has 60 KiB at most.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// Creates a file that must not exist yet, readable by its owner only.
pub(crate) fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create", path))
}

/// Writes a file, makes it durable and gives it its name.
pub(crate) fn write_and_publish(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = create(temporary)?;
    failpoints::reached("small file created");
    // A file without content has its name alone, which the directory's sync makes durable.
    if !content.is_empty() {
        file.write_all(content).map_err(Error::io("write", temporary))?;
        failpoints::reached("small file written");
        file.sync_data().map_err(Error::io("sync", temporary))?;
        failpoints::reached("small file synced");
    }
    publish(temporary, path)
}

/// As [`write_and_publish`], for a file that `fill` writes; removes it if that returns `false`, which this returns too.
pub(crate) fn fill_and_publish(
    temporary: &Path,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<bool>,
) -> Result<bool, Error> {
    let failed = |error| Error::io("write", temporary)(error);
    let mut out = BufWriter::new(create(temporary)?);
    failpoints::reached("file created");
    if !fill(&mut out).map_err(failed)? {
        fs::remove_file(temporary).map_err(failed)?;
        return Ok(false);
    }
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_data().map_err(Error::io("sync", temporary))?;
    failpoints::reached("file synced");
    publish(temporary, path)?;
    Ok(true)
}

/// Moves a finished, synced file to its final name and makes the name durable.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), Error> {
    rename_at_failpoints(from, to)?;
    sync_name(to)
}

pub(crate) fn rename_at_failpoints(from: &Path, to: &Path) -> Result<(), Error> {
    failpoints::reached("before the rename");
    rename(from, to)?;
    failpoints::reached("renamed");
    Ok(())
}

/// Makes the name of a file durable.
pub(crate) fn sync_name(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), sync_directory)?;
    failpoints::reached("rename synced");
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one place that renames; what has to be durable is published"
)]
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("publish", to))
}

/// As [`publish`], unless the name is taken.
pub(crate) fn publish_new(from: &Path, to: &Path) -> Result<(), Error> {
    use rustix::fs::{RenameFlags, renameat_with};
    let renamed = renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    renamed.map_err(|error| Error::io("publish", to)(error.into()))?;
    to.parent().map_or(Ok(()), sync_directory)
}

pub(crate) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|f| f.sync_all()).map_err(Error::io("sync directory", directory))
}

/// Opens a regular file for reading: follows no symlink and waits for no FIFO. `None` if there is no file.
///
/// # Errors
/// Anything else under that name is an error of kind `InvalidData`.
pub(crate) fn open_regular(path: &Path) -> io::Result<Option<File>> {
    Ok(open_sized(path)?.map(|(file, _)| file))
}

/// As [`open_regular`], with the bytes that the file has.
///
/// # Errors
/// As [`open_regular`].
pub(crate) fn open_sized(path: &Path) -> io::Result<Option<(File, u64)>> {
    sized(open_at_once(path, Links::Refused))
}

/// A directory that is open, whose files are opened by their names: without a walk along the path for each.
#[derive(Debug)]
pub(crate) struct Directory(File);

impl Directory {
    /// # Errors
    /// The disk; it is no directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?.into()))
    }

    /// As [`open_sized`].
    ///
    /// # Errors
    /// As [`open_sized`].
    pub(crate) fn open_sized(&self, name: &str) -> io::Result<Option<(File, u64)>> {
        sized(open_at_once_in(&self.0, name, Links::Refused))
    }

    /// The content of a small file, as [`read_small`].
    ///
    /// # Errors
    /// As [`read_small`].
    pub(crate) fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some((file, len)) = self.open_sized(name)? else { return Ok(None) };
        read_whole(&file, len, SMALL_BYTES_MAX).map(Some)
    }

    /// Bytes of the file of that name; `None` if there is none.
    pub(crate) fn len_of(&self, name: &str) -> Option<u64> {
        let found = statat(&self.0, name, AtFlags::empty()).ok()?;
        u64::try_from(found.st_size).ok()
    }
}

fn sized(opened: io::Result<File>) -> io::Result<Option<(File, u64)>> {
    let file = match opened {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is a symbolic link"));
        }
        Err(e) => return Err(e),
    };
    let found = file.metadata()?;
    if found.is_file() {
        Ok(Some((file, found.len())))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "is not a regular file"))
    }
}

/// The first `max` bytes of a file that had `len` bytes when it was opened: one call of the kernel for a small file,
/// whose end need not be looked for.
///
/// # Errors
/// The disk.
pub(crate) fn read_whole(mut file: &File, len: u64, max: u64) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(len.min(max)).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < content.len() {
        match file.read(&mut content[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    content.truncate(filled);
    Ok(content)
}

/// Sets the modification time of a record that was used again; `false` if there is no such record. Not synced: the
/// time is only used to expire records, and a lost one expires its record early at worst.
pub(crate) fn refresh(path: &Path, now: Timestamp) -> bool {
    let Ok(Some(file)) = open_regular(path) else { return false };
    // A filesystem that takes no writes keeps the old time, and expires nothing either.
    let _ = file.set_modified(now.to_system_time());
    true
}

/// The content of a small file; `None` if there is none.
pub(crate) fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some((file, len)) = open_sized(path)? else { return Ok(None) };
    read_whole(&file, len, SMALL_BYTES_MAX).map(Some)
}
