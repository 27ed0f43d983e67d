//! Asks upstream whether a repository still has what is here: for the right of the caller, and because it may have been
//! deleted. Equal questions are asked once; what has changed since a question was asked makes it another one.
//!
//! Promises: an answer that does not show the content proves nothing; content that the registry does not have any more,
//! or withholds, is not handed out again ([`super::deleted`]).

use std::sync::Arc;
use std::time::Duration;

use super::authorize::{Access, Purpose, proved_by};
use super::confirmations::ConfirmedAs;
use super::deleted::Absence;
use super::membership::AnswerNumber;
use super::negative_cache::Subject;
use crate::pull::context::{PullContext, UpstreamWait};
use crate::pull::error::Error;
use crate::reference::{Digest, Principal, Repository};
use crate::upstream::{AuthContext, BlobHead};

/// How long a registry may take to confirm what the shared tier or a mirror delivers: less than a client waits for an
/// answer, so that the registry can be asked for the content itself afterwards.
pub(crate) const CONFIRM_WAIT: Duration = Duration::from_secs(5);

impl Access {
    /// Asks upstream whether the repository has a blob of `size` bytes, if that is known, and records membership. The
    /// caller makes sure that the same registry delivers, or delivered, the bytes. An answer that does not show the
    /// blob proves nothing: the content has to.
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
        let before = self.membership().last_answer_about(repository, digest);
        let absence = Absence::of_digest(self.known(), repository).await;
        let absent = &absence;
        let request = |auth: AuthContext| {
            let (upstream, asked) = (Arc::clone(&self.0.upstream), repository.clone());
            let key = self.confirmed_as(repository, digest, auth.presented.principal, before);
            self.0.blob_confirmations.run(key, move || async move {
                upstream.confirm_blob(&asked, digest, &auth).await.map_err(Error::from)
            })
        };
        let ended = || Err(Error::panicked("confirmed a blob upstream"));
        let request = |auth: AuthContext| async {
            let asked = auth.presented.principal;
            let answer = request(auth).await.unwrap_or_else(ended);
            absent.note(asked, &answer);
            Ok(proved_by(answer?, size))
        };
        let (head, _) = match self.ask(context, &Subject::Blob(digest), Purpose::Prove, request).await {
            Ok(answered) => answered,
            Err(error) => {
                absence.conclude(self.membership(), repository, digest, before).await;
                return Err(error);
            }
        };
        if head.shows_blob_of(size) {
            self.membership().confirm_blob(repository, digest, before).await;
        }
        Ok(head)
    }

    /// Asks upstream whether the repository has a manifest that is here: as the principal whose right is fresh, if
    /// there is one and that is enough, else as one after the other. `wait` says whether upstream is being waited for.
    ///
    /// # Errors
    /// As for [`Self::ask`]. Where the manifest is gone, or withheld, its membership has ended.
    pub(crate) async fn confirm_manifest(
        &self,
        context: &PullContext,
        digest: Digest,
        fresh: Option<Principal>,
        wait: &UpstreamWait,
    ) -> Result<(), Error> {
        // The manifest is here: what was proved before may hold without an answer.
        let context = &context.without_patience();
        let repository = context.repository();
        let before = self.membership().last_answer_about(repository, digest);
        let absence = Absence::of_digest(self.known(), repository).await;
        let absent = &absence;
        let request = |auth: AuthContext| {
            let (upstream, asked) = (Arc::clone(&self.0.upstream), repository.clone());
            let principal = auth.presented.principal;
            let key = self.confirmed_as(repository, digest, principal, before);
            let answer = self.0.manifest_confirmations.run(key, move || async move {
                upstream.confirm_manifest(&asked, digest, &auth).await.map_err(Error::from)
            });
            async move {
                let ended = || Err(Error::panicked("confirmed a manifest upstream"));
                let answer = wait.ask(answer).await.unwrap_or_else(ended);
                absent.note(principal, &answer);
                answer
            }
        };
        let subject = Subject::Manifest(digest);
        let first = match fresh {
            Some(principal) => {
                Some(self.ask_each(context, &subject, Purpose::Confirm(principal), &request).await)
            }
            None => None,
        };
        let answered = match first {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if !error.is_denied() => Err(error),
            first => {
                let withheld = first.and_then(Result::err).filter(Error::is_withheld);
                let second = self.ask(context, &subject, Purpose::Prove, request).await;
                // What is withheld is not served because another principal cannot be asked.
                second.map(|_| ()).map_err(|error| match withheld {
                    Some(withheld) if !error.is_denied() => withheld,
                    _ => error,
                })
            }
        };
        match answered {
            Ok(()) => {
                self.membership().begin_again(repository, digest, before);
            }
            Err(_) => absence.conclude(self.membership(), repository, digest, before).await,
        }
        answered
    }

    /// What questions share an answer, of those that are asked now.
    fn confirmed_as(
        &self,
        repository: &Repository,
        digest: Digest,
        principal: Principal,
        before: AnswerNumber,
    ) -> ConfirmedAs {
        let (repository, revocations) = (repository.clone(), self.revocations());
        ConfirmedAs { repository, digest, principal, revocations, before }
    }
}
