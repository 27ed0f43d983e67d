//! What ends and what proves rights besides the answers to questions for them: the operator's word, the owner's of the
//! store, and content that was verified after its registry had answered.

use super::authorize::Access;
use super::recorded_answers::UnprovedRight;
use crate::reference::{Principal, Repository};
use crate::store;
use crate::upstream::ProvedRight;

impl Access {
    /// What an answer will prove when its content was verified; to be made before upstream is asked.
    pub(crate) fn unproved(&self) -> UnprovedRight {
        self.0.answers.unproved()
    }

    /// Records the right that `proof` is of, now that the content that came with it was verified.
    pub(crate) async fn record_verified(
        &self,
        repository: &Repository,
        presented: Principal,
        proof: ProvedRight,
        right: UnprovedRight,
    ) {
        self.0.answers.record_verified(repository, presented, proof, right).await;
    }

    /// Records that the owner of the store lets `principal` read `repository`.
    pub(crate) async fn record_grant(&self, repository: &Repository, principal: Principal) {
        self.0.answers.record_grant(repository, principal).await;
    }

    /// Ends every grant of a repository, or of all; returns how many there were.
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, store::Error> {
        // Before the rights: none may be proved again by a token from before.
        self.0.upstream.forget_tokens(repository);
        let count = self.0.answers.revoke(repository).await?;
        match repository {
            Some(repository) => tracing::warn!(%repository, count, "the operator revoked grants"),
            None => tracing::warn!(count, "the operator revoked all grants"),
        }
        Ok(count)
    }
}
