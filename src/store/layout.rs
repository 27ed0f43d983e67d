//! Where everything is on disk: the only file that builds paths, and the only one that publishes by rename.
//!
//! ```text
//! <store>/format                      version of this tree
//!         LOCK                        held while a daemon runs
//!         oci-layout, index.json      so that skopeo, crane and oras read the cache directly
//!         blobs/sha256/<hex>          committed, immutable
//!         checks/sha256/<hex>         one checksum per chunk of that blob
//!         refs/<registry>/_received/<hex>            this registry itself sent these bytes
//!         refs/<registry>/_outage                    since when it cannot be asked
//!         refs/<registry>/<repository>/_tags/<tag>   what a tag last meant
//!         refs/<registry>/<repository>/_members/<hex>  what this repository may hand out
//!         refs/<registry>/<repository>/_pins/<hex>     images of which nothing is evicted
//!         refs/<registry>/<repository>/_absent/<tag>   upstream has no such name; another form answers for it
//!         refs/<registry>/<repository>/_composed/<hex>  an index made of such forms
//!         refs/<registry>/<repository>/_grants/<principal>     whom upstream let read this repository, and when
//!         ingest/                     being written; emptied at start
//!         quarantine/                 what failed a check, with the reason
//!         index/                      sled: sizes, last use. Derived
//! ```
//! No component of a repository begins with an underscore, so the marker directories cannot be mistaken for one.
//! Paths are built from parsed types alone; nothing that a stranger sent can leave the tree.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::error::Error;
use super::failpoints;
use crate::reference::{Digest, Principal, Registry, Repository, Tag};
use crate::support::clock::Timestamp;

/// Written to `format`; a store with another one is refused, never converted silently.
pub(super) const FORMAT: &str = "larder store 1\n";
/// The directory of a repository's grants.
pub(super) const GRANTS: &str = "_grants";
/// The directory of a repository's tags.
pub(super) const TAGS: &str = "_tags";
/// The directory of a repository's pins.
pub(super) const PINS: &str = "_pins";
/// The directory of what a repository may hand out.
pub(super) const MEMBERS: &str = "_members";
/// The directory of names that upstream does not have.
pub(super) const ABSENT: &str = "_absent";
/// The directory of indexes composed for a repository.
pub(super) const COMPOSED: &str = "_composed";
/// Bytes at most of a small file (a tag, a membership); ours have about a hundred.
const SMALL_MAX: u64 = 64 * 1024;

/// The tree under one root.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(super) fn oci_layout(&self) -> PathBuf {
        self.root.join("oci-layout")
    }

    pub(super) fn index_json(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn checks_of(&self, digest: &Digest) -> PathBuf {
        self.checks().join(digest.hex())
    }

    pub(super) fn checks(&self) -> PathBuf {
        self.root.join("checks/sha256")
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    fn repository(&self, repository: &Repository) -> PathBuf {
        self.refs().join(repository.registry().as_str()).join(repository.path().as_str())
    }

    pub(super) fn tag(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.tags(repository).join(tag.as_str())
    }

    /// The directory `marker` of a repository.
    pub(super) fn marked(&self, repository: &Repository, marker: &str) -> PathBuf {
        self.repository(repository).join(marker)
    }

    pub(super) fn tags(&self, repository: &Repository) -> PathBuf {
        self.marked(repository, TAGS)
    }

    pub(super) fn pins(&self, repository: &Repository) -> PathBuf {
        self.marked(repository, PINS)
    }

    pub(super) fn pin(&self, repository: &Repository, name: &Digest) -> PathBuf {
        self.pins(repository).join(name.hex())
    }

    pub(super) fn member(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.marked(repository, MEMBERS).join(digest.hex())
    }

    pub(super) fn absent(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.marked(repository, ABSENT).join(tag.as_str())
    }

    pub(super) fn composed(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.marked(repository, COMPOSED).join(digest.hex())
    }

    pub(super) fn grants(&self, repository: &Repository) -> PathBuf {
        self.marked(repository, GRANTS)
    }

    pub(super) fn grant(&self, repository: &Repository, principal: &Principal) -> PathBuf {
        self.grants(repository).join(principal.to_string())
    }

    pub(super) fn received(&self, registry: &Registry, digest: &Digest) -> PathBuf {
        self.received_of(registry).join(digest.hex())
    }

    pub(super) fn received_of(&self, registry: &Registry) -> PathBuf {
        self.refs().join(registry.as_str()).join("_received")
    }

    pub(super) fn outage(&self, registry: &Registry) -> PathBuf {
        self.refs().join(registry.as_str()).join("_outage")
    }

    pub(super) fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// A new name in `ingest/`.
    pub(super) fn temporary(&self, stem: &str) -> PathBuf {
        self.ingest().join(format!("{stem}.{:016x}", fastrand::u64(..)))
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Writes a small file so that after a crash it is either whole or as it was.
    pub(super) fn write_small(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let temporary = self.temporary("small");
        let written = self.write_and_publish(&temporary, path, content);
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn write_and_publish(&self, temporary: &Path, path: &Path, content: &[u8]) -> Result<(), Error> {
        let mut file = create(temporary)?;
        failpoints::reached("small file created");
        file.write_all(content).map_err(Error::io("write", temporary))?;
        failpoints::reached("small file written");
        file.sync_data().map_err(Error::io("sync", temporary))?;
        failpoints::reached("small file synced");
        if let Some(parent) = path.parent() {
            self.make_directory(parent)?;
        }
        publish(temporary, path)
    }

    /// Makes a directory and its missing parents durably. Someone else making them at the same time is fine.
    pub(super) fn make_directory(&self, directory: &Path) -> Result<(), Error> {
        if directory.is_dir() {
            return Ok(());
        }
        if let Some(parent) = directory.parent().filter(|_| directory != self.root) {
            self.make_directory(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {
                failpoints::reached("directory made");
                directory.parent().map_or(Ok(()), sync_directory)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
            Err(e) => Err(Error::io("make directory", directory)(e)),
        }
    }
}

/// Creates a file that must not exist yet, readable by its owner only.
pub(super) fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create", path))
}

/// Moves a finished, synced file to its final name and makes the name durable.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that renames, with the directory's sync beside it"
)]
pub(super) fn publish(from: &Path, to: &Path) -> Result<(), Error> {
    failpoints::reached("before a name");
    fs::rename(from, to).map_err(Error::io("publish", to))?;
    failpoints::reached("name given");
    to.parent().map_or(Ok(()), sync_directory)?;
    failpoints::reached("name synced");
    Ok(())
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|f| f.sync_all()).map_err(Error::io("sync directory", directory))
}

/// Opens a regular file for reading: no symlink is followed and no FIFO waited for. `None` if there is none.
///
/// # Errors
/// Anything else under that name is an error of kind `InvalidData`.
pub(super) fn open_regular(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    #[allow(clippy::cast_possible_wrap, reason = "open(2) flags are a C int")]
    let file = match OpenOptions::new().read(true).custom_flags(flags as i32).open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is a symbolic link"));
        }
        Err(e) => return Err(e),
    };
    if file.metadata()?.is_file() {
        Ok(Some(file))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "is not a regular file"))
    }
}

/// Dates a record that was of use, if it is there; whether it is. Nothing waits for the disk to have it.
pub(super) fn renew(path: &Path, now: Timestamp) -> bool {
    let Ok(Some(file)) = open_regular(path) else { return false };
    // On a filesystem that takes no writes it is as good as before.
    let _ = file.set_modified(now.to_system_time());
    true
}

/// The content of a small file; `None` if there is none.
pub(super) fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open_regular(path)? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    file.take(SMALL_MAX).read_to_end(&mut content)?;
    Ok(Some(content))
}
