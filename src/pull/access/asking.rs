//! Asking upstream as one principal after the other; what each answer proves is recorded.
//!
//! Promises: each answer is that principal's own, one credential never answers for another; a denial ends the grant of
//! the principal that was asked with, and no other. The purpose says whether the answer is to prove a right: then only
//! authoritative endpoints count, with a token no older than `grant_ttl`.
//!
//! Deliberately not here: the request itself, which is passed as a closure, and the challenge to a caller that showed
//! no credential (`authorize`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::confirmations::Confirmations;
use super::denied_reference::DeniedReference;
use super::known_rights::KnownRights;
use super::membership::Membership;
use super::negative_cache::{DeniedQuestion, Subject};
use super::principals::{Principals, Purpose};
use super::recorded_answers::RecordedAnswers;
use super::tried::Tried;
use crate::credentials::PresentedCredential;
use crate::pull::context::PullContext;
use crate::pull::error::{ChallengeReason, Error};
use crate::pull::registry_client::RegistryClient;
use crate::upstream::{self, Allowed, AuthContext, Need};

/// What is asked about, for which pull, and what it takes to ask.
pub(super) struct Asking<'a> {
    pub(super) upstream: &'a Arc<dyn RegistryClient>,
    pub(super) principals: &'a Principals,
    pub(super) known: &'a KnownRights,
    pub(super) answers: &'a RecordedAnswers,
    pub(super) membership: &'a Membership,
    pub(super) confirmations: &'a Confirmations<()>,
    pub(super) context: &'a PullContext,
    pub(super) subject: &'a Subject,
}

impl Asking<'_> {
    /// Asks with `request` until one principal is allowed; returns the answer and that principal's credential.
    ///
    /// # Errors
    /// That it is withheld from one; else the first denial, if all were denied; a rate limit, if no other principal had
    /// an answer; an outage at once.
    pub(super) async fn ask_each<T, F>(
        &self,
        purpose: Purpose,
        request: impl Fn(AuthContext) -> F,
    ) -> Result<(T, PresentedCredential), Error>
    where
        F: Future<Output = Result<Allowed<T>, Error>>,
    {
        let mut tried = Tried::default();
        let answered = self.ask_in_turn(purpose, request, &mut tried).await;
        // What is withheld from one principal is not served because another one cannot be asked.
        answered.map_err(|error| tried.denied.filter(Error::is_withheld).unwrap_or(error))
    }

    async fn ask_in_turn<T, F>(
        &self,
        purpose: Purpose,
        request: impl Fn(AuthContext) -> F,
        tried: &mut Tried,
    ) -> Result<(T, PresentedCredential), Error>
    where
        F: Future<Output = Result<Allowed<T>, Error>>,
    {
        let (repository, caller) = (self.context.repository(), self.context.caller());
        let (candidates, incomplete) = self.principals.candidates(caller, repository, purpose).await;
        tried.node_is_unanswered = incomplete;
        let mut candidates = VecDeque::from(candidates);
        while let Some(presented) = candidates.pop_front().or_else(|| self.last_resort(tried)) {
            if presented.credential.is_none()
                && !caller.is_identified()
                && self.upstream.is_budget_low(repository, presented.principal)
            {
                return Err(Error::authentication_required(ChallengeReason::RateLimit, None));
            }
            tried.anonymous |= presented.credential.is_none();
            match self.ask_as(&presented, purpose, &request).await {
                Ok(allowed) => return Ok((allowed.value, presented)),
                Err(error) if error.is_denied() => {
                    if !tried.has_renewed && error.revokes_access() {
                        let again = self.renewed(&presented).await;
                        tried.has_renewed = again.is_some();
                        candidates.extend(again);
                    }
                    tried.is_certain |= incomplete && self.is_certain(&error, &presented).await;
                    tried.add_denial(error, presented.principal);
                }
                // A limit is of one credential; the next one may have something left.
                Err(error) if error.is_rate_limited() => tried.limited = tried.limited.take().or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(self.none_allowed(tried))
    }

    /// Asks as one principal, unless upstream denied it that a moment ago, and records the answer.
    async fn ask_as<T, F>(
        &self,
        presented: &PresentedCredential,
        purpose: Purpose,
        request: &impl Fn(AuthContext) -> F,
    ) -> Result<Allowed<T>, Error>
    where
        F: Future<Output = Result<Allowed<T>, Error>>,
    {
        let question = self.question(presented);
        // Before it is asked: what ends a right meanwhile counts more than the answer.
        let revocations = self.answers.revocations();
        if let Some(denial) = self.answers.denial(&question) {
            return Err(denial);
        }
        let need = match purpose {
            Purpose::Prove | Purpose::Confirm(_) => {
                Need::Proof { token_age_max: self.known.terms(self.context.repository()).grant_ttl }
            }
            Purpose::Deliver(_) => Need::Delivery,
        };
        let (patience, asked) = (self.context.patience(), self.context.asked());
        let auth = || AuthContext { presented: presented.clone(), need, patience, asked: asked.clone() };
        let result = match request(auth()).await {
            Err(Error::Upstream(denial)) if need.is_proof() && denial.may_be_of_one_reference() => {
                let denied = self.denied(&question);
                Err(Box::pin(denied.judge(denial, auth())).await.into())
            }
            result => result,
        };
        let proves = need.is_proof().then_some(revocations);
        self.answers.record(question, presented, proves, &result).await;
        result
    }

    fn denied<'b>(&'b self, question: &'b DeniedQuestion) -> DeniedReference<'b> {
        let Self { upstream, known, answers, membership, confirmations, .. } = *self;
        DeniedReference { upstream, known, answers, membership, confirmations, question }
    }

    /// Anonymous access, after all credentials failed for a reason that says nothing about it: the node's login may be
    /// outdated, or not to be had now, and the image public. It is no login, so that none is refused for it.
    fn last_resort(&self, tried: &Tried) -> Option<PresentedCredential> {
        let says_nothing = tried.node_is_refused || tried.node_is_unanswered;
        (says_nothing && !tried.anonymous).then(|| self.principals.no_credential())
    }

    /// Whether a denial holds whatever other credentials there are: there is no such thing in a repository that this
    /// principal can read.
    async fn is_certain(&self, denial: &Error, asked: &PresentedCredential) -> bool {
        let Error::Upstream(upstream::Error::NotFound { public, .. }) = denial else { return false };
        let concerned = self.known.concerned(asked.principal, *public);
        *public || self.known.credible_principals(self.context.repository()).await.contains(&concerned)
    }

    /// What a plugin gives now in place of a credential that was refused.
    async fn renewed(&self, refused: &PresentedCredential) -> Option<PresentedCredential> {
        let again = self.principals.renewed(self.context.repository(), refused).await?;
        self.answers.forget_denial(&self.question(&again));
        Some(again)
    }

    fn question(&self, presented: &PresentedCredential) -> DeniedQuestion {
        let (repository, subject) = (self.context.repository().clone(), self.subject.clone());
        DeniedQuestion { repository, subject, principal: presented.principal }
    }

    /// Why no principal was allowed.
    fn none_allowed(&self, tried: &mut Tried) -> Error {
        let repository = self.context.repository();
        if tried.may_be_opened_later() {
            let registry = repository.registry().clone();
            return upstream::Error::CredentialUnavailable { registry }.into();
        }
        let is_refused =
            tried.denied.as_ref().is_some_and(Error::revokes_access) && *self.subject != Subject::List;
        if tried.limited.is_none() && !self.context.caller().is_identified() && is_refused {
            self.answers.record_closed(repository);
        }
        let none_asked = || Error::authentication_required(ChallengeReason::Refused, None);
        tried.limited.take().or_else(|| tried.denied.clone()).unwrap_or_else(none_asked)
    }
}
