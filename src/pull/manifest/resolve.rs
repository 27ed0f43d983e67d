//! Tags: the manifest that a tag names now, asked of upstream, or taken from its record where the rules allow it or
//! upstream cannot be asked.
//!
//! Promises: upstream is asked first unless a rule says otherwise; what is served is the manifest that upstream names,
//! or the one that the tag named before, never a mixture; a record is served only to a caller with a right to the
//! repository. The decisions themselves are in [`super::freshness`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::confirmed::Refreshes;
use super::fetch::ManifestFetcher;
use super::fetched::{BytesProvedBy, FetchWait, FetchedManifest};
use super::freshness::{self, Decision, Revalidation};
use super::recorded::RecordedTags;
use super::stored::StoredManifests;
use crate::pull::access::digest_answers::AnswerNumber;
use crate::pull::access::rights::Use;
use crate::pull::access::{Absence, Access, Purpose, Subject};
use crate::pull::answer::{AnswerSource, ManifestAnswer};
use crate::pull::config::Config;
use crate::pull::context::{PullContext, UpstreamWait};
use crate::pull::error::{Error, Fault};
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Digest, DocumentError, Principal, Repository, Tag};
use crate::store::{Records, TagRecord};
use crate::support::clock::Moment;
use crate::support::live::Live;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::{self, Allowed, AuthContext, Patience, ResolvedTag};

type Resolutions = Singleflight<ResolvedAs, Result<Allowed<Named>, Error>>;

/// What questions are equal. None shares the answer to one that was asked before rights were revoked.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ResolvedAs {
    repository: Repository,
    tag: Tag,
    principal: Principal,
    /// How long they wait.
    patience: Patience,
    /// How often rights had been revoked.
    revocations: u64,
}

/// Resolves tags. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tags(Arc<Inner>);

struct Inner {
    access: Access,
    upstream: Arc<dyn RegistryClient>,
    recorded: RecordedTags,
    stored: StoredManifests,
    fetcher: ManifestFetcher,
    refreshes: Refreshes,
    resolutions: Resolutions,
    tasks: Tasks,
}

/// What upstream says that a tag names.
#[derive(Clone)]
struct Named {
    digest: Digest,
    /// The manifest, where upstream had to be asked for all of it and it is not in the store.
    fetched: Option<FetchedManifest>,
}

impl Tags {
    /// A resolver over the manifests of `stored`, and `fetcher` for those that are not there.
    pub(crate) fn new(
        config: Live<Config>,
        access: Access,
        upstream: Arc<dyn RegistryClient>,
        records: Records,
        stored: StoredManifests,
        fetcher: ManifestFetcher,
        tasks: Tasks,
    ) -> Self {
        let recorded = RecordedTags::new(config, access.clone(), records, stored.clone());
        Self(Arc::new(Inner {
            access,
            upstream,
            recorded,
            stored,
            fetcher,
            refreshes: Refreshes::default(),
            resolutions: Singleflight::new(tasks.clone()),
            tasks,
        }))
    }

    /// The manifest that a tag names.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn manifest_of(
        &self,
        context: &PullContext,
        tag: &Tag,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(answer) = self.by_record(context, tag).await {
            return Ok(answer);
        }
        match self.resolve(context, tag).await {
            Err(error) if error.fault() == Fault::Outage => self.by_shared_name(context, tag, error).await,
            resolved => resolved,
        }
    }

    /// The manifest that a tag named last, as another node shared it: where this one has no record of the tag and its
    /// registry cannot be asked.
    async fn by_shared_name(
        &self,
        context: &PullContext,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let (repository, names) = (context.repository(), self.0.fetcher.names());
        if self.0.recorded.records.tag(repository, tag).await.is_some() {
            return Err(error);
        }
        let age_max = self.0.recorded.freshness(repository, tag).stale_if_error;
        let Some(record) = names.shared_tag(repository, tag, age_max).await else { return Err(error) };
        if !names.hold_right(repository, &error).await
            || !self.0.fetcher.restore(repository, record.digest).await
        {
            return Err(error);
        }
        self.0.recorded.stale(context, tag, record, error).await
    }

    /// When upstream last said what a tag names; after a restart to the hour.
    pub(crate) async fn last_confirmed(&self, repository: &Repository, tag: &Tag) -> Option<Moment> {
        self.0.recorded.last_confirmed(repository, tag).await
    }

    /// Forgets when a tag was confirmed: it was removed, or an import set it.
    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag) {
        self.0.recorded.confirmed.forget(repository, tag);
    }

    /// The manifest that the record of a tag names, if the rules allow it without asking upstream, and if the caller's
    /// right needs no new proof either.
    async fn by_record(&self, context: &PullContext, tag: &Tag) -> Option<ManifestAnswer> {
        let inner = &*self.0;
        let repository = context.repository();
        let freshness = self.0.recorded.freshness(repository, tag);
        if freshness.revalidation(Duration::ZERO) == Revalidation::First {
            return None;
        }
        let (digest, confirmed) = match inner.recorded.confirmed.find(repository, tag) {
            Some(found) => found,
            None => {
                let record = inner.recorded.records.tag(repository, tag).await?;
                let confirmed = Moment::recorded(record.confirmed_at);
                inner.recorded.confirmed.record(repository, tag, record.digest, confirmed);
                (record.digest, confirmed)
            }
        };
        let revalidation = freshness.revalidation(confirmed.age_at(inner.recorded.records.clock().now()));
        if revalidation == Revalidation::First
            || !inner.access.known().open_cached(context, Use::Resolve).await
        {
            return None;
        }
        let answer = inner.stored.find(repository, digest).await?;
        if revalidation == Revalidation::NotNeeded {
            return Some(answer);
        }
        self.refresh_in_background(context, tag);
        Some(answer.with_source(AnswerSource::Refreshing))
    }

    fn refresh_in_background(&self, context: &PullContext, tag: &Tag) {
        let Some(refresh) = self.0.refreshes.begin(context.repository(), tag) else { return };
        let tags = self.clone();
        let context = context.after_the_answer();
        let tag = tag.clone();
        self.0.tasks.spawn(async move {
            if let Err(error) = tags.resolve(&context, &tag).await {
                let repository = context.repository();
                tracing::info!(%repository, %tag, %error, "a tag could not be refreshed in the background");
            }
            drop(refresh);
        });
    }

    /// The manifest that upstream says the tag names.
    async fn resolve(&self, context: &PullContext, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let inner = &*self.0;
        let repository = context.repository();
        let before = inner.access.membership().last_answer();
        let absence = Absence::of_tag(inner.access.known(), repository);
        // Both may have to be read from the disk.
        let (absence, record) = tokio::join!(absence, inner.recorded.records.tag(repository, tag));
        let has_record = match record {
            Some(record) => self.0.recorded.may_serve_record(context, tag, record).await,
            None => false,
        };
        let asked = if has_record {
            let context = context.without_patience();
            let (wait, begun) = (UpstreamWait::default(), Instant::now());
            let asked = context.in_time(pin!(self.ask_upstream(&context, tag, &absence, &wait))).await;
            asked.unwrap_or_else(|| Err(context.too_slow(&wait, begun)))
        } else {
            self.ask_upstream(context, tag, &absence, &UpstreamWait::default()).await
        };
        let asked = asked.map_err(|error| absence.or_withheld(error));
        let (answer, fetched, asked_as) = match asked {
            Ok((Named { digest, fetched }, principal)) => {
                inner.access.membership().name_by_tag(repository, digest, principal);
                (Ok(digest), fetched, Some(principal))
            }
            Err(Error::Upstream(error)) => (Err(error), None, None),
            // A page in place of a manifest, as that of a gateway, says nothing of the tag.
            Err(
                error @ (Error::OutOfTime { .. }
                | Error::Document { source: DocumentError::Malformed(_), .. }),
            ) => {
                return match record {
                    Some(record) => self.0.recorded.stale(context, tag, record, error).await,
                    None => Err(error),
                };
            }
            Err(other) => return self.0.recorded.record_if_open_to_all(context, tag, other).await,
        };
        match freshness::decide(answer, record) {
            Decision::Current(digest) => {
                if let Some(fetched) = fetched {
                    self.confirm(repository, tag, digest).await;
                    return Ok(fetched.answer());
                }
                if let Some(answer) = inner.stored.find(repository, digest).await {
                    self.confirm(repository, tag, digest).await;
                    return Ok(answer.with_source(AnswerSource::Revalidated));
                }
                // On the heap: most tags name what is here.
                Box::pin(self.fetch_or_record(context, tag, digest, record, asked_as)).await
            }
            Decision::Stale(record, error) => self.0.recorded.stale(context, tag, record, error.into()).await,
            Decision::Forget(error) => {
                if absence.is_certain() {
                    self.forget_record(repository, tag).await;
                }
                Err(error.into())
            }
            Decision::Withhold(record, error) => {
                if absence.is_certain() {
                    self.forget_record(repository, tag).await;
                    self.forget_named(repository, record.digest, before).await;
                }
                Err(error.into())
            }
            Decision::Fail(error) => {
                if absence.is_withheld() {
                    inner.fetcher.names().withhold_tag(repository, tag, before, &inner.tasks).await;
                }
                inner.recorded.record_if_open_to_all(context, tag, error.into()).await
            }
        }
    }

    /// Ends the membership of what a tag named that is withheld, by an answer whose question came after `before`. The
    /// tag may name another manifest by now; then this one is asked for by its digest.
    async fn forget_named(&self, repository: &Repository, named: Digest, before: AnswerNumber) {
        let inner = &*self.0;
        inner.access.membership().question_after(before, repository, named).record_no().await;
        inner.stored.is_still_member(repository, named).await;
    }

    /// Forgets what a tag named, here and in what nodes share.
    async fn forget_record(&self, repository: &Repository, tag: &Tag) {
        let inner = &*self.0;
        inner.recorded.confirmed.forget(repository, tag);
        if let Err(error) = inner.recorded.records.remove_tag(repository, tag).await {
            tracing::error!(%repository, %tag, %error, "the record of a tag that is gone could not be removed");
        }
        inner.fetcher.names().forget_tag(repository, tag, &inner.tasks);
    }

    /// What upstream says that the tag names, and as whom it was asked; one request for equal questions. A manifest
    /// that comes with the answer is verified and stored: what is no manifest proves no right. `absence` takes note of
    /// each answer.
    async fn ask_upstream(
        &self,
        context: &PullContext,
        tag: &Tag,
        absence: &Absence<'_>,
        wait: &UpstreamWait,
    ) -> Result<(Named, Principal), Error> {
        let repository = context.repository();
        let request = |auth: AuthContext| {
            let tags = self.clone();
            let (repository, tag) = (repository.clone(), tag.clone());
            let (principal, patience) = (auth.presented.principal, auth.patience);
            let (revocations, asked) = (self.0.access.revocations(), (repository.clone(), tag.clone()));
            let key = ResolvedAs { repository: asked.0, tag: asked.1, principal, patience, revocations };
            let named = move || async move { tags.ask_as(&repository, &tag, &auth).await };
            let resolved = self.0.resolutions.run(key, named);
            async move {
                let resolved = wait.ask(resolved).await.unwrap_or(Err(Error::panicked("resolved a tag")));
                absence.note(principal, &resolved);
                resolved
            }
        };
        let subject = Subject::Tag(tag.clone());
        let (named, presented) = self.0.access.ask(context, &subject, Purpose::Prove, request).await?;
        Ok((named, presented.principal))
    }

    async fn ask_as(
        &self,
        repository: &Repository,
        tag: &Tag,
        auth: &AuthContext,
    ) -> Result<Allowed<Named>, Error> {
        let Inner { access, upstream, stored, fetcher, .. } = &*self.0;
        let before = access.membership().last_answer();
        let Allowed { value, proof } = upstream.resolve(repository, tag, auth).await?;
        let ResolvedTag { digest, manifest } = value;
        let fetched = match manifest {
            Some(manifest)
                if stored.find(repository, digest).await.is_none()
                    && access.membership().question_after(before, repository, digest).record_yes() =>
            {
                Some(fetcher.accept(repository, digest, manifest, BytesProvedBy::Registry).await?)
            }
            _ => None,
        };
        Ok(Allowed { value: Named { digest, fetched }, proof })
    }

    /// A tag names a manifest that is not in the store. The manifest that the tag named before is served instead if the
    /// new one cannot be fetched in time, or if little is left of the rate limit: the rest is reserved for images of
    /// which nothing is cached.
    async fn fetch_or_record(
        &self,
        context: &PullContext,
        tag: &Tag,
        digest: Digest,
        record: Option<TagRecord>,
        asked_as: Option<Principal>,
    ) -> Result<ManifestAnswer, Error> {
        let Some(record) = record else {
            return self.fetch(context, tag, digest, FetchWait::Unbounded).await;
        };
        let repository = context.repository();
        if asked_as.is_some_and(|principal| self.0.upstream.is_budget_low(repository, principal)) {
            let reserved = Error::RateLimitReserved { registry: repository.registry().clone() };
            if let Ok(answer) = self.0.recorded.stale(context, tag, record, reserved).await {
                return Ok(answer);
            }
        }
        let fetched = if self.0.recorded.may_serve_record(context, tag, record).await {
            self.fetch(context, tag, digest, FetchWait::InTime).await
        } else {
            self.fetch(context, tag, digest, FetchWait::Unbounded).await
        };
        match fetched {
            Err(error) if error.fault() == Fault::Outage => {
                self.0.recorded.stale(context, tag, record, error).await
            }
            fetched => fetched,
        }
    }

    async fn fetch(
        &self,
        context: &PullContext,
        tag: &Tag,
        digest: Digest,
        wait: FetchWait,
    ) -> Result<ManifestAnswer, Error> {
        let fetcher = &self.0.fetcher;
        let fetched = match fetcher.fetch(context, &digest.into(), wait).await {
            // Some registries announce a digest under which they do not serve the document.
            Err(Error::Upstream(upstream::Error::NotFound { .. })) => {
                fetcher.fetch(context, &tag.clone().into(), wait).await?
            }
            fetched => fetched?,
        };
        self.confirm(context.repository(), tag, fetched.digest).await;
        Ok(fetched.answer())
    }

    /// Records that upstream says now what the tag names.
    async fn confirm(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        self.0.recorded.confirmed.confirm(repository, tag, digest, self.0.recorded.records.clock().now());
        self.0.recorded.records.confirm_tag_later(repository, tag, digest).await;
        self.0.fetcher.names().share_tag(repository, tag, digest).await;
    }
}
