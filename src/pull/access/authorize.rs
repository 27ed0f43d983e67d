//! Access: asks upstream as one principal after the other; what each answer proves is recorded.
//!
//! Promises: each answer is that principal's own, one credential never answers for another; a denial ends the grant of
//! the principal that was asked with, and no other; a caller that showed no credential is challenged where a credential
//! may make the difference. The asking part says whether the answer is to prove a right: then only authoritative
//! endpoints count, with a token no older than `grant_ttl`.
//!
//! Deliberately not here: what is asked for (the caller passes the request as a closure), and content.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::grants::Grants;
use super::known_rights::KnownRights;
use super::membership::Membership;
use super::negative_cache::{Question, Subject};
use super::outages::Outages;
use super::principals::Principals;
pub(crate) use super::principals::Purpose;
use super::recorded_answers::RecordedAnswers;
pub(crate) use super::recorded_answers::UnprovedRight;
use super::refused_repositories::AnonymousAccess;
use super::rights::Use;
use super::shared_rights::SharedRights;
use super::tried::Tried;
use crate::credentials::{Keychain, PresentedCredential};
use crate::pull::config::Config;
use crate::pull::context::PullContext;
use crate::pull::error::{ChallengeReason, Error};
use crate::pull::metrics::Metrics;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Digest, Principal, Registry, Repository};
use crate::store::{self, Records};
use crate::support::clock::Timestamp;
use crate::support::live::Live;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::{self, Allowed, AuthContext, BlobHead, Need, Proof};

type Confirmations<T> = Singleflight<(Repository, Digest, Principal), Result<Allowed<T>, Error>>;

/// Rights to repositories. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) upstream: Arc<dyn RegistryClient>,
    principals: Principals,
    known: KnownRights,
    answers: RecordedAnswers,
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
        let grants = Arc::new(Grants::new(records.clone()));
        let principals = Principals::new(keychain);
        let shared = Arc::new(SharedRights::new(records.clone()));
        let known = KnownRights::new(
            config.clone(),
            Arc::clone(&grants),
            principals.clone(),
            Arc::clone(&shared),
            Arc::clone(metrics),
        );
        let outages = Outages::new(records.clone(), config.clone());
        let (client, who) = (Arc::clone(&upstream), principals.clone());
        let (ends, counted) = (Arc::clone(&shared), Arc::clone(metrics));
        let answers = RecordedAnswers::new(config, client, who, grants, outages, ends, counted);
        let membership = Membership::new(records.clone());
        Self(Arc::new(Inner {
            upstream,
            principals,
            known,
            answers,
            membership,
            shared,
            blob_confirmations: Singleflight::new(tasks.clone()),
            manifest_confirmations: Singleflight::new(tasks.clone()),
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

    /// Asks upstream as one principal after the other until one is allowed; returns the answer and that principal's
    /// credential.
    ///
    /// # Errors
    /// The first denial, if all were denied; a rate limit, if no other principal had an answer; an outage at once;
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
        let inner = &*self.0;
        let (repository, caller) = (context.repository(), context.caller());
        let need = match purpose {
            Purpose::Prove | Purpose::Confirm(_) => {
                Need::Proof { token_age_max: inner.known.terms(repository).grant_ttl }
            }
            Purpose::Deliver(_) => Need::Delivery,
        };
        let mut tried = Tried::default();
        let (candidates, incomplete) = inner.principals.candidates(caller, repository, purpose).await;
        tried.node_is_unanswered = incomplete;
        let mut candidates = VecDeque::from(candidates);
        while let Some(presented) = candidates.pop_front().or_else(|| self.last_resort(&tried)) {
            if presented.credential.is_none()
                && !caller.is_identified()
                && inner.upstream.is_budget_low(repository, presented.principal)
            {
                return Err(Error::authentication_required(ChallengeReason::RateLimit, None));
            }
            tried.anonymous |= presented.credential.is_none();
            let question = self.question(repository, subject, &presented);
            let revocations = inner.answers.revocations();
            let result = match inner.answers.denial(&question) {
                Some(error) => Err(error),
                None => {
                    let (patience, asked) = (context.patience(), context.asked().clone());
                    let auth = AuthContext { presented: presented.clone(), need, patience, asked };
                    let result = request(auth).await;
                    let proves = need.is_proof().then_some(revocations);
                    inner.answers.record(question, &presented, proves, &result).await;
                    result
                }
            };
            match result {
                Ok(allowed) => return Ok((allowed.value, presented)),
                Err(error) if error.is_denied() => {
                    if !tried.has_renewed && error.revokes_access() {
                        let again = self.renewed(repository, subject, &presented).await;
                        tried.has_renewed = again.is_some();
                        candidates.extend(again);
                    }
                    tried.is_certain |= incomplete && self.is_certain(context, &error, &presented).await;
                    tried.add_denial(error, presented.principal);
                }
                // A limit is of one credential; the next one may have something left.
                Err(error) if error.is_rate_limited() => tried.limited = tried.limited.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        if tried.may_be_opened_later() {
            let registry = repository.registry().clone();
            return Err(upstream::Error::CredentialUnavailable { registry }.into());
        }
        let is_refused =
            tried.denied.as_ref().is_some_and(Error::revokes_access) && *subject != Subject::List;
        if tried.limited.is_none() && !caller.is_identified() && is_refused {
            inner.answers.record_closed(repository);
        }
        let none_asked = Error::authentication_required(ChallengeReason::Refused, None);
        Err(tried.limited.or(tried.denied).unwrap_or(none_asked))
    }

    /// Anonymous access, after all credentials failed for a reason that says nothing about it: the node's login may be
    /// outdated, or not to be had now, and the image public. It is no login, so that none is refused for it.
    fn last_resort(&self, tried: &Tried) -> Option<PresentedCredential> {
        let says_nothing = tried.node_is_refused || tried.node_is_unanswered;
        (says_nothing && !tried.anonymous).then(|| self.0.principals.no_credential())
    }

    /// Whether a denial holds whatever other credentials there are: there is no such thing in a repository that this
    /// principal can read.
    async fn is_certain(&self, context: &PullContext, denial: &Error, asked: &PresentedCredential) -> bool {
        let Error::Upstream(upstream::Error::NotFound { public, .. }) = denial else { return false };
        let concerned = self.known().concerned(asked.principal, *public);
        *public || self.known().credible_principals(context.repository()).await.contains(&concerned)
    }

    fn question(
        &self,
        repository: &Repository,
        subject: &Subject,
        presented: &PresentedCredential,
    ) -> Question {
        Question { repository: repository.clone(), subject: subject.clone(), principal: presented.principal }
    }

    async fn renewed(
        &self,
        repository: &Repository,
        subject: &Subject,
        refused: &PresentedCredential,
    ) -> Option<PresentedCredential> {
        let again = self.0.principals.renewed(repository, refused).await?;
        self.0.answers.forget_denial(&self.question(repository, subject, &again));
        Some(again)
    }

    /// Whether the repository refused the node's credentials and anonymous access, as far as that is remembered.
    pub(crate) fn is_refused(&self, repository: &Repository) -> bool {
        self.0.answers.is_refused(repository)
    }

    /// What an answer will prove when its content was verified; to be made before upstream is asked.
    pub(crate) fn unproved(&self) -> UnprovedRight {
        self.0.answers.unproved()
    }

    /// Records the right that `proof` is of, now that the content that came with it was verified.
    pub(crate) async fn record_verified(
        &self,
        repository: &Repository,
        presented: Principal,
        proof: Proof,
        right: UnprovedRight,
    ) {
        self.0.answers.record_verified(repository, presented, proof, right).await;
    }

    /// Records that the owner of the store lets `principal` read `repository`.
    pub(crate) async fn record_grant(&self, repository: &Repository, principal: Principal) {
        self.0.answers.record_grant(repository, principal).await;
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
            // It does not exist, and no credential would change that.
            upstream::Error::NotFound { public: true, .. } => error,
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
    Allowed { proof: if shown { allowed.proof } else { Proof::Nothing }, ..allowed }
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
