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
//! begins again with the registry's next yes. Each answer is recorded by the question that it was given to
//! ([`DigestQuestion`]).

use std::sync::Arc;

use parking_lot::Mutex;

use super::digest_answers::{AnswerNumber, DigestAnswers, Yes};
use crate::reference::{Child, Digest, MediaType, Principal, Repository, Tag};
use crate::store::{Member, Records};
use crate::support::bounded_map::BoundedMap;

/// Digests remembered at most that a tag named; one that is forgotten costs a question.
const NAMED_MAX: usize = 4_096;
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
    /// The one that it said so of last to each principal.
    named_to: Arc<Mutex<BoundedMap<(Repository, Principal), Digest>>>,
    /// Held while a record is staged for the disk, so that an end from then on is written after it.
    answers: Arc<Mutex<DigestAnswers>>,
}

impl Membership {
    pub(crate) fn new(records: Records) -> Self {
        Self {
            records,
            sizes: Arc::new(Mutex::new(BoundedMap::new(SIZES_MAX))),
            named: Arc::new(Mutex::new(BoundedMap::new(NAMED_MAX))),
            named_to: Arc::new(Mutex::new(BoundedMap::new(NAMED_MAX))),
            answers: Arc::default(),
        }
    }

    /// Records that an authoritative endpoint said to `asked` that a tag of `repository` names `digest`.
    pub(crate) fn name_by_tag(&self, repository: &Repository, digest: Digest, asked: Principal) {
        self.named.lock().insert((repository.clone(), digest), ());
        self.named_to.lock().insert((repository.clone(), asked), digest);
    }

    /// Whether an authoritative endpoint said that `repository` has the manifest `digest`.
    pub(crate) async fn is_manifest(&self, repository: &Repository, digest: Digest) -> bool {
        let named = self.named.lock().get(&(repository.clone(), digest)).is_some();
        named || matches!(self.records.member(repository, digest).await, Some(Member::Manifest(_)))
    }

    /// Manifests that the registry said `repository` has, two at most: the one that a tag was last said to name to
    /// `asked`, which another principal may not read, and the one that a tag was last said to name to anyone.
    pub(crate) async fn known_manifests(&self, repository: &Repository, asked: Principal) -> Vec<Digest> {
        let to_it = self.named_to.lock().peek(&(repository.clone(), asked)).copied();
        let to_anyone = {
            let named = self.named.lock();
            named.iter().map(|(key, ())| key).find(|(of, _)| of == repository).map(|(_, digest)| *digest)
        };
        let last = match to_anyone {
            Some(digest) => Some(digest),
            None => self.records.latest_tag(repository).await.map(|record| record.digest),
        };
        let mut known: Vec<_> = to_it.into_iter().chain(last).collect();
        known.dedup();
        known
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

    /// A question that is about to be asked: whether `repository` has `digest`.
    pub(crate) fn question(&self, repository: &Repository, digest: Digest) -> DigestQuestion {
        let before = self.answers.lock().last_about(&(repository.clone(), digest));
        self.question_after(before, repository, digest)
    }

    /// How far answers had come before a question whose answer names the digest; for [`Self::question_after`].
    pub(crate) fn last_answer(&self) -> AnswerNumber {
        self.answers.lock().last()
    }

    /// The same question, which was asked after `before`.
    pub(crate) fn question_after(
        &self,
        before: AnswerNumber,
        repository: &Repository,
        digest: Digest,
    ) -> DigestQuestion {
        DigestQuestion { membership: self.clone(), repository: repository.clone(), digest, before }
    }

    /// Whether the membership of a digest has ended, so that only its registry itself can bring it back.
    pub(crate) fn has_ended(&self, repository: &Repository, digest: Digest) -> bool {
        self.answers.lock().has_ended(repository, digest)
    }
}

/// A question to a registry whether a repository has a digest. It is made before it is asked, and records the answer:
/// one to an older question undoes no answer that was recorded since.
#[derive(Clone)]
pub(crate) struct DigestQuestion {
    membership: Membership,
    repository: Repository,
    digest: Digest,
    /// The last answer before it was asked.
    pub(super) before: AnswerNumber,
}

impl DigestQuestion {
    /// Records that the registry itself has the digest, as it said or showed: a membership that had ended may begin
    /// again. Returns whether that counts: the registry did not say meanwhile that it is gone.
    pub(crate) fn record_yes(&self) -> bool {
        self.confirm() != Yes::TooOld
    }

    fn confirm(&self) -> Yes {
        self.membership.answers.lock().confirm(&self.key(), self.before)
    }

    /// Records a yes as [`Self::record_yes`] does, and that the digest is a member of the repository as a blob. The
    /// caller makes sure that the same registry delivers, or delivered, the bytes.
    pub(crate) async fn record_blob(&self) {
        let Self { membership, repository, digest, .. } = self;
        match self.confirm() {
            Yes::TooOld => return,
            Yes::Confirms if membership.is_confirmed(repository, *digest).await => return,
            // The record that is read may be the one whose removal is under way.
            Yes::Confirms | Yes::BeginsAgain => {}
        }
        self.write_later(Member::Blob).await;
    }

    /// Records a yes as [`Self::record_yes`] does, of a manifest that is here: where its membership had ended, it is a
    /// member again, also after the removal that may be under way.
    pub(crate) async fn record_manifest(&self, media_type: &MediaType) {
        if self.confirm() == Yes::BeginsAgain {
            self.write_later(Member::Manifest(media_type.clone())).await;
        }
    }

    async fn write_later(&self, member: Member) {
        let Self { membership, repository, digest, .. } = self;
        let place = membership.records.place().await;
        // It may have ended while there was no place. Under the lock, so that an end from now on is written after it.
        let mut answers = membership.answers.lock();
        if !answers.has_ended(repository, *digest) {
            membership.records.add_member_later(place, repository, *digest, member);
        }
    }

    /// Records that the registry does not have the digest any more, or withholds it: its membership ends.
    pub(crate) async fn record_no(&self) {
        let Self { membership, repository, digest, before } = self;
        // Whether there is a record or not: it may be about to be written.
        let key = self.key();
        if !membership.answers.lock().end(&key, *before) {
            return;
        }
        membership.named.lock().remove(&key);
        tracing::info!(%repository, %digest, "its registry does not hand it out any more: it is not served from here");
        if let Err(error) = membership.records.remove_member(repository, *digest).await {
            tracing::error!(%repository, %digest, %error, "deleted content could not be forgotten");
        }
    }

    /// Whether more than a client's question names the digest: a tag, a manifest, or a record.
    pub(crate) async fn is_known(&self) -> bool {
        let Self { membership, repository, digest, .. } = self;
        membership.named.lock().peek(&self.key()).is_some()
            || membership.declared_size(repository, *digest).is_some()
            || membership.records.member(repository, *digest).await.is_some()
    }

    /// Whose it would be.
    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// What it is about.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    fn key(&self) -> (Repository, Digest) {
        (self.repository.clone(), self.digest)
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
        membership.question(&other, digest).record_blob().await;
        membership.question(&elsewhere, digest).record_blob().await;
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
        membership.question(&other, digest).record_blob().await;
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
        let (first, to_the_same) = (membership.question(&app, digest), membership.question(&app, digest));
        first.record_blob().await;
        to_the_same.record_no().await;
        assert!(membership.is_confirmed(&app, digest).await, "a no from before the yes took the blob away");
        let second = membership.question(&app, digest);
        assert_ne!(first.before, second.before, "who asks now shares no answer from before");
        second.record_no().await;
        assert!(!membership.is_confirmed(&app, digest).await);
        second.record_blob().await;
        assert!(!membership.is_confirmed(&app, digest).await, "a yes from before the no brought it back");
        membership.question(&app, digest).record_blob().await;
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
        let question = membership.question(&other, digest);
        let confirmed = question.record_blob();
        let ended = async {
            membership.question(&other, digest).record_no().await;
            drop(full);
        };
        tokio::join!(confirmed, ended);
        store.flush().await;
        assert_eq!(store.records().member(&other, digest).await, None);
    }

    #[tokio::test]
    async fn a_blob_that_is_confirmed_while_its_removal_waits_for_the_disk_is_a_member_after_it() {
        let (store, _clock, _directory) = for_tests::store();
        let digest = for_tests::remember_blob(&store, "reg.test/app", b"layer").await;
        let membership = Membership::new(store.records().clone());
        let app: Repository = "reg.test/app".parse().unwrap();
        let held = store.hold_writes().await;
        let gone = membership.question(&app, digest);
        let there_again = async {
            membership.question(&app, digest).record_blob().await;
            drop(held);
        };
        tokio::join!(gone.record_no(), there_again);
        store.flush().await;
        assert_eq!(store.records().member(&app, digest).await, Some(Member::Blob));
    }
}
