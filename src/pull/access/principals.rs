//! As whom a caller may read: its own credential, the node's, the plugins', or none.
//!
//! Upstream is asked in kubelet's order: the caller's credential, the node's, the plugins'; anonymously where none of
//! them matches. (`authorize` asks anonymously, too, where one of the node's is refused.)

use crate::credentials::{Keychain, NodeCredentials, PresentedCredential};
use crate::pull::context::Caller;
use crate::reference::{Principal, PrincipalKind, Repository};

/// What an answer of upstream is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// To prove a right.
    Prove,
    /// To prove anew that this principal may read: it is asked with first, and where that is enough no plugin is run.
    Confirm(Principal),
    /// To deliver what this principal may read already.
    Deliver(Principal),
}

/// The principals that a keychain knows.
#[derive(Clone)]
pub(crate) struct Principals(Keychain);

impl Principals {
    pub(crate) fn new(keychain: Keychain) -> Self {
        Self(keychain)
    }

    /// The principal of anonymous access, whose right is every caller's.
    pub(crate) fn anonymous(&self) -> Principal {
        self.0.anonymous_principal()
    }

    /// No credential.
    pub(crate) fn no_credential(&self) -> PresentedCredential {
        self.0.anonymous()
    }

    /// Whether `caller` may use a right of `principal` to `repository`.
    pub(crate) async fn may_use(
        &self,
        caller: &Caller,
        principal: Principal,
        repository: &Repository,
    ) -> bool {
        match principal.kind {
            PrincipalKind::Caller => caller.principal() == Some(principal),
            PrincipalKind::Anonymous => principal == self.anonymous(),
            // Only while the node has it: what was taken out of its docker config opens nothing any more.
            PrincipalKind::Node => self.0.node_principals(repository).await.contains(&principal),
            PrincipalKind::Provider => self.0.has_provider_for(repository),
        }
    }

    /// The credentials to ask upstream with, in order, never none; and whether a plugin or helper of the node may have
    /// one that it does not give now.
    pub(crate) async fn candidates(
        &self,
        caller: &Caller,
        repository: &Repository,
        purpose: Purpose,
    ) -> (Vec<PresentedCredential>, bool) {
        let mut all: Vec<PresentedCredential> = caller.presented().into_iter().cloned().collect();
        // The principal that may read already is enough; the others need not be looked up.
        if let Purpose::Deliver(first) | Purpose::Confirm(first) = purpose {
            if caller.principal() == Some(first) {
                return (all, false);
            }
            if first.kind == PrincipalKind::Anonymous {
                all.insert(0, self.0.anonymous());
                return (all, false);
            }
        }
        let NodeCredentials { found, incomplete } = self.0.node_credentials(repository).await;
        all.extend(found);
        if let Purpose::Deliver(first) | Purpose::Confirm(first) = purpose {
            all.sort_by_key(|presented| presented.principal != first);
        }
        if all.is_empty() {
            all.push(self.0.anonymous());
        }
        (all, incomplete)
    }

    /// Records that upstream refused a credential: a plugin's is then not used again.
    pub(crate) fn refused(&self, repository: &Repository, presented: &PresentedCredential) {
        self.0.forget_refused(repository, presented);
    }

    /// What a plugin gives now in place of a refused credential: its tokens expire (ECR answers 403 to those).
    pub(crate) async fn renewed(
        &self,
        repository: &Repository,
        refused: &PresentedCredential,
    ) -> Option<PresentedCredential> {
        if refused.principal.kind != PrincipalKind::Provider {
            return None;
        }
        let now = self.0.node_credentials(repository).await.found;
        now.into_iter().find(|presented| {
            presented.principal == refused.principal && presented.credential != refused.credential
        })
    }
}
