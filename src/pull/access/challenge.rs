//! Callers who have not said who they are: whether they are asked to, and what about repositories that are known to be
//! closed to them.

use crate::pull::Puller;
use crate::pull::access::authorize::{Caller, Purpose};
use crate::pull::access::grants::{Door, Subject};
use crate::pull::access::rights::Use;
use crate::pull::error::{Error, Unidentified};
use crate::reference::Repository;
use crate::upstream::{self, Allowed};

impl Puller {
    /// An unidentified caller of a repository that is known to be closed is not worth a question.
    pub(crate) fn knock(
        &self,
        repository: &Repository,
        caller: &Caller,
        subject: &Subject,
    ) -> Result<(), Error> {
        if caller.identified {
            return Ok(());
        }
        match self.0.grants.door(repository) {
            Door::Unknown => return Ok(()),
            Door::Closed => {}
            Door::ClosedProbe => {
                let (puller, repository, subject) = (self.clone(), repository.clone(), subject.clone());
                tokio::spawn(async move { puller.probe(&repository, &subject).await });
            }
        }
        Err(Error::unidentified(Unidentified::Refused, None))
    }

    /// Whether a closed repository has been opened meanwhile.
    async fn probe(&self, repository: &Repository, subject: &Subject) {
        let (nobody, upstream) = (Caller::anonymous(), &self.0.upstream);
        let asked = self.ask(repository, &nobody, subject, Purpose::Prove, |auth| async move {
            let yes = match subject {
                Subject::Tag(tag) => upstream.resolve(repository, tag, &auth).await.map(|yes| yes.public),
                Subject::Manifest(digest) => {
                    upstream.confirm_manifest(repository, *digest, &auth).await.map(|yes| yes.public)
                }
                Subject::Blob(digest) => {
                    upstream.confirm_blob(repository, *digest, &auth).await.map(|yes| yes.public)
                }
                Subject::List => return Err(Error::Abandoned),
            };
            Ok(Allowed { value: (), public: yes? })
        });
        if asked.await.is_ok() {
            tracing::info!(%repository, "a repository that was closed to callers without a credential is open now");
        }
    }

    /// An error as `caller` should hear it: who has not said who it is may fare better when it does.
    pub(crate) async fn or_challenge(&self, repository: &Repository, caller: &Caller, error: Error) -> Error {
        if caller.identified {
            return error;
        }
        let Error::Upstream(said) = &error else { return error };
        match said {
            // It is not there, and nobody's credential would change that.
            upstream::Error::NotFound { public: true, .. } => error,
            upstream::Error::NotFound { .. } if self.right(repository, caller, Use::Read).await.is_some() => {
                error
            }
            said if said.is_denied() => Error::unidentified(Unidentified::Refused, Some(said)),
            // Somebody with a right of its own may be served from the store.
            said if said.is_outage() && self.held_since(repository, caller, &error).await.is_none() => {
                Error::unidentified(Unidentified::Unreachable, Some(said))
            }
            _ => error,
        }
    }
}
