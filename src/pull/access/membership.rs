//! Membership: whether a repository may hand out a digest.
//!
//! A digest is a member if this repository's own upstream delivered the bytes, or if the same registry delivered them
//! for another repository and confirmed the digest for this one. A confirmation by a registry that never delivered the
//! bytes itself proves nothing: anyone can run a registry that confirms everything. Nor does the delivery of a mirror:
//! one may serve any digest under any name. What a mirror delivers becomes a member by the word of an authoritative
//! endpoint: a tag that names it, or a yes to the question for it.
//!
//! Membership ends when the registry does not have the digest any more, or withholds it, by the rule of
//! [`super::deleted`]. What has ended is asked of authoritative endpoints only: a mirror may still have it. It
//! begins again with the registry's next yes. Answers may be recorded in another order than that in which they were
//! given: one undoes no other that was recorded after its question was asked ([`AnswerNumber`]).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::reference::{Child, Digest, MediaType, Repository, Tag};
use crate::store::{Member, Records};
use crate::support::bounded_map::BoundedMap;

/// Digests remembered at most that a tag named; one that is forgotten costs a question.
const NAMED_MAX: usize = 4_096;
/// Digests remembered at most whose membership has ended; one that is forgotten may come from a mirror.
const ENDED_MAX: usize = 4_096;
/// Digests remembered at most whose membership was confirmed; of one that is forgotten, an older no may end it.
const CONFIRMED_MAX: usize = 4_096;
/// Sizes remembered at most; one that is forgotten is asked of the registry.
const SIZES_MAX: usize = 16_384;
/// Sizes remembered of one manifest at most, so that none pushes out those of all others.
const SIZES_OF_ONE_MAX: usize = 2_048;

/// How many answers of registries about digests were recorded; to be read before a question is asked, and given with
/// its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct AnswerNumber(u64);

/// What registries said of digests since the start of the daemon, with the numbers of those answers.
struct Answers {
    last: u64,
    /// Those whose membership has ended.
    ended: BoundedMap<(Repository, Digest), u64>,
    /// Those that their registry has, by its last answer.
    confirmed: BoundedMap<(Repository, Digest), u64>,
}

impl Answers {
    /// The number of the last answer about a digest that is remembered.
    fn about(&mut self, key: &(Repository, Digest)) -> AnswerNumber {
        let known = self.confirmed.get(key).or(self.ended.get(key));
        AnswerNumber(known.copied().unwrap_or_default())
    }

    /// Records a yes to a question that was asked after `before`; returns whether it counts.
    fn confirm(&mut self, key: &(Repository, Digest), before: AnswerNumber) -> bool {
        let is_newer = |at: Option<&mut u64>| at.is_some_and(|at| *at > before.0);
        if is_newer(self.ended.get(key)) {
            return false;
        }
        if !is_newer(self.confirmed.get(key)) {
            self.last += 1;
            self.ended.remove(key);
            self.confirmed.insert(key.clone(), self.last);
        }
        true
    }

    /// Records that a digest is gone, by a question that was asked after `before`; returns whether that counts.
    fn end(&mut self, key: &(Repository, Digest), before: AnswerNumber) -> bool {
        if self.confirmed.get(key).is_some_and(|at| *at > before.0) {
            return false;
        }
        self.last += 1;
        self.confirmed.remove(key);
        self.ended.insert(key.clone(), self.last);
        true
    }
}

/// The membership records of a store, and what manifests say of sizes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Membership {
    records: Records,
    /// Bytes of the content that a manifest of the repository lists.
    sizes: Arc<Mutex<BoundedMap<(Repository, Digest), u64>>>,
    /// Manifests that an authoritative endpoint said a tag names.
    named: Arc<Mutex<BoundedMap<(Repository, Digest), ()>>>,
    /// Held while a record is staged for the disk, so that an end from then on is written after it.
    answers: Arc<Mutex<Answers>>,
}

impl Membership {
    pub(crate) fn new(records: Records) -> Self {
        let (ended, confirmed) = (BoundedMap::new(ENDED_MAX), BoundedMap::new(CONFIRMED_MAX));
        Self {
            records,
            sizes: Arc::new(Mutex::new(BoundedMap::new(SIZES_MAX))),
            named: Arc::new(Mutex::new(BoundedMap::new(NAMED_MAX))),
            answers: Arc::new(Mutex::new(Answers { last: 0, ended, confirmed })),
        }
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

    /// The number of the last answer about any digest.
    pub(crate) fn last_answer(&self) -> AnswerNumber {
        AnswerNumber(self.answers.lock().last)
    }

    /// The number of the last answer about this digest.
    pub(crate) fn last_answer_about(&self, repository: &Repository, digest: Digest) -> AnswerNumber {
        self.answers.lock().about(&(repository.clone(), digest))
    }

    /// Ends the membership of a digest: its registry does not have it any more, or withholds it, as it said to a
    /// question that was asked after `before`.
    pub(crate) async fn end(&self, repository: &Repository, digest: Digest, before: AnswerNumber) {
        // Whether there is a record or not: it may be about to be written.
        let key = (repository.clone(), digest);
        if !self.answers.lock().end(&key, before) {
            return;
        }
        self.named.lock().remove(&key);
        tracing::info!(%repository, %digest, "its registry does not hand it out any more: it is not served from here");
        if let Err(error) = self.records.remove_member(repository, digest).await {
            tracing::error!(%repository, %digest, %error, "deleted content could not be forgotten");
        }
    }

    /// Whether the membership of a digest has ended, so that only its registry itself can bring it back.
    pub(crate) fn has_ended(&self, repository: &Repository, digest: Digest) -> bool {
        self.answers.lock().ended.get_by(|| (repository.clone(), digest)).is_some()
    }

    /// Records that the registry itself has a digest, as it said or showed to a question that was asked after `before`:
    /// a membership that had ended may begin again. Returns whether that counts: the registry did not say meanwhile
    /// that it is gone.
    pub(crate) fn begin_again(&self, repository: &Repository, digest: Digest, before: AnswerNumber) -> bool {
        self.answers.lock().confirm(&(repository.clone(), digest), before)
    }

    /// Records that upstream confirmed a blob for `repository`, as [`Self::begin_again`] does, and that it is a member.
    /// The caller makes sure that the same registry delivers, or delivered, the bytes.
    pub(crate) async fn confirm_blob(&self, repository: &Repository, digest: Digest, before: AnswerNumber) {
        if !self.begin_again(repository, digest, before) || self.is_confirmed(repository, digest).await {
            return;
        }
        let place = self.records.place().await;
        // It may have ended while there was no place. Under the lock, so that an end from now on is written after it.
        let mut answers = self.answers.lock();
        if answers.ended.get_by(|| (repository.clone(), digest)).is_none() {
            self.records.add_member_later(place, repository, digest, Member::Blob);
        }
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
        membership.confirm_blob(&other, digest, membership.last_answer()).await;
        membership.confirm_blob(&elsewhere, digest, membership.last_answer()).await;
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
        membership.confirm_blob(&other, digest, membership.last_answer()).await;
        assert!(!written.exists());
        assert_eq!(membership.of(&other, digest).await, Some(Member::Blob));
        drop(held);
        store.flush().await;
        assert!(written.exists());
    }

    #[tokio::test]
    async fn an_answer_undoes_no_other_that_was_recorded_after_its_question_was_asked() {
        let (store, _clock, _directory) = for_tests::store();
        let digest = for_tests::remember_blob(&store, "reg.test/app", b"layer").await;
        let membership = Membership::new(store.records().clone());
        let app: Repository = "reg.test/app".parse().unwrap();
        let first = membership.last_answer_about(&app, digest);
        membership.confirm_blob(&app, digest, first).await;
        membership.end(&app, digest, first).await;
        assert!(membership.is_confirmed(&app, digest).await, "a no from before the yes took the blob away");
        let second = membership.last_answer_about(&app, digest);
        assert_ne!(first, second, "who asks now shares no answer from before");
        membership.end(&app, digest, second).await;
        assert!(!membership.is_confirmed(&app, digest).await);
        membership.confirm_blob(&app, digest, second).await;
        assert!(!membership.is_confirmed(&app, digest).await, "a yes from before the no brought it back");
        membership.confirm_blob(&app, digest, membership.last_answer()).await;
        assert!(membership.is_confirmed(&app, digest).await, "it is gone for ever");
        store.flush().await;
        let after_a_restart = Membership::new(store.records().clone());
        assert!(after_a_restart.is_confirmed(&app, digest).await);
    }

    #[tokio::test]
    async fn a_membership_that_ends_while_its_record_waits_to_be_written_does_not_return() {
        let (store, _clock, _directory) = for_tests::store();
        let digest = for_tests::remember_blob(&store, "reg.test/app", b"layer").await;
        let membership = Membership::new(store.records().clone());
        let other: Repository = "reg.test/other".parse().unwrap();
        let full = store.fill_writes();
        let before = membership.last_answer();
        let confirmed = membership.confirm_blob(&other, digest, before);
        let ended = async {
            membership.end(&other, digest, membership.last_answer()).await;
            drop(full);
        };
        tokio::join!(confirmed, ended);
        store.flush().await;
        assert_eq!(store.records().member(&other, digest).await, None);
    }
}
