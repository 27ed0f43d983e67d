//! The directory tree of the store: the only file that builds its paths.
//!
//! ```text
//! <store>/format                      version of this tree
//!         LOCK                        locked while a daemon runs
//!         oci-layout, index.json      for skopeo, crane and oras, which read the store directly
//!         blobs/<algorithm>/<hex>     committed, immutable; the algorithm is sha256 or sha512
//!         checks/<algorithm>/<hex>    one checksum per chunk of that blob
//!         refs/<registry>/_received/<hex>              this registry itself sent these bytes
//!         refs/<registry>/_outage                      when it became unreachable
//!         refs/_closed                                 when the operator revoked the rights to all repositories
//!         refs/<registry>/<repository>/_closed         when everyone's right to the repository ended
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

pub(super) mod files;
pub(super) mod staged;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub(super) use files::{create, open_regular, publish, publish_new, read_small, refresh, sync_directory};
use files::{fill_and_publish, rename, rename_at_failpoints, write_and_publish};

use crate::reference::{Algorithm, Digest, Principal, Registry, Repository, Tag};
use crate::store::changes::{Change, Changes};
use crate::store::error::Error;
use crate::store::failpoints;
use crate::store::leftovers::Leftovers;
use crate::store::sync_pace::SyncPace;
use crate::store::unsynced::Unsynced;
use staged::{Earlier, Staged, StagedFile};

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

/// The tree under one root. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: Arc<Path>,
    changes: Changes,
    leftovers: Leftovers,
    sync_pace: SyncPace,
    unsynced: Unsynced,
    /// Where small files go that get their names later, together with others.
    staged: Option<Arc<Mutex<Staged>>>,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            changes: Changes::default(),
            leftovers: Leftovers::default(),
            sync_pace: SyncPace::default(),
            unsynced: Unsynced::new(&root.join("blobs")),
            staged: None,
        }
    }

    /// How long the syncs of this tree take.
    pub(super) fn sync_pace(&self) -> &SyncPace {
        &self.sync_pace
    }

    /// Directories of content in which a power cut may take names.
    pub(super) fn unsynced(&self) -> &Unsynced {
        &self.unsynced
    }

    /// This tree, with small files and directories staged: they are written and made, and durable, and the files under their
    /// names, when what was staged is published (`batch`), after what is written `earlier`.
    pub(super) fn staging(&self, earlier: Earlier) -> (Self, Arc<Mutex<Staged>>) {
        let staged = Arc::new(Mutex::new(Staged { earlier, ..Staged::default() }));
        (Self { staged: Some(Arc::clone(&staged)), ..self.clone() }, staged)
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

    /// The mark that the rights to all repositories were revoked.
    pub(super) fn all_closed(&self) -> PathBuf {
        self.refs().join("_closed")
    }

    /// The mark that everyone's right to a repository ended.
    pub(super) fn closed(&self, repository: &Repository) -> PathBuf {
        self.marked(repository, "_closed")
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

    /// Gives a finished file of `ingest/` its name, and makes its bytes durable before, when what is staged is published.
    pub(super) fn name_later(&self, temporary: PathBuf, path: PathBuf, bytes: Arc<File>) {
        if let Some(staged) = &self.staged {
            staged.lock().files.push(StagedFile::new(temporary, path, Some(bytes)));
        }
    }

    /// What is staged is published only if there is a file at `path` by then.
    pub(super) fn names(&self, path: PathBuf) {
        if let Some(staged) = &self.staged {
            staged.lock().names = Some(path);
        }
    }

    /// Whether a file gets the name `path` before what is staged does: what is there now will not be there then.
    pub(super) fn is_written_earlier(&self, path: &Path) -> bool {
        self.staged.as_ref().is_some_and(|staged| staged.lock().earlier.lock().contains(path))
    }

    /// Writes a small file so that after a crash it is either complete or as it was.
    pub(super) fn write_small(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        match &self.staged {
            // A file without content has its name alone.
            Some(staged) => self.stage(staged, path, content, !content.is_empty()),
            None => self.write(path, content, write_and_publish),
        }
    }

    /// Writes a small file that can be made again: complete for every process, but a power cut may take it or parts of it.
    /// Its reader must find that out. Costs no sync.
    pub(super) fn write_derived(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
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
    pub(super) fn write_stream(
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

    /// Gives a finished, synced file its final name, which is durable after [`sync_name`]. A directory that has the name
    /// is moved to quarantine: no daemon makes one there.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.make_way(to);
        rename_at_failpoints(from, to)
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
