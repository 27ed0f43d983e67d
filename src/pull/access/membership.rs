//! Membership: whether a repository may hand out a digest.
//!
//! A digest is a member if this repository's own upstream delivered the bytes, or if the same registry delivered them
//! for another repository and confirmed the digest for this one. A confirmation by a registry that never delivered the
//! bytes itself proves nothing: anyone can run a registry that confirms everything.

use crate::reference::{Digest, Repository};
use crate::store::{Member, Records};

/// The membership records of a store.
#[derive(Clone)]
pub(crate) struct Membership(Records);

impl Membership {
    pub(crate) fn new(records: Records) -> Self {
        Self(records)
    }

    /// What `digest` is in `repository`, if it is a member and the repository's registry delivered the bytes.
    pub(crate) async fn of(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        let member = self.0.member(repository, digest).await?;
        self.0.received_from(repository.registry(), digest).await.then_some(member)
    }

    /// Whether `repository` was confirmed to have `digest`, whatever became of the bytes.
    pub(crate) async fn is_confirmed(&self, repository: &Repository, digest: Digest) -> bool {
        self.0.member(repository, digest).await.is_some()
    }

    /// Records that upstream confirmed a blob for `repository`. The caller makes sure that the same registry delivers,
    /// or delivered, the bytes.
    pub(crate) async fn confirm_blob(&self, repository: &Repository, digest: Digest) {
        if self.is_confirmed(repository, digest).await {
            return;
        }
        if let Err(error) = self.0.add_member(repository, digest, Member::Blob).await {
            tracing::error!(%repository, %digest, %error, "a confirmed blob could not be recorded");
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
        membership.confirm_blob(&other, digest).await;
        membership.confirm_blob(&elsewhere, digest).await;
        assert_eq!(membership.of(&other, digest).await, Some(Member::Blob));
        assert_eq!(membership.of(&elsewhere, digest).await, None);
    }
}
