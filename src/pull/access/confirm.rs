//! Asks upstream whether a repository still has what is here: for the right of the caller, and because it may have been
//! deleted. Equal questions are asked once; what has changed since a question was asked makes it another one.
//!
//! Promises: an answer that does not show the content proves nothing; content that the registry does not have any more,
//! or withholds, is not handed out again ([`super::deleted`]).

use std::sync::Arc;
use std::time::Duration;

use super::authorize::{Access, Purpose, proved_by};
use super::confirmations::Confirmations;
use super::deleted::Absence;
use super::membership::DigestQuestion;
use super::negative_cache::Subject;
use crate::pull::context::{PullContext, UpstreamWait};
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Digest, MediaType, Principal, Repository};
use crate::upstream::{self, Allowed, AuthContext, BlobHead};

/// How long a registry may take to confirm what the shared tier or a mirror delivers: less than a client waits for an
/// answer, so that the registry can be asked for the content itself afterwards.
pub(crate) const CONFIRM_WAIT: Duration = Duration::from_secs(5);

/// The question whether a repository still has a digest that is here, to one principal after the other.
pub(crate) struct StillThere<'a> {
    access: &'a Access,
    context: PullContext,
    question: DigestQuestion,
    absence: Absence<'a>,
}

impl Access {
    /// The question whether the repository of `context` has `digest`, to be made before it is asked.
    pub(crate) async fn still_there(&self, context: &PullContext, digest: Digest) -> StillThere<'_> {
        let repository = context.repository();
        StillThere {
            access: self,
            // The content is here: what was proved before may hold without an answer.
            context: context.without_patience(),
            question: self.membership().question(repository, digest),
            absence: Absence::of_digest(self.known(), repository).await,
        }
    }

    /// Asks upstream whether the repository has a blob of `size` bytes, if that is known, and records membership. The
    /// caller makes sure that the same registry delivers, or delivered, the bytes. An answer that does not show the
    /// blob proves nothing: the content has to.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub(crate) async fn ask_for_blob(
        &self,
        context: &PullContext,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<BlobHead, Error> {
        let asked = self.still_there(context, digest).await;
        let request = |auth: AuthContext| async {
            let head = move |upstream: Arc<dyn RegistryClient>, repository: Repository, auth| async move {
                upstream.confirm_blob(&repository, digest, &auth).await
            };
            let answer = asked.once(&self.0.blob_confirmations, auth, head, &UpstreamWait::default()).await;
            Ok(proved_by(answer?, size))
        };
        match self.ask(&asked.context, &Subject::Blob(digest), Purpose::Prove, request).await {
            Ok((head, _)) => {
                if head.shows_blob_of(size) {
                    asked.question.record_blob().await;
                }
                Ok(head)
            }
            Err(error) => Err(asked.conclude(error).await),
        }
    }
}

impl StillThere<'_> {
    /// Asks for a manifest: as the principal whose right is fresh, if there is one and that is enough, else as one
    /// after the other. `wait` says whether upstream is being waited for. A yes is recorded, of what is here as
    /// `media_type`.
    ///
    /// # Errors
    /// As for [`Access::ask`]; to be given to [`Self::conclude`].
    pub(crate) async fn ask_for_manifest(
        &self,
        fresh: Option<Principal>,
        media_type: &MediaType,
        wait: &UpstreamWait,
    ) -> Result<(), Error> {
        let Self { access, context, question, .. } = self;
        let (digest, subject) = (question.digest(), Subject::Manifest(question.digest()));
        let request = |auth: AuthContext| {
            let get = move |upstream: Arc<dyn RegistryClient>, repository: Repository, auth| async move {
                upstream.confirm_manifest(&repository, digest, &auth).await
            };
            self.once(&access.0.manifest_confirmations, auth, get, wait)
        };
        let first = match fresh {
            Some(principal) => {
                Some(access.ask_each(context, &subject, Purpose::Confirm(principal), &request).await)
            }
            None => None,
        };
        match first {
            Some(Ok(_)) => {}
            Some(Err(error)) if !error.is_denied() => return Err(error),
            _ => drop(access.ask(context, &subject, Purpose::Prove, request).await?),
        }
        question.record_manifest(media_type).await;
        Ok(())
    }

    /// What the registry answers to `auth`, with all who ask the same now.
    async fn once<T, F>(
        &self,
        confirmations: &Confirmations<T>,
        auth: AuthContext,
        request: impl FnOnce(Arc<dyn RegistryClient>, Repository, AuthContext) -> F + Send + 'static,
        wait: &UpstreamWait,
    ) -> Result<Allowed<T>, Error>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<Allowed<T>, upstream::Error>> + Send + 'static,
    {
        let (principal, revocations) = (auth.presented.principal, self.access.revocations());
        let (upstream, repository) = (Arc::clone(&self.access.0.upstream), self.context.repository().clone());
        let request = move || request(upstream, repository, auth);
        let asked = confirmations.ask(&self.question, principal, revocations, request);
        let answer = wait.ask(asked).await;
        self.absence.note(principal, &answer);
        answer
    }

    /// Ends the membership of what the registry said is gone or withheld, also to a question that was given up before
    /// all principals were asked. Returns why it is not handed out: that it is withheld, rather than `error` if that is
    /// no denial.
    pub(crate) async fn conclude(self, error: Error) -> Error {
        self.absence.conclude(&self.question).await;
        self.absence.or_withheld(error)
    }
}
