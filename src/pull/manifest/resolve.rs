//! What a tag means now: asked, remembered, or, while upstream is away, remembered all the same.
//!
//! Promises: upstream's word comes first unless a rule says otherwise; a manifest that upstream has just announced is
//! what is served, or what the tag meant before, and never a mixture; whoever gets what was remembered has a right to
//! it. The decisions themselves are `freshness`.

use std::time::Duration;

use crate::pull::access::authorize::{Caller, Purpose};
use crate::pull::access::grants::Subject;
use crate::pull::access::rights::Use;
use crate::pull::error::{Error, Fault};
use crate::pull::manifest::fetch::{ManifestAnswer, log_failure};
use crate::pull::manifest::freshness::{self, Ask, Verdict};
use crate::pull::{AnswerSource, Puller};
use crate::reference::{Digest, Principal, Repository, Tag};
use crate::store::TagRecord;
use crate::support::clock::Moment;
use crate::upstream::{self, AuthContext};

/// What is known of a tag that means something that is not here.
struct Moved {
    remembered: Option<TagRecord>,
    asked_as: Option<Principal>,
}

impl Puller {
    /// The manifest that a tag means.
    pub(crate) async fn manifest_by_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        caller: &Caller,
    ) -> Result<ManifestAnswer, Error> {
        match self.still_current(repository, tag, caller).await {
            Some(answer) => Ok(answer),
            None => self.resolve(repository, tag, caller).await,
        }
    }

    /// The same, with upstream's word first.
    async fn resolve(
        &self,
        repository: &Repository,
        tag: &Tag,
        caller: &Caller,
    ) -> Result<ManifestAnswer, Error> {
        let question = |auth: AuthContext| {
            let (upstream, repository, tag) = (self.0.upstream.clone(), repository.clone(), tag.clone());
            let key = (repository.clone(), tag.clone(), auth.presented.principal);
            let asked = self.0.resolutions.run(key, move || async move {
                upstream.resolve(&repository, &tag, &auth).await.map_err(Error::from)
            });
            async move { asked.await.unwrap_or(Err(Error::Abandoned)) }
        };
        // Only one who could read it, however long ago, knows that a tag is gone.
        let had_right = self.had_right(repository, caller).await;
        let subject = Subject::Tag(tag.clone());
        let said = match self.ask(repository, caller, &subject, Purpose::Prove, question).await {
            Ok((digest, presented)) => Ok((digest, presented.principal)),
            Err(Error::Upstream(error)) => Err(error),
            Err(other) => return self.cached_if_open(repository, tag, other).await,
        };
        let asked_as = said.as_ref().ok().map(|(_, principal)| *principal);
        let remembered = self.0.store.tag(repository, tag).await;
        let moved = Moved { remembered, asked_as };
        match freshness::judge(said.map(|(digest, _)| digest), remembered) {
            Verdict::Current(digest) => {
                if let Some(answer) = self.manifest_in_store(repository, digest).await {
                    self.confirm_tag(repository, tag, digest).await;
                    return Ok(ManifestAnswer { source: AnswerSource::Revalidated, ..answer });
                }
                self.moved(repository, tag, moved, self.current(repository, tag, digest, caller), caller)
                    .await
            }
            Verdict::Fetch => {
                self.moved(repository, tag, moved, self.fetch_by_tag(repository, tag, caller), caller).await
            }
            Verdict::Stale(record, error) => self.stale(repository, tag, record, error.into(), caller).await,
            Verdict::Forget(error) => {
                self.0.confirmed.forget(repository, tag);
                if had_right {
                    let forgotten = self.0.store.remove_tag(repository, tag).await;
                    log_failure(forgotten, repository, "a tag that is gone could not be forgotten");
                }
                Err(error.into())
            }
            Verdict::Fail(error) => self.cached_if_open(repository, tag, error.into()).await,
        }
    }

    /// What upstream said that the tag means, if by the operator's rules that needs no new word, and if the caller's
    /// right needs none either.
    async fn still_current(
        &self,
        repository: &Repository,
        tag: &Tag,
        caller: &Caller,
    ) -> Option<ManifestAnswer> {
        let freshness = self.0.config.freshness.of(repository, tag);
        if freshness.ask(Duration::ZERO) == Ask::First {
            return None;
        }
        let (digest, confirmed) = match self.0.confirmed.find(repository, tag) {
            Some(found) => found,
            None => {
                let record = self.0.store.tag(repository, tag).await?;
                let confirmed = Moment::recorded(record.confirmed_at);
                self.0.confirmed.note(repository, tag, record.digest, confirmed);
                (record.digest, confirmed)
            }
        };
        let ask = freshness.ask(confirmed.age_at(self.0.store.clock().now()));
        if ask == Ask::First || !self.may_read_cached(repository, caller, Use::Resolve).await {
            return None;
        }
        let answer = self.manifest_in_store(repository, digest).await?;
        if ask == Ask::No {
            return Some(answer);
        }
        self.resolve_behind(repository, tag, caller);
        Some(ManifestAnswer { source: AnswerSource::Refreshing, ..answer })
    }

    /// Asks about a tag while nobody waits for the answer, once at a time.
    fn resolve_behind(&self, repository: &Repository, tag: &Tag, caller: &Caller) {
        let Some(place) = self.0.refreshing.enter(repository, tag) else { return };
        let (puller, caller) = (self.clone(), caller.clone());
        tokio::spawn(async move {
            let (repository, tag) = place.of();
            if let Err(error) = puller.resolve(repository, tag, &caller).await {
                tracing::info!(%repository, %tag, %error, "a tag could not be asked about behind its callers");
            }
        });
    }

    /// A tag means something that is not here. What it meant before is served instead if the new cannot be fetched, and
    /// before the last of a rate limit is spent on it: that is kept for images of which nothing is here.
    async fn moved(
        &self,
        repository: &Repository,
        tag: &Tag,
        moved: Moved,
        fetch: impl Future<Output = Result<ManifestAnswer, Error>>,
        caller: &Caller,
    ) -> Result<ManifestAnswer, Error> {
        let Some(record) = moved.remembered else { return fetch.await };
        let registry = repository.registry();
        if moved.asked_as.is_some_and(|who| self.0.upstream.is_budget_low(registry, who)) {
            let sparing = Error::Sparing { registry: registry.clone() };
            if let Ok(answer) = self.stale(repository, tag, record, sparing, caller).await {
                return Ok(answer);
            }
        }
        match fetch.await {
            Err(error @ Error::Upstream(_)) if error.fault() == Fault::Outage => {
                self.stale(repository, tag, record, error, caller).await
            }
            said => said,
        }
    }

    /// What the tag last meant, for whoever could read it before the outage.
    async fn stale(
        &self,
        repository: &Repository,
        tag: &Tag,
        record: TagRecord,
        error: Error,
        caller: &Caller,
    ) -> Result<ManifestAnswer, Error> {
        let young = self.may_be_stale(repository, tag, &error).await;
        let held = self.is_open(repository)
            || self.held_since(repository, caller, &error).await.is_some()
            || self.may_read_cached(repository, caller, Use::Read).await;
        if !young || !held {
            return Err(error);
        }
        let Some(answer) = self.manifest_in_store(repository, record.digest).await else {
            return Err(error);
        };
        tracing::warn!(%repository, %tag, %error, "serving what the tag last meant");
        Ok(answer.stale(record.confirmed_at, error))
    }

    /// Under `policy = "open"` what is cached is for every pod, whatever upstream says to this one.
    async fn cached_if_open(
        &self,
        repository: &Repository,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let is_denied = match &error {
            Error::Upstream(error) => matches!(error, upstream::Error::Refused { .. }),
            other => matches!(other, Error::Unidentified { .. }),
        };
        if !self.is_open(repository) || !is_denied {
            return Err(error);
        }
        let Some(record) = self.0.store.tag(repository, tag).await else { return Err(error) };
        match self.manifest_in_store(repository, record.digest).await {
            Some(answer) => Ok(answer.stale(record.confirmed_at, error)),
            None => Err(error),
        }
    }

    async fn current(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: Digest,
        caller: &Caller,
    ) -> Result<ManifestAnswer, Error> {
        let answer = match self.fetch(repository, &digest.into(), caller).await {
            Ok(fetched) => fetched.answer(AnswerSource::Fill),
            // Some registries announce a digest under which they do not serve the document.
            Err(Error::Upstream(upstream::Error::NotFound { .. })) => {
                return self.fetch_by_tag(repository, tag, caller).await;
            }
            Err(error) => return Err(error),
        };
        self.confirm_tag(repository, tag, digest).await;
        Ok(answer)
    }

    async fn fetch_by_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        caller: &Caller,
    ) -> Result<ManifestAnswer, Error> {
        let fetched = self.fetch(repository, &tag.clone().into(), caller).await?;
        self.confirm_tag(repository, tag, fetched.digest).await;
        Ok(fetched.answer(AnswerSource::Fill))
    }

    async fn confirm_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        let now = Moment::recorded(self.0.store.clock().now());
        self.0.confirmed.note(repository, tag, digest, now);
        let confirmed = self.0.store.confirm_tag(repository, tag, digest).await;
        log_failure(confirmed, repository, "a tag could not be remembered");
    }
}
