//! Whether a caller may read a repository by what is known already, without a request to upstream.
//!
//! The decisions themselves are in [`super::rights`]; here they meet the grants, the principals that the caller may
//! use, and the operator's terms.

use std::time::Duration;

use super::granted_rights::GrantedRights;
use super::grants::Grant;
use super::rights::{self, Trouble, Use};
use crate::pull::config::{Policy, Terms};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::metrics::RightEvent;
use crate::reference::{Principal, Repository};
use crate::support::clock::{Moment, Timestamp};

/// A right to a repository, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRight {
    /// Whose it is.
    pub principal: Principal,
    /// When upstream last proved it.
    pub proved_at: Timestamp,
    /// Whether it needs no new proof now.
    pub is_fresh: bool,
    /// Whether it would hold if upstream could not be asked now.
    pub holds_in_outage: bool,
    /// Whether this caller may use it.
    pub is_callers: bool,
}

/// How long an answer of upstream counts for others who ask the same, where no right is recorded for it: many
/// registries state no digest, so that only the whole content proves a right.
const SHARED_FOR: Duration = Duration::from_secs(60);

/// When a question that is to prove a right was asked, and how often rights had ended by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedAt {
    at: Moment,
    endings: u64,
}

/// The rights that are known. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KnownRights(GrantedRights);

impl KnownRights {
    pub(crate) fn new(rights: GrantedRights) -> Self {
        Self(rights)
    }

    /// The operator's terms for a repository.
    pub(crate) fn terms(&self, repository: &Repository) -> Terms {
        self.0.config.current().terms(repository.registry())
    }

    /// A principal that the caller may use and whose grant needs no new proof.
    pub(crate) async fn fresh(&self, context: &PullContext, wanted: Use) -> Option<Principal> {
        self.fresh_grant(context, wanted).await.map(|grant| grant.principal)
    }

    /// What is to be known of a question that is asked now, for [`Self::counts_for_others`].
    pub(crate) fn asked_now(&self) -> AskedAt {
        AskedAt { at: Moment::recorded(self.0.grants.now()), endings: self.0.grants.endings() }
    }

    /// Whether the answer to a question that was to prove a right is also one to others who ask the same now: it was
    /// asked a short time ago, and no right has ended since.
    pub(crate) fn counts_for_others(&self, repository: &Repository, asked: AskedAt) -> bool {
        let age = asked.at.age_at(self.0.grants.now());
        let is_young = age < SHARED_FOR && rights::is_fresh(age, Use::Read, &self.terms(repository));
        is_young && self.0.grants.endings() == asked.endings
    }

    /// The grant of such a principal.
    pub(crate) async fn fresh_grant(&self, context: &PullContext, wanted: Use) -> Option<Grant> {
        let repository = context.repository();
        let terms = self.terms(repository);
        for grant in self.0.grants.of(repository).await {
            if rights::is_fresh(grant.age, wanted, &terms)
                && self.0.principals.may_use(context.caller(), grant.principal, repository).await
            {
                return Some(grant);
            }
        }
        None
    }

    /// Every right to the repository that is known, and what it is worth to this caller; for people.
    pub(crate) async fn all(&self, context: &PullContext) -> Vec<KnownRight> {
        let (repository, mut all) = (context.repository(), Vec::new());
        let terms = self.terms(repository);
        for Grant { principal, age, proved_at } in self.0.grants.of(repository).await {
            all.push(KnownRight {
                principal,
                proved_at,
                is_fresh: rights::is_fresh(age, Use::Resolve, &terms),
                holds_in_outage: rights::holds(principal.kind, age, Trouble::Outage, &terms),
                is_callers: self.0.principals.may_use(context.caller(), principal, repository).await,
            });
        }
        all.sort_by_key(|right| std::cmp::Reverse(right.proved_at));
        all
    }

    /// The principals whose word counts that something in the repository is gone: those with a right that needs no new
    /// proof, and one that is the only one to have a right.
    pub(crate) async fn credible_principals(&self, repository: &Repository) -> Vec<Principal> {
        let terms = self.terms(repository);
        let grants = self.0.grants.of(repository).await;
        let counts = |grant: &&Grant| grants.len() == 1 || rights::is_fresh(grant.age, Use::Read, &terms);
        grants.iter().filter(counts).map(|grant| grant.principal).collect()
    }

    /// The principals that have a right, whether it needs a new proof or not.
    pub(crate) async fn principals(&self, repository: &Repository) -> Vec<Principal> {
        self.0.grants.of(repository).await.iter().map(|grant| grant.principal).collect()
    }

    /// When it was proved last that everyone may read a repository, if that is fresh.
    pub(crate) async fn public_since(&self, repository: &Repository) -> Option<Timestamp> {
        let (everyone, terms) = (self.0.principals.anonymous(), self.terms(repository));
        let grants = self.0.grants.of(repository).await;
        let is_fresh = |grant: &&Grant| rights::is_fresh(grant.age, Use::Read, &terms);
        let found = grants.iter().filter(|grant| grant.principal == everyone).find(is_fresh)?;
        Some(found.proved_at)
    }

    /// The principal whose right an answer to `asked` is about; what upstream says without a credential is about
    /// everyone's.
    pub(crate) fn concerned(&self, asked: Principal, is_public: bool) -> Principal {
        if is_public { self.0.principals.anonymous() } else { asked }
    }

    /// Whether what is cached of the repository may be served without asking upstream.
    pub(crate) async fn open_cached(&self, context: &PullContext, wanted: Use) -> bool {
        self.is_open_to_all(context.repository()) || self.fresh(context, wanted).await.is_some()
    }

    /// Whether the operator opened what is cached to every pod.
    pub(crate) fn is_open_to_all(&self, repository: &Repository) -> bool {
        self.terms(repository).policy == Policy::Open
    }

    /// When the grant was last proved that holds although upstream failed with `error`; `None` if there is none, or if
    /// `error` is an answer of upstream.
    pub(crate) async fn held_since(&self, context: &PullContext, error: &Error) -> Option<Timestamp> {
        let trouble = match error {
            Error::Upstream(error) => Trouble::of(error)?,
            Error::OutOfTime { .. } => Trouble::NotAsked,
            _ => return None,
        };
        let repository = context.repository();
        let terms = self.terms(repository);
        let mut held: Option<(Principal, Timestamp)> = None;
        for grant in self.0.grants.of(repository).await {
            if rights::holds(grant.principal.kind, grant.age, trouble, &terms)
                && self.0.principals.may_use(context.caller(), grant.principal, repository).await
                && held.is_none_or(|(_, before)| grant.proved_at > before)
            {
                held = Some((grant.principal, grant.proved_at));
            }
        }
        if trouble == Trouble::Outage && held.is_none() {
            let everyone = self.0.principals.anonymous();
            let shared = self.0.shared.held(repository, terms.outage_grace);
            held = shared.map(|proved_at| (everyone, proved_at));
        }
        let (principal, since) = held?;
        self.0.metrics.count_right(principal, RightEvent::Held);
        Some(since)
    }
}
