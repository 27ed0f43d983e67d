//! Whether the denial of one reference is about the whole repository. For a tag that is not there some registries
//! answer as for a repository that is not there (`NAME_UNKNOWN`: registry.redhat.io, Katello) or is closed (403:
//! virtual repositories of Artifactory).
//!
//! Promises: a right outlives such an answer only where the registry says at once, to the same principal, that the
//! repository has another manifest: the one that a tag was last said to name to it, or to anyone. Any other answer to
//! that ends the right as ever, and so does none in time. A 401 is always about the principal, and what is denied
//! although it is known here about the repository.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::confirmations::Confirmations;
use super::known_rights::KnownRights;
use super::membership::Membership;
use super::negative_cache::{DeniedQuestion, Subject};
use super::recorded_answers::RecordedAnswers;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::reference::Digest;
use crate::upstream::{self, Allowed, AuthContext, Patience, Proof};

/// How long the registry may take to say so: less than a client waits for an answer after the first one took its time.
const WAIT: Duration = Duration::from_secs(4);

/// A denial that was given to a question which is to prove a right.
pub(super) struct DeniedReference<'a> {
    pub(super) upstream: &'a Arc<dyn RegistryClient>,
    pub(super) known: &'a KnownRights,
    pub(super) answers: &'a RecordedAnswers,
    pub(super) membership: &'a Membership,
    pub(super) confirmations: &'a Confirmations<()>,
    pub(super) question: &'a DeniedQuestion,
}

/// What the registry says to the question for another manifest of the repository.
enum Said {
    /// It lets the principal read the repository.
    IsOpen,
    /// It denies that manifest, which may be about that alone.
    NotThisOne,
    /// Nothing that lets a right live.
    Nothing,
}

impl Said {
    fn by(error: &Error) -> Self {
        match error {
            Error::Upstream(upstream::Error::Refused { status: 401, .. }) => Self::Nothing,
            Error::Upstream(error) if error.is_answer() => Self::NotThisOne,
            _ => Self::Nothing,
        }
    }
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
        let Self { known, membership, question, .. } = self;
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
        let until = Instant::now() + WAIT;
        for digest in membership.known_manifests(repository, question.principal).await {
            match self.ask_for(digest, is_public, auth.clone(), until).await {
                Said::IsOpen => return true,
                // It may be a neighbour's.
                Said::NotThisOne => {}
                Said::Nothing => return false,
            }
        }
        false
    }

    /// Asks for another manifest, until then. A denial is not recorded: it is left to that of the first question, which
    /// ends the right.
    async fn ask_for(&self, digest: Digest, is_public: bool, auth: AuthContext, until: Instant) -> Said {
        let answers = self.answers;
        let question = DeniedQuestion { subject: Subject::Manifest(digest), ..self.question.clone() };
        if let Some(denial) = answers.denial(&question) {
            return Said::by(&denial);
        }
        let (presented, revocations) = (auth.presented.clone(), answers.revocations());
        let Ok(answer) = tokio::time::timeout_at(until, self.confirm(digest, auth)).await else {
            return Said::Nothing;
        };
        let proof = match &answer {
            Ok(allowed) => allowed.proof,
            Err(error) => return Said::by(error),
        };
        answers.record(question, &presented, Some(revocations), &answer).await;
        // What is open without a credential says nothing of the right of one.
        match proof {
            Proof::Public if is_public => Said::IsOpen,
            Proof::Principal { .. } if !is_public => Said::IsOpen,
            Proof::Public | Proof::Principal { .. } | Proof::Nothing => Said::Nothing,
        }
    }

    async fn confirm(&self, digest: Digest, auth: AuthContext) -> Result<Allowed<()>, Error> {
        let (upstream, repository) = (Arc::clone(self.upstream), self.question.repository.clone());
        let (principal, revocations) = (auth.presented.principal, self.answers.revocations());
        let question = self.membership.question(&repository, digest);
        let auth = AuthContext { patience: Patience::None, ..auth };
        let request = move || async move { upstream.confirm_manifest(&repository, digest, &auth).await };
        self.confirmations.ask(&question, principal, revocations, request).await
    }
}
