//! What upstream's answers say of rights, recorded: grants, denials, outages, and where anonymous access is refused.
//!
//! Promises: an answer that a credential was given is recorded for that principal and no other; only an answer that is
//! to prove a right proves or ends one; what is said to a list of tags or referrers does neither.
//!
//! Deliberately not here: the questions themselves ([`super::authorize`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::granted_rights::GrantedRights;
use super::negative_cache::{DeniedQuestion, NegativeCache, Subject};
use super::outages::Outages;
use super::refused_repositories::{AnonymousAccess, RefusedRepositories};
use super::rights::Trouble;
use crate::credentials::PresentedCredential;
use crate::pull::error::Error;
use crate::pull::metrics::RightEvent;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Principal, Registry, Repository};
use crate::store;
use crate::support::clock::Timestamp;
use crate::upstream::{Allowed, ProvedRight};

/// What is known of a right that the content of an answer is still to prove.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnprovedRight {
    revocations: u64,
    asked: Instant,
}

/// What upstream's answers said.
pub(crate) struct RecordedAnswers {
    rights: GrantedRights,
    upstream: Arc<dyn RegistryClient>,
    denials: NegativeCache,
    outages: Outages,
    refused: RefusedRepositories,
}

impl RecordedAnswers {
    pub(crate) fn new(rights: GrantedRights, upstream: Arc<dyn RegistryClient>, outages: Outages) -> Self {
        let (denials, refused) = (NegativeCache::default(), RefusedRepositories::default());
        Self { rights, upstream, denials, outages, refused }
    }

    /// The denial that upstream gave to this question a moment ago.
    pub(crate) fn denial(&self, question: &DeniedQuestion) -> Option<Error> {
        self.denials.find(question, self.negative_ttl())
    }

    /// Forgets the denial of a question: it is asked with another credential of the same principal.
    pub(crate) fn forget_denial(&self, question: &DeniedQuestion) {
        self.denials.forget(question);
    }

    fn negative_ttl(&self) -> Duration {
        self.rights.config.current().negative_ttl
    }

    /// Records what an answer says about rights. `proves` is what [`Self::revocations`] was before the question, if
    /// the answer is a proof.
    pub(crate) async fn record<T>(
        &self,
        question: DeniedQuestion,
        presented: &PresentedCredential,
        proves: Option<u64>,
        result: &Result<Allowed<T>, Error>,
    ) {
        let registry = question.repository.registry();
        // A list is another question than that for content: who may read the one may be refused the other.
        let proves = proves.filter(|_| question.subject != Subject::List);
        match result {
            Ok(allowed) => {
                self.answered_if_not_away(registry).await;
                if let Some(revocations) = proves {
                    self.record_proof(&question.repository, presented.principal, allowed.proof, revocations)
                        .await;
                }
            }
            Err(error) if error.is_denied() => {
                if error.revokes_access() && question.subject != Subject::List {
                    if error.is_public() || presented.credential.is_none() {
                        self.rights.shared.close(&question.repository);
                    }
                    let (repository, source) = (&question.repository, &presented.source);
                    // Where no credential was shown, everyone's right ends, and not that of the credential.
                    let concerned = if error.is_public() {
                        self.rights.principals.anonymous()
                    } else {
                        tracing::info!(%repository, %source, %error, "upstream refused a credential");
                        self.rights.principals.refused(repository, presented);
                        question.principal
                    };
                    if proves.is_some() && self.rights.grants.end(repository, concerned).await {
                        self.rights.metrics.count_right(concerned, RightEvent::Ended);
                    }
                }
                // After that: it may wait for the disk, and a client that leaves meanwhile keeps no right that has
                // ended.
                self.answered_if_not_away(registry).await;
                if error.is_answer() {
                    self.denials.record(question, error.clone(), self.negative_ttl());
                }
            }
            // Trouble with one question is no outage of the registry.
            Err(Error::Upstream(error))
                if Trouble::of(error) == Some(Trouble::Outage) && self.upstream.is_in_outage(registry) =>
            {
                self.outages.record(registry).await;
            }
            Err(_) => {}
        }
    }

    /// Records the right that an answer to `presented` proves.
    async fn record_proof(
        &self,
        repository: &Repository,
        presented: Principal,
        proof: ProvedRight,
        revocations: u64,
    ) {
        // What upstream gives without a credential is every caller's right, whatever was shown.
        let (principal, age) = match proof {
            ProvedRight::Public => (self.rights.principals.anonymous(), Duration::ZERO),
            ProvedRight::Principal { token_age } => (presented, token_age),
            ProvedRight::Nothing => return,
        };
        self.rights.metrics.count_right(principal, RightEvent::Proved);
        self.grant(repository, principal, age, revocations).await;
    }

    /// What an answer will prove when its content was verified; to be made before upstream is asked.
    pub(crate) fn unproved(&self) -> UnprovedRight {
        UnprovedRight { revocations: self.rights.grants.revocations(), asked: Instant::now() }
    }

    /// Records the right that `proof` is of, now that the content that came with it was verified.
    pub(crate) async fn record_verified(
        &self,
        repository: &Repository,
        presented: Principal,
        proof: ProvedRight,
        right: UnprovedRight,
    ) {
        let proof = match proof {
            // The registry answered before the body came.
            ProvedRight::Principal { token_age } => {
                ProvedRight::Principal { token_age: token_age + right.asked.elapsed() }
            }
            proof => proof,
        };
        self.record_proof(repository, presented, proof, right.revocations).await;
    }

    /// Records that the owner of the store lets `principal` read `repository`.
    pub(crate) async fn record_grant(&self, repository: &Repository, principal: Principal) {
        self.answered(repository.registry()).await;
        self.grant(repository, principal, Duration::ZERO, self.rights.grants.revocations()).await;
    }

    /// Records that a registry can be asked, unless what answered was only a mirror or a token server.
    async fn answered_if_not_away(&self, registry: &Registry) {
        if !self.upstream.is_in_outage(registry) {
            self.answered(registry).await;
        }
    }

    /// Records that a registry can be asked: what other nodes shared for its outage ends.
    async fn answered(&self, registry: &Registry) {
        self.rights.shared.answered(registry);
        self.outages.end(registry).await;
    }

    async fn grant(&self, repository: &Repository, principal: Principal, age: Duration, revocations: u64) {
        self.rights.grants.record(repository, principal, age, revocations).await;
        if principal.kind.is_shared() {
            self.refused.forget(repository);
        }
    }

    /// What [`Self::record`] is to be given for a question that is asked now.
    pub(crate) fn revocations(&self) -> u64 {
        self.rights.grants.revocations()
    }

    /// Ends every grant of a repository, or of all; returns how many there were.
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, store::Error> {
        // Both, whatever the disk says to the first: a revocation that it does not take is reported to the operator as
        // one that failed, and holds in memory.
        let (shared, own) =
            futures_util::join!(self.rights.shared.revoke(repository), self.rights.grants.revoke(repository));
        shared.and(own)
    }

    /// Records that a repository refuses the node's credentials and anonymous access.
    pub(crate) fn record_closed(&self, repository: &Repository) {
        self.refused.record(repository);
    }

    /// Whether a repository refused anonymous access before.
    pub(crate) fn anonymous_access(&self, repository: &Repository) -> AnonymousAccess {
        self.refused.state(repository)
    }

    /// Whether a repository refused anonymous access before; for people.
    pub(crate) fn is_refused(&self, repository: &Repository) -> bool {
        self.refused.is_refused(repository)
    }

    /// How long the registry has been in an outage, if that is why upstream failed with `error`; restarts included.
    pub(crate) async fn outage_lasted(&self, registry: &Registry, error: &Error) -> Option<Duration> {
        let Error::Upstream(error) = error else { return None };
        let is_outage = Trouble::of(error) == Some(Trouble::Outage) && self.upstream.is_in_outage(registry);
        if is_outage { Some(self.outages.record(registry).await) } else { None }
    }

    /// Whether the operator named a registry, or it answered before.
    pub(crate) fn is_known_registry(&self, registry: &Registry) -> bool {
        self.outages.is_known(registry)
    }

    /// The registries in outage, and since when.
    pub(crate) fn outages(&self) -> Vec<(Registry, Timestamp)> {
        self.outages.list()
    }
}
