//! The directory tree of the store: the only file that builds its paths. Beside it is how the tree is written: small
//! files one by one (`writing`), in batches (`batch`) and after the answer (`write_behind`), as long as the store is
//! not closed (`changes`).
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
//! are built from parsed types alone; the hex digits of a digest tell its algorithm by their number: no name that a
//! client or a registry sends leads out of the tree.

pub(super) mod batch;
mod changes;
pub(super) mod files;
mod leftovers;
pub(super) mod staged;
mod unsynced;
pub(super) mod write_behind;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub(super) use files::{
    Directory, create, open_regular, open_sized, publish, publish_new, read_small, read_whole, refresh,
    sync_directory,
};

use crate::reference::{Algorithm, Digest, Principal, Registry, Repository, Tag};
use crate::store::disk::calls::DiskCalls;
use crate::store::disk::sync_pace::SyncPace;
use crate::store::error::Error;
use crate::store::layout::changes::{Change, Changes};
use crate::store::layout::leftovers::Leftovers;
use crate::store::layout::unsynced::Unsynced;
use staged::{Earlier, Staged};

/// Content of `format`; a store with another content is refused.
pub(super) const FORMAT: &str = "larder store 2\n";
/// Content of `format` before there were blobs by SHA-512; such a store is one of this version without any, and becomes
/// one when a daemon opens it.
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
    calls: DiskCalls,
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
            calls: DiskCalls::default(),
            leftovers: Leftovers::default(),
            sync_pace: SyncPace::default(),
            unsynced: Unsynced::new(&root.join("blobs")),
            staged: None,
        }
    }

    /// The calls that write content to this tree.
    pub(super) fn calls(&self) -> &DiskCalls {
        &self.calls
    }

    /// How long the syncs of this tree take.
    pub(super) fn sync_pace(&self) -> &SyncPace {
        &self.sync_pace
    }

    /// Directories of content in which a power cut may take names.
    pub(super) fn unsynced(&self) -> &Unsynced {
        &self.unsynced
    }

    /// This tree, with small files and directories staged: they are written and made, and durable, and the files under
    /// their names, when what was staged is published (`batch`), after what is written `earlier`.
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
        #[cfg(test)]
        self.calls.wait_while_held();
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
}
