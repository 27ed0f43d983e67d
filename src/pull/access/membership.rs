//! Membership: whether a repository may hand out a digest.
//!
//! A digest is a member if this repository's own upstream delivered the bytes, or if the same registry delivered them
//! for another repository and confirmed the digest for this one. A confirmation by a registry that never delivered the
//! bytes itself proves nothing: anyone can run a registry that confirms everything. Nor does the delivery of a mirror:
//! one may serve any digest under any name. What a mirror delivers becomes a member by the word of an authoritative
//! endpoint: a tag that names it, or a yes to the question for it.
//!
//! Membership ends when the registry does not have the digest any more, or withholds it, by the rule of
//! [`super::deleted`]. What has ended is asked of authoritative endpoints only: a mirror may still have it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::reference::{Child, Digest, MediaType, Repository, Tag};
use crate::store::{Member, Records};
use crate::support::bounded_map::BoundedMap;

/// Digests remembered at most that a tag named; one that is forgotten costs a question.
const NAMED_MAX: usize = 4_096;
/// Digests remembered at most whose membership has ended; one that is forgotten may come from a mirror.
const ENDED_MAX: usize = 4_096;
/// Sizes remembered at most; one that is forgotten is asked of the registry.
const SIZES_MAX: usize = 16_384;
/// Sizes remembered of one manifest at most, so that none pushes out those of all others.
const SIZES_OF_ONE_MAX: usize = 2_048;

/// The membership records of a store, and what manifests say of sizes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Membership {
    records: Records,
    /// Bytes of the content that a manifest of the repository lists.
    sizes: Arc<Mutex<BoundedMap<(Repository, Digest), u64>>>,
    /// Manifests that an authoritative endpoint said a tag names.
    named: Arc<Mutex<BoundedMap<(Repository, Digest), ()>>>,
    /// Those whose membership has ended since the start of the daemon.
    ended: Arc<Mutex<BoundedMap<(Repository, Digest), ()>>>,
}

impl Membership {
    pub(crate) fn new(records: Records) -> Self {
        let [named, ended] = [NAMED_MAX, ENDED_MAX].map(|max| Arc::new(Mutex::new(BoundedMap::new(max))));
        Self { records, sizes: Arc::new(Mutex::new(BoundedMap::new(SIZES_MAX))), named, ended }
    }

    /// Records that an authoritative endpoint said that a tag of `repository` names `digest`.
    pub(crate) fn name_by_tag(&self, repository: &Repository, digest: Digest) {
        self.named.lock().insert((repository.clone(), digest), ());
    }

    /// Whether an authoritative endpoint said that `repository` has the manifest `digest`.
    pub(crate) async fn is_manifest(&self, repository: &Repository, digest: Digest) -> bool {
        let named = self.named.lock().get(&(repository.clone(), digest)).is_some();
        named || matches!(self.records.member(repository, digest).await, Some(Member::Manifest(_)))
    }

    /// A manifest that the registry said `repository` has: the one that a tag was last said to name.
    pub(crate) async fn known_manifest(&self, repository: &Repository) -> Option<Digest> {
        let named = {
            let named = self.named.lock();
            named.iter().map(|(key, ())| key).find(|(of, _)| of == repository).map(|(_, digest)| *digest)
        };
        match named {
            Some(digest) => Some(digest),
            None => self.records.latest_tag(repository).await.map(|record| record.digest),
        }
    }

    /// Whether it is recorded what a tag names.
    pub(crate) async fn has_tag(&self, repository: &Repository, tag: &Tag) -> bool {
        self.records.tag(repository, tag).await.is_some()
    }

    /// Records the sizes that a manifest of `repository` states. They prove nothing about who may read what.
    pub(crate) fn declare_sizes(&self, repository: &Repository, listed: &[Child]) {
        let mut sizes = self.sizes.lock();
        for Child { digest, size, .. } in listed.iter().take(SIZES_OF_ONE_MAX) {
            sizes.insert((repository.clone(), *digest), *size);
        }
    }

    /// The size in bytes that a manifest of `repository` states for `digest`.
    pub(crate) fn declared_size(&self, repository: &Repository, digest: Digest) -> Option<u64> {
        self.sizes.lock().get(&(repository.clone(), digest)).copied()
    }

    /// What `digest` is in `repository`, if it is a member and the repository's registry delivered the bytes.
    /// Where content is served, that is looked up together with its file ([`crate::store::Store::received_blob`]).
    pub(crate) async fn of(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        let member = self.records.member(repository, digest).await?;
        self.records.received_from(repository.registry(), digest).await.then_some(member)
    }

    /// The media type of `digest`, if `repository` has it as a manifest, whatever became of the bytes.
    pub(crate) async fn manifest_type(&self, repository: &Repository, digest: Digest) -> Option<MediaType> {
        match self.records.member(repository, digest).await? {
            Member::Manifest(media_type) => Some(media_type),
            Member::Blob => None,
        }
    }

    /// Whether `repository` was confirmed to have `digest`, whatever became of the bytes.
    pub(crate) async fn is_confirmed(&self, repository: &Repository, digest: Digest) -> bool {
        !self.has_ended(repository, digest) && self.records.member(repository, digest).await.is_some()
    }

    /// Ends the membership of a digest: its registry does not have it any more, or withholds it.
    pub(crate) async fn end(&self, repository: &Repository, digest: Digest) {
        // Whether there is a record or not: it may be about to be written.
        let key = (repository.clone(), digest);
        self.named.lock().remove(&key);
        self.ended.lock().insert(key, ());
        tracing::info!(%repository, %digest, "its registry does not hand it out any more: it is not served from here");
        if let Err(error) = self.records.remove_member(repository, digest).await {
            tracing::error!(%repository, %digest, %error, "deleted content could not be forgotten");
        }
    }

    /// Whether the membership of a digest has ended, so that only its registry itself can bring it back.
    pub(crate) fn has_ended(&self, repository: &Repository, digest: Digest) -> bool {
        self.ended.lock().get(&(repository.clone(), digest)).is_some()
    }

    /// Records that the registry has a digest again whose membership had ended.
    pub(crate) fn begin_again(&self, repository: &Repository, digest: Digest) {
        self.ended.lock().remove(&(repository.clone(), digest));
    }

    /// Records that upstream confirmed a blob for `repository`. The caller makes sure that the same registry delivers,
    /// or delivered, the bytes.
    pub(crate) async fn confirm_blob(&self, repository: &Repository, digest: Digest) {
        if self.is_confirmed(repository, digest).await {
            return;
        }
        self.records.add_member_later(repository, digest, Member::Blob).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests;

    #[tokio::test]
    async fn a_confirmation_by_a_registry_that_never_delivered_the_bytes_proves_nothing() {
        let (store, _clock, _directory) = for_tests::store();
        let digest = for_tests::remember_blob(&store, "reg.test/app", b"layer").await;
        let membership = Membership::new(store.records().clone());
        let [app, other, elsewhere]: [Repository; 3] =
            ["reg.test/app", "reg.test/other", "evil.test/app"].map(|name| name.parse().unwrap());
        assert_eq!(membership.of(&app, digest).await, Some(Member::Blob));
        assert_eq!(membership.of(&other, digest).await, None);
        membership.confirm_blob(&other, digest).await;
        membership.confirm_blob(&elsewhere, digest).await;
        assert_eq!(membership.of(&other, digest).await, Some(Member::Blob));
        assert_eq!(membership.of(&elsewhere, digest).await, None);
    }

    #[tokio::test]
    async fn a_confirmation_holds_at_once_and_is_written_without_an_answer_waiting_for_it() {
        let (store, _clock, directory) = for_tests::store();
        let digest = for_tests::remember_blob(&store, "reg.test/app", b"layer").await;
        let membership = Membership::new(store.records().clone());
        let other = "reg.test/other".parse().unwrap();
        let written = directory.path().join(format!("store/refs/reg.test/other/_members/{}", digest.hex()));
        let held = store.hold_writes().await;
        membership.confirm_blob(&other, digest).await;
        assert!(!written.exists());
        assert_eq!(membership.of(&other, digest).await, Some(Member::Blob));
        drop(held);
        store.flush().await;
        assert!(written.exists());
    }
}
