//! Whether the denial of one reference is about the whole repository. For a tag that is not there some registries
//! answer as for a repository that is not there (`NAME_UNKNOWN`: registry.redhat.io, Katello) or is closed (403:
//! virtual repositories of Artifactory).
//!
//! Promises: a right outlives such an answer only where the registry says at once, to the same principal, that the
//! repository has another manifest, one that is known here. Any other answer to that ends the right as ever, and so
//! does none in time. A 401 is always about the principal, and what is denied although it is known here about the
//! repository.

use std::sync::Arc;
use std::time::Duration;

use super::confirmations::{Confirmations, ConfirmedAs};
use super::known_rights::KnownRights;
use super::membership::Membership;
use super::negative_cache::{Question, Subject};
use super::recorded_answers::RecordedAnswers;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::reference::Digest;
use crate::upstream::{self, Allowed, AuthContext, Patience, ProvedRight};

/// How long the registry may take to say so: less than a client waits for an answer after the first one took its time.
const WAIT: Duration = Duration::from_secs(4);

/// A denial that was given to a question which is to prove a right.
pub(super) struct DeniedReference<'a> {
    pub(super) upstream: &'a Arc<dyn RegistryClient>,
    pub(super) known: &'a KnownRights,
    pub(super) answers: &'a RecordedAnswers,
    pub(super) membership: &'a Membership,
    pub(super) confirmations: &'a Confirmations<()>,
    pub(super) question: &'a Question,
}

impl DeniedReference<'_> {
    /// The denial as it is, or as one that ends no right. `auth` is what the question was asked with.
    pub(super) async fn judge(&self, denial: upstream::Error, auth: AuthContext) -> upstream::Error {
        if self.is_of_reference_alone(denial.is_public(), auth).await {
            denial.of_one_reference()
        } else {
            denial
        }
    }

    async fn is_of_reference_alone(&self, is_public: bool, auth: AuthContext) -> bool {
        let Self { known, answers, membership, question, .. } = self;
        let repository = &question.repository;
        let is_known = match &question.subject {
            Subject::Tag(tag) => membership.has_tag(repository, tag).await,
            Subject::Manifest(digest) => membership.is_manifest(repository, *digest).await,
            Subject::Blob(_) | Subject::List => true,
        };
        let concerned = known.concerned(question.principal, is_public);
        if is_known || !known.principals(repository).await.contains(&concerned) {
            return false;
        }
        let Some(digest) = membership.known_manifest(repository).await else { return false };
        let question = Question { subject: Subject::Manifest(digest), ..(*question).clone() };
        if answers.denial(&question).is_some() {
            return false;
        }
        let (presented, revocations) = (auth.presented.clone(), answers.revocations());
        let Ok(answer) = tokio::time::timeout(WAIT, self.confirm(digest, auth)).await else { return false };
        // A denial is left to the one of the first question, which ends the right.
        if answer.is_ok() {
            answers.record(question, &presented, Some(revocations), &answer).await;
        }
        // What is open without a credential says nothing of the right of one.
        match answer {
            Ok(Allowed { proof: ProvedRight::Public, .. }) => is_public,
            Ok(Allowed { proof: ProvedRight::Principal { .. }, .. }) => !is_public,
            Ok(Allowed { proof: ProvedRight::Nothing, .. }) | Err(_) => false,
        }
    }

    async fn confirm(&self, digest: Digest, auth: AuthContext) -> Result<Allowed<()>, Error> {
        let (upstream, repository) = (Arc::clone(self.upstream), self.question.repository.clone());
        let key = ConfirmedAs {
            repository: repository.clone(),
            digest,
            principal: auth.presented.principal,
            revocations: self.answers.revocations(),
            before: self.membership.last_answer_about(&repository, digest),
        };
        let auth = AuthContext { patience: Patience::None, ..auth };
        let asking = move || async move {
            upstream.confirm_manifest(&repository, digest, &auth).await.map_err(Error::from)
        };
        let ended = || Err(Error::panicked("confirmed a manifest upstream"));
        self.confirmations.run(key, asking).await.unwrap_or_else(ended)
    }
}
