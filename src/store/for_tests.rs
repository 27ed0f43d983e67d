//! A store's tree without a store, for tests of what reads it, and a store whose disk or writes stand still.

use std::fs;

use bytes::Bytes;

use super::Store;
use super::budget::share::Owner;
use super::content::WholeContent;
use super::layout::Layout;
use super::read::limits::ReadLimits;
use super::records::members::Member;
use super::records::tags::{self, TagRecord};
use crate::reference::{Algorithm, Digest, Repository};
use crate::support::clock::Timestamp;

/// Limits that small content reaches: a blob of 16 MiB has slices, and one of 20 MiB keeps no reader waiting.
pub(super) const SMALL: ReadLimits = ReadLimits {
    whole_checksum_bytes: 1_024,
    slice_chunks: 64,
    waited_for_bytes: 20 * 1024 * 1024,
    unwritten_checksum_bytes: 128 * 1024,
};

/// A tree in a directory of its own.
pub(super) struct Tree {
    _directory: tempfile::TempDir,
    pub(super) layout: Layout,
}

impl Tree {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for directory in [layout.ingest(), layout.blobs(Algorithm::Sha256)] {
            layout.make_directory(&directory).unwrap();
        }
        Self { _directory: directory, layout }
    }

    /// Puts a blob there.
    pub(super) fn put(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        fs::write(self.layout.blob(&digest), content).unwrap();
        digest
    }

    /// Records what a tag names.
    pub(super) fn tag(&self, repository: &Repository, tag: &str, digest: Digest) {
        let record = TagRecord { digest, confirmed_at: Timestamp(1) };
        tags::set(&self.layout, repository, &tag.parse().unwrap(), record).unwrap();
    }
}

/// What a repository's registry delivered.
pub(super) fn content(repository: &Repository, content: &[u8], member: Member) -> WholeContent {
    let (digest, bytes) = (Digest::of(content), Bytes::copy_from_slice(content));
    let owner = Owner::unlimited(repository.registry());
    WholeContent { repository: repository.clone(), digest, bytes, member, owner }
}

/// A disk, or writes, that stand still.
impl Store {
    /// No call that creates or writes content ends before the result is dropped.
    pub(crate) fn hang(&self) -> impl Sized + use<> {
        self.0.layout.calls().hold()
    }

    /// From now on what writes the content of a download panics.
    pub(crate) fn panic_at_writes(&self) {
        self.0.layout.calls().panic_at_writes();
    }

    /// No file that was begun is removed before the result is dropped.
    pub(crate) fn hang_removals(&self) -> impl Sized + use<> {
        self.0.layout.calls().hold_removals()
    }

    /// No call that reads what is not in memory ends before the result is dropped.
    pub(crate) fn hang_reads(&self) -> impl Sized + use<> {
        self.0.layout.calls().hold_reads()
    }

    /// Nothing that is written later is written before the sender is dropped.
    pub(crate) async fn hold_writes(&self) -> std::sync::mpsc::Sender<()> {
        let (held, release) = std::sync::mpsc::channel();
        let wait = move || {
            let _ = release.recv();
        };
        self.0.records.writes().later(wait).await;
        held
    }

    /// No write has a place before the result is dropped.
    pub(crate) fn fill_writes(&self) -> impl Sized + use<> {
        self.0.records.writes().fill_places()
    }
}
