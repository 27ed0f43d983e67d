//! The directory tree of the store: the only file that builds its paths, and the only one that publishes by rename.
//!
//! ```text
//! <store>/format                      version of this tree
//!         LOCK                        locked while a daemon runs
//!         oci-layout, index.json      for skopeo, crane and oras, which read the store directly
//!         blobs/<algorithm>/<hex>     committed, immutable; the algorithm is sha256 or sha512
//!         checks/<algorithm>/<hex>    one checksum per chunk of that blob
//!         refs/<registry>/_received/<hex>              this registry itself sent these bytes
//!         refs/<registry>/_outage                      when it became unreachable
//!         refs/<registry>/<repository>/_tags/<tag>     the digest that the tag last had
//!         refs/<registry>/<repository>/_members/<hex>  a digest that this repository may serve
//!         refs/<registry>/<repository>/_pins/<hex>     an image of which nothing is evicted
//!         refs/<registry>/<repository>/_absent/<tag>   upstream has no such tag; an arch alias answers for it
//!         refs/<registry>/<repository>/_composed/<hex> an index synthesized from arch aliases
//!         refs/<registry>/<repository>/_grants/<principal>  upstream let this principal read the repository, and when
//!         ingest/                     being written; emptied at start
//!         quarantine/                 blobs that failed a check, each with the reason
//!         index/                      sled: sizes, last access. Derived
//! ```
//! No component of a repository's name begins with an underscore, so none can be mistaken for a marker directory. Paths
//! are built from parsed types alone; the hex digits of a digest tell its algorithm by their number: no name that a client or a registry sends leads out of the tree.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::reference::{Algorithm, Digest, Principal, Registry, Repository, Tag};
use crate::store::changes::{Change, Changes};
use crate::store::error::Error;
use crate::store::failpoints;
use crate::store::leftovers::Leftovers;
use crate::support::clock::Timestamp;

/// Content of `format`; a store with another content is refused.
pub(super) const FORMAT: &str = "larder store 2\n";
/// Content of `format` before there were blobs by SHA-512; such a store is one of this version without any, and becomes one
/// when a daemon opens it.
pub(super) const FORMAT_WITHOUT_SHA512: &str = "larder store 1\n";
/// The directory of a repository's grants.
pub(super) const GRANTS: &str = "_grants";
/// The directory of a repository's tags.
pub(super) const TAGS: &str = "_tags";
/// The directory of a repository's pins.
pub(super) const PINS: &str = "_pins";
/// The directory of the digests that a repository may serve.
pub(super) const MEMBERS: &str = "_members";
/// The directory of the tags that upstream does not have.
pub(super) const ABSENT: &str = "_absent";
/// The directory of the indexes synthesized for a repository.
pub(super) const SYNTHESIZED: &str = "_composed";
/// Bytes read of a small file (a tag, a membership). A pin, the largest of them, has 60 KiB at most.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// The tree under one root. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: Arc<Path>,
    changes: Changes,
    leftovers: Leftovers,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into(), changes: Changes::default(), leftovers: Leftovers::default() }
    }

    /// Begins a change of the tree, which this and its clones may make until [`Layout::end_changes`].
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(super) fn change(&self) -> Result<Change<'_>, Error> {
        self.changes.begin()
    }

    /// Refuses further changes by this and its clones. Blocks until those under way have ended.
    pub(super) fn end_changes(&self) {
        self.changes.end();
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

    pub(super) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    pub(super) fn checks(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("checks").join(algorithm.name())
    }

    pub(super) fn checks_of(&self, digest: &Digest) -> PathBuf {
        self.checks(digest.algorithm()).join(digest.hex())
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    pub(super) fn received_from(&self, registry: &Registry) -> PathBuf {
        self.refs().join(registry.as_str()).join("_received")
    }

    pub(super) fn received(&self, registry: &Registry, digest: &Digest) -> PathBuf {
        self.received_from(registry).join(digest.hex())
    }

    pub(super) fn outage(&self, registry: &Registry) -> PathBuf {
        self.refs().join(registry.as_str()).join("_outage")
    }

    /// The directory `marker` of a repository.
    pub(super) fn marked(&self, repository: &Repository, marker: &str) -> PathBuf {
        let registry = self.refs().join(repository.registry().as_str());
        registry.join(repository.path().as_str()).join(marker)
    }

    pub(super) fn tags(&self, repository: &Repository) -> PathBuf {
        self.marked(repository, TAGS)
    }

    pub(super) fn tag(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.tags(repository).join(tag.as_str())
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

    pub(super) fn synthesized(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.marked(repository, SYNTHESIZED).join(digest.hex())
    }

    pub(super) fn grants(&self, repository: &Repository) -> PathBuf {
        self.marked(repository, GRANTS)
    }

    pub(super) fn grant(&self, repository: &Repository, principal: &Principal) -> PathBuf {
        self.grants(repository).join(principal.to_string())
    }

    pub(super) fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// Removes a file in `ingest/` that is of no use any more; later, if the disk does not remove it now.
    pub(super) fn remove_temporary(&self, path: &Path) {
        self.leftovers.remove(path);
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

    /// Writes a small file so that after a crash it is either complete or as it was.
    pub(super) fn write_small(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        self.write(path, content, write_and_publish)
    }

    /// Writes a small file that can be made again: complete for every process, but a power cut may take it or parts of it.
    /// Its reader must find that out. Costs no sync.
    pub(super) fn write_derived(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        self.write(path, content, |temporary, path, content| {
            let mut file = create(temporary)?;
            file.write_all(content).map_err(Error::io("write", temporary))?;
            failpoints::reached("derived file written");
            rename(temporary, path)
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

    /// Gives a finished, synced file its final name, which is durable after [`sync_name`]. A directory that has the name
    /// is moved to quarantine: no daemon makes one there.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.make_way(to);
        rename_at_failpoints(from, to)
    }

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

    /// Removes a file of the tree; `false` if there was none. The removal may be undone by a power cut.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, Error> {
        let _change = self.change()?;
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("remove", path)(e)),
        }
    }

    /// As [`Layout::remove`], and no power cut brings the file back.
    pub(super) fn remove_durably(&self, path: &Path) -> Result<bool, Error> {
        let _change = self.change()?;
        let existed = self.remove(path)?;
        if existed {
            failpoints::reached("removed");
            path.parent().map_or(Ok(()), sync_directory)?;
            failpoints::reached("removal synced");
        }
        Ok(existed)
    }

    /// Makes a directory and its missing parents durably. Another thread may make them at the same time. A file that has
    /// the name is moved to quarantine.
    pub(super) fn make_directory(&self, directory: &Path) -> Result<(), Error> {
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

/// Writes a file, makes it durable and gives it its name.
fn write_and_publish(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), Error> {
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

/// Moves a finished, synced file to its final name and makes the name durable.
pub(super) fn publish(from: &Path, to: &Path) -> Result<(), Error> {
    rename_at_failpoints(from, to)?;
    sync_name(to)
}

fn rename_at_failpoints(from: &Path, to: &Path) -> Result<(), Error> {
    failpoints::reached("before the rename");
    rename(from, to)?;
    failpoints::reached("renamed");
    Ok(())
}

/// Makes the name of a file durable.
pub(super) fn sync_name(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), sync_directory)?;
    failpoints::reached("rename synced");
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one place that renames; what has to be durable is published"
)]
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("publish", to))
}

/// As [`publish`], unless the name is taken.
pub(super) fn publish_new(from: &Path, to: &Path) -> Result<(), Error> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let renamed = renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    renamed.map_err(|error| Error::io("publish", to)(error.into()))?;
    to.parent().map_or(Ok(()), sync_directory)
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|f| f.sync_all()).map_err(Error::io("sync directory", directory))
}

/// Opens a regular file for reading: follows no symlink and waits for no FIFO. `None` if there is no file.
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

/// Sets the modification time of a record that was used again; `false` if there is no such record. Not synced: the
/// time is only used to expire records, and a lost one expires its record early at worst.
pub(super) fn refresh(path: &Path, now: Timestamp) -> bool {
    let Ok(Some(file)) = open_regular(path) else { return false };
    // A filesystem that takes no writes keeps the old time, and expires nothing either.
    let _ = file.set_modified(now.to_system_time());
    true
}

/// The content of a small file; `None` if there is none.
pub(super) fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open_regular(path)? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    file.take(SMALL_BYTES_MAX).read_to_end(&mut content)?;
    Ok(Some(content))
}
