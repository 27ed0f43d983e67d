//! Opens and reads files that others may have put where they are: no pipe is waited for, no file is read without a
//! bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::size;

/// Bytes of a file that people write, at most: a configuration of a thousand registries fits a hundred times, and a
/// runtime's own configuration is a few kilobytes.
pub(crate) const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What is done at a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// It is followed: mounted secrets are links.
    Followed,
    /// It is refused with `ELOOP`, if it is the last part of the path.
    Refused,
}

impl Links {
    /// Without waiting for the other end of a pipe.
    fn flags(self) -> OFlags {
        match self {
            Self::Followed => OFlags::NONBLOCK,
            Self::Refused => OFlags::NONBLOCK | OFlags::NOFOLLOW,
        }
    }
}

/// Opens a file for reading. A pipe is not waited for: whether it is a regular file is for the caller to look at.
///
/// # Errors
/// The disk, or a link that is refused.
pub(crate) fn open_at_once(path: &Path, links: Links) -> io::Result<File> {
    #[cfg(test)]
    OPENED.set(OPENED.get() + 1);
    #[allow(clippy::cast_possible_wrap, reason = "open(2) flags are a C int")]
    OpenOptions::new().read(true).custom_flags(links.flags().bits() as i32).open(path)
}

/// As [`open_at_once`], by its name in a directory that is open: without a walk along the path for each file.
///
/// # Errors
/// As [`open_at_once`].
pub(crate) fn open_at_once_in(directory: &File, name: &str, links: Links) -> io::Result<File> {
    #[cfg(test)]
    OPENED.set(OPENED.get() + 1);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | links.flags();
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?.into())
}

/// The content of a regular file of at most `bytes_max` bytes; links are followed. `None`: what is there is a
/// directory, a pipe or a device.
///
/// # Errors
/// The disk, or a file that has more bytes.
pub(crate) fn read_regular(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = open_at_once(path, Links::Followed)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    read_at_most(file, bytes_max).map(Some)
}

/// What is left of `file`, at most `bytes_max` bytes. It may be a pipe.
///
/// # Errors
/// The disk, or a file that has more bytes.
pub(crate) fn read_at_most(file: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("larger than {}", size::shown(bytes_max))));
    }
    Ok(content)
}

/// What was read, as text.
///
/// # Errors
/// It is not UTF-8.
pub(crate) fn text(content: Vec<u8>) -> io::Result<String> {
    String::from_utf8(content).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}

#[cfg(test)]
thread_local! {
    static OPENED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many files this thread has opened so, for a test of what something costs.
#[cfg(test)]
pub(crate) fn opened_by_this_thread() -> usize {
    OPENED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_not_waited_for_and_a_link_is_followed_only_where_that_is_right() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), b"x").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        let inside = File::open(directory.path()).unwrap();
        let by_path = |name: &str, links| open_at_once(&at(name), links);
        let by_name = |name: &str, links| open_at_once_in(&inside, name, links);
        for open in [&by_path as &dyn Fn(&str, Links) -> io::Result<File>, &by_name] {
            for links in [Links::Followed, Links::Refused] {
                assert!(open("file", links).unwrap().metadata().unwrap().is_file());
                assert!(!open("pipe", links).unwrap().metadata().unwrap().is_file());
            }
            assert!(open("link", Links::Followed).is_ok());
            let refused = open("link", Links::Refused).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_an_error_and_never_cut() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), b"1234").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert_eq!(read_regular(&at("link"), 4).unwrap().unwrap(), b"1234");
        assert_eq!(read_regular(&at("file"), 3).unwrap_err().to_string(), "larger than 3 B");
        assert_eq!(read_regular(&at("pipe"), 4).unwrap(), None);
        assert_eq!(read_regular(directory.path(), 4).unwrap(), None);
        assert_eq!(read_regular(&at("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(text(vec![0xff]).is_err());
    }
}
