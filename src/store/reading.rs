//! What is there, opened for a reader: blobs, and what a repository may serve of them.
//!
//! Promises: a blob that is damaged, or that the disk does not give, counts as absent, since the content can be had
//! from upstream. Deliberately not here: the bytes (`read`).

use super::Store;
use crate::reference::{Digest, Repository};
use crate::store::disk::blocking;
use crate::store::disk::calls::Call;
use crate::store::read::blob::Blob;
use crate::store::records::members::Member;

impl Store {
    /// Opens a blob; `None` if it is absent. A damaged one is moved to quarantine and counts as absent, and so does one
    /// that the disk does not give: whatever the disk does, the content can be had from upstream.
    pub async fn blob(&self, digest: Digest) -> Option<Blob> {
        self.0.blobs.lookup(digest).await
    }

    /// A blob that the registry of `repository` itself has sent, and what it is there, if `repository` may serve it;
    /// `None` as [`Store::blob`]. What was looked up a moment ago costs no trip to another thread, anything else one.
    pub async fn received_blob(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Option<(Blob, Option<Member>)> {
        if let Some(member) = self.0.records.known(repository, digest)
            && let Some(blob) = self.0.blobs.find_open(digest)
        {
            return Some((blob, Some(member)));
        }
        let (store, repository) = (self.clone(), repository.clone());
        let look = move |call: &mut Call<'_>| {
            if !store.0.records.look_for_receipt(repository.registry(), digest) {
                return None;
            }
            let blob = store.0.blobs.open(digest, call)?;
            Some((blob, store.0.records.look_for_member(&repository, digest)))
        };
        blocking::found(blocking::read(self.0.layout.calls(), look).await)
    }

    /// Notes that a blob was used without being opened. Never blocks.
    pub fn record_access(&self, digest: Digest) {
        self.0.blobs.record_access(digest);
    }

    /// Moves a blob that failed a check while it was read to quarantine; the next reader fetches it anew.
    pub async fn quarantine(&self, blob: &Blob, reason: String) {
        self.0.blobs.quarantine_damaged(blob, reason).await;
    }

    /// How many blobs have left the store since its start, by eviction, removal, quarantine or from outside.
    pub fn removals(&self) -> u64 {
        self.0.blobs.removals().count()
    }

    /// Whether a blob that was there may have left since [`Store::removals`] were so many. Asks no disk.
    pub fn may_have_left(&self, digest: &Digest, removals: u64) -> bool {
        self.0.blobs.removals().may_have_left(digest, removals)
    }
}
