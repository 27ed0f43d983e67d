//! Who may have what: the place where every answer is justified.
//!
//! Two things are needed. A *right*: upstream let a principal that the caller may use read the repository, not long
//! ago. And *membership*: this repository's own upstream delivered these bytes, or its registry once delivered them
//! under another name and now confirms them under this one. **That a manifest names a digest proves nothing**, and a
//! confirmation by a registry that never delivered the bytes itself proves nothing either: anybody can publish an
//! index, and anybody can run a registry that confirms everything.
//!
//! Upstream is asked in kubelet's order: the caller's credential, the node's, the plugins'; anonymously only where
//! there is none of them. Each answer is that principal's own: one's credential never answers for another.

use std::collections::VecDeque;
use std::time::Duration;

use crate::credentials::PresentedCredential;
use crate::pull::Puller;
use crate::pull::access::grants::{Question, Subject};
use crate::pull::access::rights::{self, Trouble, Use};
use crate::pull::config::Policy;
use crate::pull::error::{Error, Unidentified};
use crate::reference::{Digest, Principal, PrincipalKind, Repository, Tag};
use crate::store::Member;
use crate::support::clock::Timestamp;
use crate::upstream::{self, Allowed, AuthContext};

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Caller {
    presented: Option<PresentedCredential>,
    pub(crate) identified: bool,
}

impl Caller {
    /// Somebody who has not been asked yet who it is.
    pub fn unidentified() -> Self {
        Self { presented: None, identified: false }
    }

    /// Somebody who was asked and has no credential.
    pub fn anonymous() -> Self {
        Self { presented: None, identified: true }
    }

    /// Somebody with a credential of its own.
    pub fn with(presented: PresentedCredential) -> Self {
        Self { presented: Some(presented), identified: true }
    }

    /// Whether upstream is asked with the same credential for both.
    pub(crate) fn asks_like(&self, other: &Self) -> bool {
        self.principal() == other.principal()
    }

    fn principal(&self) -> Option<Principal> {
        self.presented.as_ref().map(|presented| presented.principal)
    }
}

/// What an answer of upstream is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// To prove a right.
    Prove,
    /// To deliver what this principal may read already.
    Deliver(Principal),
}

impl Puller {
    /// A principal that `caller` may use and whose right to `repository` needs no new proof.
    pub(crate) async fn right(
        &self,
        repository: &Repository,
        caller: &Caller,
        wanted: Use,
    ) -> Option<Principal> {
        let terms = self.0.config.terms(repository.registry());
        for (principal, age, _) in self.0.grants.of(repository).await {
            if rights::is_fresh(age, wanted, &terms) && self.may_use(repository, caller, principal).await {
                return Some(principal);
            }
        }
        None
    }

    /// Whether upstream ever let a principal that `caller` may use read `repository`, and has not ended it since.
    pub(crate) async fn had_right(&self, repository: &Repository, caller: &Caller) -> bool {
        for (principal, ..) in self.0.grants.of(repository).await {
            if self.may_use(repository, caller, principal).await {
                return true;
            }
        }
        false
    }

    /// Whether what is cached of `repository` may be handed to `caller` without auth.
    pub(crate) async fn may_read_cached(
        &self,
        repository: &Repository,
        caller: &Caller,
        wanted: Use,
    ) -> bool {
        self.is_open(repository) || self.right(repository, caller, wanted).await.is_some()
    }

    /// Whether the operator opened what is cached to every pod.
    pub(crate) fn is_open(&self, repository: &Repository) -> bool {
        self.0.config.terms(repository.registry()).policy == Policy::Open
    }

    /// Since when a right is known that holds while upstream cannot be asked; `None` if there is none, or if upstream
    /// did answer.
    pub(crate) async fn held_since(
        &self,
        repository: &Repository,
        caller: &Caller,
        error: &Error,
    ) -> Option<Timestamp> {
        let Error::Upstream(error) = error else { return None };
        let trouble = Trouble::of(error)?;
        let terms = self.0.config.terms(repository.registry());
        let mut held = None;
        for (principal, age, at) in self.0.grants.of(repository).await {
            if rights::holds(principal.kind, age, trouble, &terms)
                && self.may_use(repository, caller, principal).await
                && held.is_none_or(|(_, before)| at > before)
            {
                held = Some((principal, at));
            }
        }
        if let Some((principal, _)) = held {
            self.0.metrics.count_right(principal, "held");
        }
        held.map(|(_, at)| at)
    }

    /// Whether `caller` may use the right of `principal`.
    async fn may_use(&self, repository: &Repository, caller: &Caller, principal: Principal) -> bool {
        let keychain = &self.0.keychain;
        match principal.kind {
            PrincipalKind::Caller => caller.principal() == Some(principal),
            PrincipalKind::Anonymous => principal == keychain.anonymous_principal(),
            // Only while the node has it: what was taken out of its docker config opens nothing any more.
            PrincipalKind::Node => keychain.node_principals(repository).await.contains(&principal),
            PrincipalKind::Provider => keychain.has_provider_for(repository),
        }
    }

    /// With what upstream is asked, in order.
    async fn candidates(
        &self,
        repository: &Repository,
        caller: &Caller,
        purpose: Purpose,
    ) -> Vec<PresentedCredential> {
        let keychain = &self.0.keychain;
        let mut all: Vec<PresentedCredential> = caller.presented.iter().cloned().collect();
        match purpose {
            // Nobody else needs to be looked for.
            Purpose::Deliver(first) if caller.principal() == Some(first) => return all,
            Purpose::Deliver(first) if first.kind == PrincipalKind::Anonymous => {
                all.insert(0, keychain.anonymous());
                return all;
            }
            _ => {}
        }
        all.extend(keychain.node_credentials(repository).await);
        if let Purpose::Deliver(first) = purpose {
            all.sort_by_key(|presented| presented.principal != first);
        }
        if all.is_empty() {
            all.push(keychain.anonymous());
        }
        all
    }

    /// Asks upstream as one principal after the other until one gets an answer; returns it with whom it was given to.
    ///
    /// # Errors
    /// The first no, if all said no; a rate limit, if no other principal had an answer; an outage at once;
    /// [`Error::Unidentified`] if the caller had better say who it is.
    pub(crate) async fn ask<T, F>(
        &self,
        repository: &Repository,
        caller: &Caller,
        subject: &Subject,
        purpose: Purpose,
        question: impl Fn(AuthContext) -> F,
    ) -> Result<(T, PresentedCredential), Error>
    where
        F: Future<Output = Result<Allowed<T>, Error>>,
    {
        if matches!(purpose, Purpose::Prove) {
            self.knock(repository, caller, subject)?;
        }
        let proof = match purpose {
            Purpose::Prove => Some(self.0.config.terms(repository.registry()).grant_ttl),
            Purpose::Deliver(_) => None,
        };
        let (mut no, mut limited) = (None, None);
        let mut candidates = VecDeque::from(self.candidates(repository, caller, purpose).await);
        while let Some(presented) = candidates.pop_front() {
            let anonymous = presented.credential.is_none();
            if anonymous
                && !caller.identified
                && self.0.upstream.is_budget_low(repository.registry(), presented.principal)
            {
                return Err(Error::unidentified(Unidentified::Budget, None));
            }
            let key = (repository.clone(), subject.clone(), presented.principal);
            let said = match self.0.grants.recent_no(&key) {
                Some(error) => Err(error),
                None => {
                    let said = question(AuthContext { presented: presented.clone(), proof }).await;
                    self.learn(key, &presented, proof.is_some(), &said).await;
                    said
                }
            };
            match said {
                Ok(yes) => return Ok((yes.value, presented)),
                Err(error) if is_denied(&error) => {
                    if no.is_none() && revokes_access(&error) {
                        candidates.extend(self.renewed(repository, subject, &presented).await);
                    }
                    no = no.or(Some(error));
                }
                // A limit is of one credential; the next one may have something left.
                Err(error) if is_limited(&error) => limited = limited.or(Some(error)),
                Err(error) => return Err(self.or_challenge(repository, caller, error).await),
            }
        }
        if let Some(error) = limited {
            return Err(self.or_challenge(repository, caller, error).await);
        }
        let error = no.unwrap_or(Error::Abandoned);
        if !caller.identified && revokes_access(&error) {
            self.0.grants.closed(repository);
        }
        Err(self.or_challenge(repository, caller, error).await)
    }

    /// What a plugin gives now in place of what was refused: its tokens expire (ECR says 403 of those).
    async fn renewed(
        &self,
        repository: &Repository,
        subject: &Subject,
        refused: &PresentedCredential,
    ) -> Option<PresentedCredential> {
        if refused.principal.kind != PrincipalKind::Provider {
            return None;
        }
        let now = self.0.keychain.node_credentials(repository).await;
        let again = now.into_iter().find(|presented| {
            presented.principal == refused.principal && presented.credential != refused.credential
        })?;
        self.0.grants.forget_no(&(repository.clone(), subject.clone(), again.principal));
        Some(again)
    }

    /// What an answer tells about rights.
    async fn learn<T>(
        &self,
        key: Question,
        presented: &PresentedCredential,
        proof: bool,
        said: &Result<Allowed<T>, Error>,
    ) {
        let grants = &self.0.grants;
        match said {
            Ok(yes) => {
                grants.answered(key.0.registry()).await;
                if proof {
                    // What upstream gives to anybody is everybody's right, whatever was shown.
                    let anybody = yes.public.then(|| self.0.keychain.anonymous_principal());
                    let principal = anybody.unwrap_or(presented.principal);
                    self.0.metrics.count_right(principal, "proved");
                    grants.proved(&key.0, principal).await;
                }
            }
            Err(error) if is_denied(error) => {
                grants.answered(key.0.registry()).await;
                if revokes_access(error) {
                    self.0.keychain.forget_refused(&key.0, presented);
                    if proof && grants.ended(&key.0, key.2).await {
                        self.0.metrics.count_right(key.2, "ended");
                    }
                }
                grants.said_no(key, error.clone());
            }
            Err(Error::Upstream(error)) if Trouble::of(error) == Some(Trouble::Outage) => {
                grants.outage(key.0.registry()).await;
            }
            Err(_) => {}
        }
    }

    /// Whether the rate limit of whoever would be asked as first is nearly used up.
    pub async fn is_budget_low(&self, repository: &Repository, caller: &Caller) -> bool {
        let first = self.candidates(repository, caller, Purpose::Prove).await.into_iter().next();
        first.is_some_and(|first| self.0.upstream.is_budget_low(repository.registry(), first.principal))
    }

    /// What `digest` is in `repository`, if its upstream delivered or confirmed it and its registry sent the bytes.
    pub(crate) async fn membership(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        let member = self.0.store.member(repository, digest).await?;
        self.0.store.received_from(repository.registry(), digest).await.then_some(member)
    }

    /// Asks upstream whether `repository` has `digest`, on behalf of `caller`, and remembers a yes. Whoever calls this
    /// makes sure that the bytes come, or came, from the same registry.
    pub(crate) async fn confirm(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
    ) -> Result<(), Error> {
        let subject = Subject::Blob(digest);
        let question = |auth: AuthContext| {
            let (upstream, repository) = (self.0.upstream.clone(), repository.clone());
            let key = (repository.clone(), digest, auth.presented.principal);
            self.0.confirmations.run(key, move || async move {
                upstream.confirm_blob(&repository, digest, &auth).await.map_err(Error::from)
            })
        };
        let question = |auth| async { question(auth).await.unwrap_or(Err(Error::Abandoned)) };
        self.ask(repository, caller, &subject, Purpose::Prove, question).await?;
        if self.0.store.member(repository, digest).await.is_none() {
            let added = self.0.store.add_member(repository, digest, Member::Blob).await;
            crate::pull::manifest::fetch::log_failure(
                added,
                repository,
                "a confirmed blob could not be remembered",
            );
        }
        Ok(())
    }

    /// Ends every right to a repository, or to all of them; returns how many there were.
    ///
    /// # Errors
    /// The disk.
    pub async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, Error> {
        let count = self.0.grants.revoke(repository).await?;
        match repository {
            Some(repository) => tracing::warn!(%repository, count, "rights were revoked by hand"),
            None => tracing::warn!(count, "all rights were revoked by hand"),
        }
        Ok(count)
    }

    /// Whether an outage of the registry is still so young that tags may be served as what they last meant.
    pub(crate) async fn may_be_stale(&self, repository: &Repository, tag: &Tag, error: &Error) -> bool {
        let lasted = match error {
            Error::Upstream(error) if Trouble::of(error) == Some(Trouble::Outage) => {
                self.0.grants.outage(repository.registry()).await
            }
            _ => Duration::ZERO,
        };
        lasted < self.0.config.freshness.of(repository, tag).stale_if_error
    }
}

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::Upstream(error) if error.is_denied())
}

fn is_limited(error: &Error) -> bool {
    matches!(error, Error::Upstream(upstream::Error::RateLimited { .. }))
}

fn revokes_access(error: &Error) -> bool {
    matches!(error, Error::Upstream(error) if error.revokes_access())
}
