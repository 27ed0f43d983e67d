//! Access: asks upstream as one principal after the other, and records what each answer proves.
//!
//! Promises: each answer is that principal's own, one credential never answers for another; a denial ends the grant of
//! the principal that was asked with, and no other; a caller that showed no credential is challenged where a credential
//! may make the difference. The asking part says whether the answer is to prove a right: then only authoritative endpoints
//! count, with a token no older than `grant_ttl`.
//!
//! Deliberately not here: what is asked for (the caller passes the request as a closure), and content.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::grants::Grants;
use super::known_rights::KnownRights;
use super::membership::Membership;
use super::negative_cache::{NegativeCache, Question, Subject};
use super::outages::Outages;
use super::principals::Principals;
pub(crate) use super::principals::Purpose;
use super::refused_repositories::{AnonymousAccess, RefusedRepositories};
use super::rights::{Trouble, Use};
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
use crate::support::metrics::RegistryLabels;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::{self, Allowed, AuthContext, BlobHead, Proof};

type Confirmations = Singleflight<(Repository, Digest, Principal), Result<Allowed<BlobHead>, Error>>;

/// Rights to repositories. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access(Arc<Inner>);

struct Inner {
    config: Live<Config>,
    upstream: Arc<dyn RegistryClient>,
    principals: Principals,
    known: KnownRights,
    grants: Arc<Grants>,
    membership: Membership,
    denials: NegativeCache,
    outages: Outages,
    refused: RefusedRepositories,
    confirmations: Confirmations,
    tasks: Tasks,
    metrics: Arc<Metrics>,
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
        labels: Arc<RegistryLabels>,
    ) -> Self {
        let grants = Arc::new(Grants::new(records.clone()));
        let principals = Principals::new(keychain);
        Self(Arc::new(Inner {
            known: KnownRights::new(
                config.clone(),
                Arc::clone(&grants),
                principals.clone(),
                Arc::clone(metrics),
            ),
            config,
            upstream,
            principals,
            grants,
            membership: Membership::new(records.clone()),
            denials: NegativeCache::default(),
            outages: Outages::new(records.clone(), Arc::clone(metrics), labels),
            refused: RefusedRepositories::default(),
            confirmations: Singleflight::new(tasks.clone()),
            tasks,
            metrics: Arc::clone(metrics),
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
        self.0.outages.list()
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

    async fn ask_each<T, F>(
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
        let proof = match purpose {
            Purpose::Prove => Some(inner.known.terms(repository).grant_ttl),
            Purpose::Deliver(_) => None,
        };
        let (mut denied, mut limited) = (None, None);
        let (candidates, incomplete) = inner.principals.candidates(caller, repository, purpose).await;
        let mut candidates = VecDeque::from(candidates);
        while let Some(presented) = candidates.pop_front() {
            if presented.credential.is_none()
                && !caller.is_identified()
                && inner.upstream.is_budget_low(repository.registry(), presented.principal)
            {
                return Err(Error::authentication_required(ChallengeReason::RateLimit, None));
            }
            let question = self.question(repository, subject, &presented);
            let revocations = inner.grants.revocations();
            let result = match inner.denials.find(&question, self.negative_ttl()) {
                Some(error) => Err(error),
                None => {
                    let patience = context.patience();
                    let result = request(AuthContext { presented: presented.clone(), proof, patience }).await;
                    self.record(question, &presented, proof.map(|_| revocations), &result).await;
                    result
                }
            };
            match result {
                Ok(allowed) => return Ok((allowed.value, presented)),
                Err(error) if error.is_denied() => {
                    if denied.is_none() && error.revokes_access() {
                        candidates.extend(self.renewed(repository, subject, &presented).await);
                    }
                    denied = denied.or(Some(error));
                }
                // A limit is of one credential; the next one may have something left.
                Err(error) if error.is_rate_limited() => limited = limited.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        // The registry was not asked with the credential that may open it.
        if incomplete && caller.presented().is_none() && limited.is_none() && denied.is_some() {
            let registry = repository.registry().clone();
            return Err(upstream::Error::CredentialUnavailable { registry }.into());
        }
        let is_refused = denied.as_ref().is_some_and(Error::revokes_access) && *subject != Subject::List;
        if limited.is_none() && !caller.is_identified() && is_refused {
            inner.refused.record(repository);
        }
        let none_asked = Error::authentication_required(ChallengeReason::Refused, None);
        Err(limited.or(denied).unwrap_or(none_asked))
    }

    fn question(
        &self,
        repository: &Repository,
        subject: &Subject,
        presented: &PresentedCredential,
    ) -> Question {
        Question { repository: repository.clone(), subject: subject.clone(), principal: presented.principal }
    }

    fn negative_ttl(&self) -> Duration {
        self.0.config.current().negative_ttl
    }

    async fn renewed(
        &self,
        repository: &Repository,
        subject: &Subject,
        refused: &PresentedCredential,
    ) -> Option<PresentedCredential> {
        let again = self.0.principals.renewed(repository, refused).await?;
        self.0.denials.forget(&self.question(repository, subject, &again));
        Some(again)
    }

    /// Records what an answer says about rights. `proves` is what [`Grants::revocations`] was before the question, if the
    /// answer is a proof.
    async fn record<T>(
        &self,
        question: Question,
        presented: &PresentedCredential,
        proves: Option<u64>,
        result: &Result<Allowed<T>, Error>,
    ) {
        let inner = &*self.0;
        let registry = question.repository.registry();
        // A list is another question than that for content: who may read the one may be refused the other.
        let proves = proves.filter(|_| question.subject != Subject::List);
        match result {
            Ok(allowed) => {
                // A mirror's delivery is no answer of the registry.
                if !inner.upstream.is_in_outage(registry) {
                    inner.outages.end(registry).await;
                }
                if let Some(revocations) = proves {
                    self.record_proof(&question.repository, presented.principal, allowed.public, revocations)
                        .await;
                }
            }
            Err(error) if error.is_denied() => {
                inner.outages.end(registry).await;
                if error.revokes_access() && question.subject != Subject::List {
                    let (repository, source) = (&question.repository, &presented.source);
                    tracing::info!(%repository, %source, %error, "upstream refused a credential");
                    inner.principals.refused(repository, presented);
                    if proves.is_some() && inner.grants.end(&question.repository, question.principal).await {
                        inner.metrics.count_right(question.principal, "ended");
                    }
                }
                if error.is_answer() {
                    inner.denials.record(question, error.clone(), self.negative_ttl());
                }
            }
            // Trouble with one question is no outage of the registry.
            Err(Error::Upstream(error))
                if Trouble::of(error) == Some(Trouble::Outage) && inner.upstream.is_in_outage(registry) =>
            {
                inner.outages.record(registry).await;
            }
            Err(_) => {}
        }
    }

    /// Records the right that an answer to `presented` proves.
    async fn record_proof(
        &self,
        repository: &Repository,
        presented: Principal,
        proof: Proof,
        revocations: u64,
    ) {
        // What upstream gives without a credential is every caller's right, whatever was shown.
        let (principal, age) = match proof {
            Proof::Public => (self.0.principals.anonymous(), Duration::ZERO),
            Proof::Principal { token_age } => (presented, token_age),
            Proof::Nothing => return,
        };
        self.0.metrics.count_right(principal, "proved");
        self.grant(repository, principal, age, revocations).await;
    }

    /// What an answer will prove when its content was verified; to be made before upstream is asked.
    pub(crate) fn unproved(&self) -> UnprovedRight {
        UnprovedRight { revocations: self.0.grants.revocations(), asked: Instant::now() }
    }

    /// Records the right that `proof` is of, now that the content that came with it was verified.
    pub(crate) async fn record_verified(
        &self,
        repository: &Repository,
        presented: Principal,
        proof: Proof,
        right: UnprovedRight,
    ) {
        let proof = match proof {
            // The registry answered before the body came.
            Proof::Principal { token_age } => {
                Proof::Principal { token_age: token_age + right.asked.elapsed() }
            }
            proof => proof,
        };
        self.record_proof(repository, presented, proof, right.revocations).await;
    }

    /// Records that the owner of the store lets `principal` read `repository`.
    pub(crate) async fn record_grant(&self, repository: &Repository, principal: Principal) {
        self.0.outages.end(repository.registry()).await;
        self.grant(repository, principal, Duration::ZERO, self.0.grants.revocations()).await;
    }

    async fn grant(&self, repository: &Repository, principal: Principal, age: Duration, revocations: u64) {
        self.0.grants.record(repository, principal, age, revocations).await;
        if principal.kind.is_shared() {
            self.0.refused.forget(repository);
        }
    }

    /// Asks upstream whether the repository has a blob of `size` bytes, if that is known, and records membership. The caller
    /// makes sure that the same registry delivers, or delivered, the bytes. An answer that does not show the blob proves
    /// nothing: the content has to.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub(crate) async fn confirm_blob(
        &self,
        context: &PullContext,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<BlobHead, Error> {
        // The bytes are here: what was proved before may hold without an answer.
        let context = &context.without_patience();
        let repository = context.repository();
        let request = |auth: AuthContext| {
            let upstream = Arc::clone(&self.0.upstream);
            let key = (repository.clone(), digest, auth.presented.principal);
            let asked = repository.clone();
            self.0.confirmations.run(key, move || async move {
                upstream.confirm_blob(&asked, digest, &auth).await.map_err(Error::from)
            })
        };
        let ended = || Err(Error::panicked("confirmed a blob upstream"));
        let request = |auth| async { Ok(proved_by(request(auth).await.unwrap_or_else(ended)?, size)) };
        let (head, _) = self.ask(context, &Subject::Blob(digest), Purpose::Prove, request).await?;
        if head.shows_blob_of(size) {
            self.0.membership.confirm_blob(repository, digest).await;
        }
        Ok(head)
    }

    /// Whether the rate limit of the principal that upstream is asked as first is nearly used up.
    pub(crate) async fn is_budget_low(&self, context: &PullContext) -> bool {
        let (caller, repository) = (context.caller(), context.repository());
        let (candidates, _) = self.0.principals.candidates(caller, repository, Purpose::Prove).await;
        let low = |first: &PresentedCredential| {
            self.0.upstream.is_budget_low(repository.registry(), first.principal)
        };
        candidates.first().is_some_and(low)
    }

    /// How long the registry has been in an outage, if that is why upstream failed with `error`; restarts included.
    pub(crate) async fn outage_lasted(&self, registry: &Registry, error: &Error) -> Option<Duration> {
        let Error::Upstream(error) = error else { return None };
        let is_outage = Trouble::of(error) == Some(Trouble::Outage) && self.0.upstream.is_in_outage(registry);
        if is_outage { Some(self.0.outages.record(registry).await) } else { None }
    }

    /// Ends every grant of a repository, or of all; returns how many there were.
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, store::Error> {
        // Before the rights: none may be proved again by a token from before.
        self.0.upstream.forget_tokens(repository);
        let count = self.0.grants.revoke(repository).await?;
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
        match self.0.refused.state(context.repository()) {
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
            let public = match subject {
                Subject::Tag(tag) => upstream.resolve(repository, tag, &auth).await?.public,
                Subject::Manifest(digest) => {
                    upstream.confirm_manifest(repository, *digest, &auth).await?.public
                }
                Subject::Blob(digest) => {
                    let size = self.membership().declared_size(repository, *digest);
                    proved_by(upstream.confirm_blob(repository, *digest, &auth).await?, size).public
                }
                Subject::List => return Err(Error::panicked("probed a list")),
            };
            Ok(Allowed { value: (), public })
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

/// What is known of a right that the content of an answer is still to prove.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnprovedRight {
    revocations: u64,
    asked: Instant,
}

/// A registry's answer about a blob, which proves a right only if it shows that the registry has the blob, of `size` bytes
/// if that is known: a load balancer answers 200 for anything.
pub(crate) fn proved_by(allowed: Allowed<BlobHead>, size: Option<u64>) -> Allowed<BlobHead> {
    let shown = allowed.value.shows_blob_of(size);
    Allowed { public: if shown { allowed.public } else { Proof::Nothing }, ..allowed }
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
