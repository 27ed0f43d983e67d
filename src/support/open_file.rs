//! Opens files that others may have put where they are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

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
}
