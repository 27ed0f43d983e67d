//! Questions whether a repository has something that are under way, each once for all who ask the same.

use super::digest_answers::AnswerNumber;
use super::membership::DigestQuestion;
use crate::pull::error::Error;
use crate::reference::{Digest, Principal, Repository};
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::{self, Allowed};

/// What questions are equal. None shares the answer to one that was asked before rights were revoked, or before another
/// answer about the digest was recorded: that answer is older than the question.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ConfirmedAs {
    repository: Repository,
    digest: Digest,
    principal: Principal,
    /// How often rights had been revoked.
    revocations: u64,
    /// The last answer about the digest.
    before: AnswerNumber,
}

/// The questions under way.
pub(super) struct Confirmations<T>(Singleflight<ConfirmedAs, Result<Allowed<T>, Error>>);

impl<T: Clone + Send + Sync + 'static> Confirmations<T> {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self(Singleflight::new(tasks))
    }

    /// What the registry answers to `question`, asked by `request` as `principal`, of whose rights so many had been
    /// revoked.
    pub(super) async fn ask<F>(
        &self,
        question: &DigestQuestion,
        principal: Principal,
        revocations: u64,
        request: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Allowed<T>, Error>
    where
        F: Future<Output = Result<Allowed<T>, upstream::Error>> + Send + 'static,
    {
        let (repository, digest, before) =
            (question.repository().clone(), question.digest(), question.before);
        let key = ConfirmedAs { repository, digest, principal, revocations, before };
        let asked = self.0.run(key, move || async move { request().await.map_err(Error::from) });
        asked.await.unwrap_or_else(|| Err(Error::panicked("asked a registry whether it has a digest")))
    }
}
