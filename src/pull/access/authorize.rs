//! Access: who may read what, by what is known and by what upstream says now (`asking`).
//!
//! Promises: a caller that showed no credential is challenged where a credential may make the difference, at once where
//! anonymous access was refused before; whether it is still refused is asked now and then.
//!
//! Deliberately not here: what is asked for (the caller passes the request as a closure), and content.

use std::sync::Arc;
use std::time::Duration;

use super::asking::Asking;
use super::confirmations::Confirmations;
use super::granted_rights::GrantedRights;
use super::grants::Grants;
use super::known_rights::KnownRights;
use super::membership::Membership;
use super::negative_cache::Subject;
use super::outages::Outages;
use super::principals::Principals;
pub(crate) use super::principals::Purpose;
use super::recorded_answers::RecordedAnswers;
pub(crate) use super::recorded_answers::UnprovedRight;
use super::refused_repositories::AnonymousAccess;
use super::rights::Use;
use super::shared_rights::SharedRights;
use crate::credentials::{Keychain, PresentedCredential};
use crate::pull::config::Config;
use crate::pull::context::PullContext;
use crate::pull::error::{ChallengeReason, Error};
use crate::pull::metrics::Metrics;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Registry, Repository};
use crate::store::Records;
use crate::support::clock::Timestamp;
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::upstream::{self, Allowed, AuthContext, BlobHead, ProvedRight};

/// Rights to repositories. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) upstream: Arc<dyn RegistryClient>,
    principals: Principals,
    known: KnownRights,
    pub(super) answers: RecordedAnswers,
    membership: Membership,
    shared: Arc<SharedRights>,
    pub(super) blob_confirmations: Confirmations<BlobHead>,
    pub(super) manifest_confirmations: Confirmations<()>,
    tasks: Tasks,
}

impl Access {
    /// Access over the grants of `records`, the credentials of `keychain` and the registries of `upstream`.
    pub(crate) fn new(
        config: Live<Config>,
        records: &Records,
        keychain: Keychain,
        upstream: Arc<dyn RegistryClient>,
        tasks: Tasks,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let rights = GrantedRights {
            config: config.clone(),
            principals: Principals::new(keychain),
            grants: Arc::new(Grants::new(records.clone())),
            shared: Arc::new(SharedRights::new(records.clone())),
            metrics: Arc::clone(metrics),
        };
        let outages = Outages::new(records.clone(), config);
        Self(Arc::new(Inner {
            principals: rights.principals.clone(),
            shared: Arc::clone(&rights.shared),
            known: KnownRights::new(rights.clone()),
            answers: RecordedAnswers::new(rights, Arc::clone(&upstream), outages),
            membership: Membership::new(records.clone()),
            upstream,
            blob_confirmations: Confirmations::new(tasks.clone()),
            manifest_confirmations: Confirmations::new(tasks.clone()),
            tasks,
        }))
    }

    /// What is known without asking upstream.
    pub(crate) fn known(&self) -> &KnownRights {
        &self.0.known
    }

    /// Which digests a repository may hand out.
    pub(crate) fn membership(&self) -> &Membership {
        &self.0.membership
    }

    /// The registries in outage, and since when.
    pub(crate) fn outages(&self) -> Vec<(Registry, Timestamp)> {
        self.0.answers.outages()
    }

    /// Whether the operator named a registry, or it answered before.
    pub(crate) fn is_known_registry(&self, registry: &Registry) -> bool {
        self.0.answers.is_known_registry(registry)
    }

    /// Whether a grant is fresh, so that upstream is asked only to deliver.
    pub(crate) async fn purpose(&self, context: &PullContext) -> Purpose {
        self.known().fresh(context, Use::Read).await.map_or(Purpose::Prove, Purpose::Deliver)
    }

    /// How often rights were revoked by hand: a caller that shares the answer to another's question shares none that
    /// was asked when there were fewer, since it proves no right.
    pub(crate) fn revocations(&self) -> u64 {
        self.0.answers.revocations()
    }

    /// Asks upstream as one principal after the other until one is allowed; returns the answer and that principal's
    /// credential.
    ///
    /// # Errors
    /// That it is withheld from one; else the first denial, if all were denied; a rate limit, if no other principal had
    /// an answer; an outage at once;
    /// [`Error::AuthenticationRequired`] if the caller showed no credential and one may make the difference.
    pub(crate) async fn ask<T, F>(
        &self,
        context: &PullContext,
        subject: &Subject,
        purpose: Purpose,
        request: impl Fn(AuthContext) -> F,
    ) -> Result<(T, PresentedCredential), Error>
    where
        F: Future<Output = Result<Allowed<T>, Error>>,
    {
        if matches!(purpose, Purpose::Prove) {
            self.challenge_if_refused_before(context, subject)?;
        }
        match self.ask_each(context, subject, purpose, request).await {
            Ok(allowed) => Ok(allowed),
            Err(error) => Err(self.or_challenge(context, error).await),
        }
    }

    /// As [`Self::ask`], without the challenge to a caller that showed no credential.
    pub(super) async fn ask_each<T, F>(
        &self,
        context: &PullContext,
        subject: &Subject,
        purpose: Purpose,
        request: impl Fn(AuthContext) -> F,
    ) -> Result<(T, PresentedCredential), Error>
    where
        F: Future<Output = Result<Allowed<T>, Error>>,
    {
        let Inner { upstream, principals, known, answers, membership, manifest_confirmations, .. } = &*self.0;
        let confirmations = manifest_confirmations;
        let asking =
            Asking { upstream, principals, known, answers, membership, confirmations, context, subject };
        asking.ask_each(purpose, request).await
    }

    /// Whether the repository refused the node's credentials and anonymous access, as far as that is remembered.
    pub(crate) fn is_refused(&self, repository: &Repository) -> bool {
        self.0.answers.is_refused(repository)
    }

    /// What other nodes shared for an outage.
    pub(crate) fn shared(&self) -> &SharedRights {
        &self.0.shared
    }

    /// Whether the rate limit of the principal that upstream is asked as first is nearly used up.
    pub(crate) async fn is_budget_low(&self, context: &PullContext) -> bool {
        let (caller, repository) = (context.caller(), context.repository());
        let (candidates, _) = self.0.principals.candidates(caller, repository, Purpose::Prove).await;
        let low = |first: &PresentedCredential| self.0.upstream.is_budget_low(repository, first.principal);
        candidates.first().is_some_and(low)
    }

    /// How long the registry has been in an outage, if that is why upstream failed with `error`; restarts included.
    pub(crate) async fn outage_lasted(&self, registry: &Registry, error: &Error) -> Option<Duration> {
        self.0.answers.outage_lasted(registry, error).await
    }

    /// A caller without a credential is challenged at once where anonymous access was refused before.
    fn challenge_if_refused_before(&self, context: &PullContext, subject: &Subject) -> Result<(), Error> {
        if context.caller().is_identified() {
            return Ok(());
        }
        match self.0.answers.anonymous_access(context.repository()) {
            AnonymousAccess::Unknown => return Ok(()),
            AnonymousAccess::Refused => {}
            AnonymousAccess::RefusedProbeDue => {
                let access = self.clone();
                let (context, subject) = (context.as_anonymous(), subject.clone());
                self.0.tasks.spawn(async move { access.probe(&context, &subject).await });
            }
        }
        Err(Error::authentication_required(ChallengeReason::Refused, None))
    }

    /// Whether a repository that refused anonymous access allows it now. A list proves nothing and is not asked for.
    async fn probe(&self, context: &PullContext, subject: &Subject) {
        if *subject == Subject::List {
            return;
        }
        let (upstream, repository) = (&self.0.upstream, context.repository());
        let request = |auth: AuthContext| async move {
            let proof = match subject {
                Subject::Tag(tag) => upstream.resolve(repository, tag, &auth).await?.proof,
                Subject::Manifest(digest) => {
                    upstream.confirm_manifest(repository, *digest, &auth).await?.proof
                }
                Subject::Blob(digest) => {
                    let size = self.membership().declared_size(repository, *digest);
                    proved_by(upstream.confirm_blob(repository, *digest, &auth).await?, size).proof
                }
                Subject::List => return Err(Error::panicked("probed a list")),
            };
            Ok(Allowed { value: (), proof })
        };
        if self.ask(context, subject, Purpose::Prove, request).await.is_ok() {
            tracing::info!(%repository, "a repository that refused anonymous access allows it now");
        }
    }

    /// `error` as the caller should see it: a challenge, if it showed no credential and one may make the difference.
    async fn or_challenge(&self, context: &PullContext, error: Error) -> Error {
        if context.caller().is_identified() {
            return error;
        }
        let Error::Upstream(cause) = &error else { return error };
        match cause {
            // It does not exist, or is withheld from who may read the repository: no credential would change that.
            upstream::Error::NotFound { public: true, .. } | upstream::Error::Withheld { .. } => error,
            upstream::Error::NotFound { .. } if self.known().fresh(context, Use::Read).await.is_some() => {
                error
            }
            cause if cause.is_denied() => {
                Error::authentication_required(ChallengeReason::Refused, Some(cause))
            }
            // A caller with a right of its own may be served from the store.
            cause if cause.is_outage() && self.known().held_since(context, &error).await.is_none() => {
                Error::authentication_required(ChallengeReason::Unreachable, Some(cause))
            }
            _ => error,
        }
    }
}

/// A registry's answer about a blob, which proves a right only if it shows that the registry has the blob, of `size`
/// bytes if that is known: a load balancer answers 200 for anything.
pub(crate) fn proved_by(allowed: Allowed<BlobHead>, size: Option<u64>) -> Allowed<BlobHead> {
    let shown = allowed.value.shows_blob_of(size);
    Allowed { proof: if shown { allowed.proof } else { ProvedRight::Nothing }, ..allowed }
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
