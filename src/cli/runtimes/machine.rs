//! The files of a machine: of this one, or of an image of one below a directory.
//!
//! Promises: no path leaves that directory, whatever links are in it: an absolute link is one of the image, as it will
//! be on the machine (`openat2` with `RESOLVE_IN_ROOT`). A file that is replaced is either as it was or whole, and
//! keeps its owner and its permissions.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, fsync, mkdirat, openat,
    openat2, readlinkat, renameat, unlinkat,
};
use rustix::io::Errno;

use crate::support::open_file::{self, FILE_BYTES_MAX};

/// Links that are followed one after the other, as the kernel does.
const LINKS_MAX: usize = 40;
/// Names of a directory at most: one for each registry.
const NAMES_MAX: usize = 10_000;

/// The machine whose filesystem has its root there.
pub(in crate::cli) struct Machine {
    root: PathBuf,
}

/// Whose a file is, and who may do what with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Attributes {
    /// Its permissions: `0o644`.
    pub(in crate::cli) mode: u32,
    /// User and group; `None` for a file that is made, which is its maker's.
    pub(in crate::cli) owner: Option<(u32, u32)>,
}

/// A file or directory that is there and cannot be read, so that nothing is known of what is in it.
#[derive(Debug)]
pub(in crate::cli) struct Unreadable {
    path: String,
    error: io::Error,
}

impl Unreadable {
    /// Whether another user may read it.
    pub(in crate::cli) fn is_denied(&self) -> bool {
        self.error.kind() == io::ErrorKind::PermissionDenied
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: {}", self.path, self.error)
    }
}

impl From<Unreadable> for String {
    fn from(unreadable: Unreadable) -> Self {
        unreadable.to_string()
    }
}

impl Machine {
    pub(in crate::cli) fn under(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether it is this machine, and not an image of one.
    pub(in crate::cli) fn is_this_one(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A path of the machine as it is named here, for people.
    pub(in crate::cli) fn shown(&self, path: &str) -> String {
        self.root.join(path.trim_start_matches('/')).display().to_string()
    }

    /// A file as text.
    ///
    /// # Errors
    /// There is none, or it cannot be read, or it is no text.
    pub(in crate::cli) fn text(&self, path: &str) -> io::Result<String> {
        let file = File::from(self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        open_file::text(open_file::read_at_most(file, FILE_BYTES_MAX)?)
    }

    /// A file as text; empty if there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(in crate::cli) fn text_or_empty(&self, path: &str) -> Result<String, Unreadable> {
        match self.text(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Unreadable { path: self.shown(path), error })
            }
            text => Ok(text.unwrap_or_default()),
        }
    }

    /// A file as text; empty if there is none that can be read.
    pub(in crate::cli) fn read(&self, path: &str) -> String {
        self.text(path).unwrap_or_default()
    }

    /// Whether there is a file or directory.
    pub(in crate::cli) fn has(&self, path: &str) -> bool {
        self.open(path, OFlags::PATH).is_ok()
    }

    /// Whether there is a directory.
    pub(in crate::cli) fn has_directory(&self, path: &str) -> bool {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// The names in a directory, sorted; none if there is no directory that can be read.
    pub(in crate::cli) fn names(&self, directory: &str) -> Vec<String> {
        self.names_or_empty(directory).unwrap_or_default()
    }

    /// The names in a directory, sorted; none if there is no directory.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(in crate::cli) fn names_or_empty(&self, directory: &str) -> Result<Vec<String>, Unreadable> {
        let opened = self.open(directory, OFlags::RDONLY | OFlags::DIRECTORY);
        let entries = match opened.and_then(|opened| Ok(Dir::read_from(opened)?)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Unreadable { path: self.shown(directory), error }),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        let mut names: Vec<String> =
            names.filter(|name| name != "." && name != "..").take(NAMES_MAX).collect();
        names.sort();
        Ok(names)
    }

    /// The path that a path leads to once the links at its end are followed.
    ///
    /// # Errors
    /// Links that lead to each other.
    pub(in crate::cli) fn target(&self, path: &str) -> io::Result<String> {
        let mut at = path.to_owned();
        for _ in 0..LINKS_MAX {
            let (directory, name) = split(&at);
            let Ok(opened) = self.open(directory, OFlags::PATH | OFlags::DIRECTORY) else { return Ok(at) };
            let Ok(link) = readlinkat(&opened, name, Vec::new()) else { return Ok(at) };
            let link = link.into_string().map_err(|_| io::Error::other("a link that is no text"))?;
            at = if link.starts_with('/') { link } else { format!("{directory}/{link}") };
        }
        Err(Errno::LOOP.into())
    }

    /// Whose a file is; `None` where there is none.
    pub(in crate::cli) fn attributes(&self, path: &str) -> Option<Attributes> {
        let found = fstat(self.open(path, OFlags::PATH).ok()?).ok()?;
        Some(Attributes { mode: found.st_mode & 0o7777, owner: Some((found.st_uid, found.st_gid)) })
    }

    /// Writes a file that is no link, with the directories that lead to it.
    ///
    /// # Errors
    /// The disk; an owner that cannot be kept.
    pub(in crate::cli) fn replace(&self, path: &str, text: &str, attributes: Attributes) -> io::Result<()> {
        let (directory, name) = split(path);
        let directory = self.made(directory)?;
        let temporary = format!(".{name}.larder-{:08x}", fastrand::u32(..));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(attributes.mode);
        let written = (|| {
            let file = openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
            if let Some((user, group)) = attributes.owner {
                let now = fstat(&file)?;
                if (now.st_uid, now.st_gid) != (user, group) {
                    fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
                }
            }
            fchmod(&file, mode)?;
            let mut file = File::from(file);
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            renameat(&directory, &temporary, &directory, name)?;
            Ok(())
        })();
        if written.is_err() {
            let _ = unlinkat(&directory, &temporary, AtFlags::empty());
            return written;
        }
        // What does not support it (some network filesystems) has written the file nevertheless.
        let _ = fsync(&directory);
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// There is none, or it cannot be removed.
    pub(in crate::cli) fn remove(&self, path: &str) -> io::Result<()> {
        let (directory, name) = split(path);
        let opened = self.open(directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(unlinkat(&opened, name, AtFlags::empty())?)
    }

    /// Removes as many of the directories that lead to `path` as are empty, the last first.
    pub(in crate::cli) fn remove_directories_above(&self, path: &str, at_most: usize) {
        let (mut directory, _) = split(path);
        for _ in 0..at_most {
            let (above, name) = split(directory);
            let Ok(opened) = self.open(above, OFlags::RDONLY | OFlags::DIRECTORY) else { return };
            if unlinkat(&opened, name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
            directory = above;
        }
    }

    /// Opens a directory, and makes it and those above it where they are missing.
    fn made(&self, directory: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = String::from("/");
        let mut opened = self.open("/", flags)?;
        for name in directory.split('/').filter(|name| !name.is_empty()) {
            at = format!("{}/{name}", at.trim_end_matches('/'));
            opened = match self.open(&at, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    mkdirat(&opened, name, Mode::from_raw_mode(0o755))?;
                    self.open(&at, flags)?
                }
                other => other?,
            };
        }
        Ok(opened)
    }

    fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let root =
            openat(CWD, &self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let inside = format!("./{}", path.trim_start_matches('/'));
        match openat2(&root, inside.as_str(), flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            // A kernel before 5.6, or a sandbox that does not know the call. Below `/` nothing can be left.
            Err(Errno::NOSYS | Errno::PERM) if self.is_this_one() => {
                Ok(openat(&root, inside.as_str(), flags, Mode::empty())?)
            }
            opened => Ok(opened?),
        }
    }
}

/// The directory of a path, and its last name.
fn split(path: &str) -> (&str, &str) {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(found) => found,
        None => ("/", path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const MODE: Attributes = Attributes { mode: 0o640, owner: None };

    #[test]
    fn no_link_of_an_image_leads_to_a_file_of_the_host() {
        let (outside, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| image.path().join(name);
        fs::write(outside.path().join("secret"), "the host's").unwrap();
        fs::create_dir_all(at("etc")).unwrap();
        let up = format!("{}{}", "../".repeat(20), outside.path().display());
        symlink(outside.path(), at("etc/absolute")).unwrap();
        symlink(&up, at("etc/upwards")).unwrap();
        symlink(outside.path().join("secret"), at("etc/file")).unwrap();
        let machine = Machine::under(image.path());
        for path in ["/etc/absolute/secret", "/etc/upwards/secret", "/etc/file", "/../../etc/file"] {
            assert!(machine.text(path).is_err(), "{path}");
            assert!(!machine.has(path), "{path}");
        }
        for path in ["/etc/absolute/new", "/etc/upwards/new", "/etc/file"] {
            let target = machine.target(path).unwrap();
            let _ = machine.replace(&target, "ours", MODE);
            let _ = machine.remove(&target);
        }
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "the host's");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "nothing was made there");
    }

    #[test]
    fn a_link_within_the_image_is_followed_as_on_the_machine_itself() {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("usr/etc")).unwrap();
        fs::create_dir(image.path().join("etc")).unwrap();
        fs::write(image.path().join("usr/etc/x.toml"), "a = 1\n").unwrap();
        symlink("/usr/etc/x.toml", image.path().join("etc/x.toml")).unwrap();
        let machine = Machine::under(image.path());
        assert_eq!(machine.read("/etc/x.toml"), "a = 1\n");
        let target = machine.target("/etc/x.toml").unwrap();
        assert_eq!(target, "/usr/etc/x.toml");
        machine.replace(&target, "a = 2\n", MODE).unwrap();
        assert!(image.path().join("etc/x.toml").is_symlink());
        assert_eq!(fs::read_to_string(image.path().join("usr/etc/x.toml")).unwrap(), "a = 2\n");
        symlink("loop", image.path().join("etc/loop")).unwrap();
        assert!(machine.target("/etc/loop").is_err());
    }

    #[test]
    fn a_file_keeps_its_owner_and_its_permissions() {
        let image = tempfile::tempdir().unwrap();
        let file = image.path().join("etc/x");
        fs::create_dir(image.path().join("etc")).unwrap();
        fs::write(&file, "one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
        }
        let machine = Machine::under(image.path());
        let before = machine.attributes("/etc/x").unwrap();
        machine.replace("/etc/x", "two", before).unwrap();
        assert_eq!(machine.attributes("/etc/x"), Some(before));
        assert_eq!((before.mode, !root || before.owner == Some((1234, 4321))), (0o640, true));
        assert_eq!(machine.names("/etc"), ["x"], "nothing is left beside it");
        machine.replace("/new/deep/y", "", MODE).unwrap();
        machine.remove("/new/deep/y").unwrap();
        assert!(machine.has_directory("/new/deep"), "whose directory it is says the caller");
        machine.remove_directories_above("/new/deep/y", 1);
        assert!(machine.has_directory("/new") && !machine.has("/new/deep"));
    }
}
