//! Tags: the manifest that a tag names now, asked of upstream, or taken from its record where the rules allow it or
//! upstream cannot be asked.
//!
//! Promises: upstream is asked first unless a rule says otherwise; what is served is the manifest that upstream names,
//! or the one that the tag named before, never a mixture; a record is served only to a caller with a right to the
//! repository. The decisions themselves are in [`super::freshness`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::confirmed::{ConfirmedTags, Refreshes};
use super::fetch::{BytesProvedBy, FetchedManifest, ManifestFetcher};
use super::freshness::{self, Decision, Revalidation};
use super::stored::StoredManifests;
use crate::pull::access::rights::Use;
use crate::pull::access::{Access, Purpose, Subject};
use crate::pull::answer::{AnswerSource, ManifestAnswer};
use crate::pull::config::{Config, Freshness};
use crate::pull::context::{PullContext, Question};
use crate::pull::error::{Error, Fault};
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Digest, Principal, Repository, Tag};
use crate::store::{Records, TagRecord};
use crate::support::clock::{Moment, Timestamp};
use crate::support::live::Live;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::{self, Allowed, AuthContext, Patience, ResolvedTag};

type Resolutions = Singleflight<(Repository, Tag, Principal, Patience), Result<Allowed<Named>, Error>>;

/// Resolves tags. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tags(Arc<Inner>);

struct Inner {
    config: Live<Config>,
    access: Access,
    upstream: Arc<dyn RegistryClient>,
    records: Records,
    stored: StoredManifests,
    fetcher: ManifestFetcher,
    confirmed: ConfirmedTags,
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
        Self(Arc::new(Inner {
            config,
            access,
            upstream,
            records,
            stored,
            fetcher,
            confirmed: ConfirmedTags::default(),
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

    /// The manifest that a tag named last, as another node was told: where this one has no record of the tag and its registry
    /// cannot be asked.
    async fn by_shared_name(
        &self,
        context: &PullContext,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let (repository, names) = (context.repository(), self.0.fetcher.names());
        if self.0.records.tag(repository, tag).await.is_some() {
            return Err(error);
        }
        let age_max = self.freshness(repository, tag).stale_if_error;
        let Some(record) = names.shared_tag(repository, tag, age_max).await else { return Err(error) };
        if !names.hold_right(repository, &error).await
            || !self.0.fetcher.restore(repository, record.digest).await
        {
            return Err(error);
        }
        self.stale(context, tag, record, error).await
    }

    /// When upstream last said what a tag names; after a restart to the hour.
    pub(crate) async fn last_confirmed(&self, repository: &Repository, tag: &Tag) -> Option<Moment> {
        match self.0.confirmed.find(repository, tag) {
            Some((_, confirmed)) => Some(confirmed),
            None => self.0.records.tag(repository, tag).await.map(|tag| Moment::recorded(tag.confirmed_at)),
        }
    }

    /// Forgets when a tag was confirmed: it was removed, or an import set it.
    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag) {
        self.0.confirmed.forget(repository, tag);
    }

    /// The manifest that the record of a tag names, if the rules allow it without asking upstream, and if the caller's
    /// right needs no new proof either.
    async fn by_record(&self, context: &PullContext, tag: &Tag) -> Option<ManifestAnswer> {
        let inner = &*self.0;
        let repository = context.repository();
        let freshness = self.freshness(repository, tag);
        if freshness.revalidation(Duration::ZERO) == Revalidation::First {
            return None;
        }
        let (digest, confirmed) = match inner.confirmed.find(repository, tag) {
            Some(found) => found,
            None => {
                let record = inner.records.tag(repository, tag).await?;
                let confirmed = Moment::recorded(record.confirmed_at);
                inner.confirmed.record(repository, tag, record.digest, confirmed);
                (record.digest, confirmed)
            }
        };
        let revalidation = freshness.revalidation(confirmed.age_at(inner.records.clock().now()));
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

    fn freshness(&self, repository: &Repository, tag: &Tag) -> Freshness {
        self.0.config.current().freshness.of(repository, tag)
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
        // Some registries hide by a 404 what they do not let a principal read: the tag is gone if one says so that could read
        // the repository a moment ago, or if no other one can.
        let (witnesses, missed_by) = (inner.access.known().witnesses(repository).await, Mutex::default());
        let record = inner.records.tag(repository, tag).await;
        let has_record = match record {
            Some(record) => self.may_serve_record(context, tag, record).await,
            None => false,
        };
        let asked = if has_record {
            let context = context.without_patience();
            let (question, begun) = (Question::default(), Instant::now());
            let asked = context.in_time(self.ask_upstream(&context, tag, &missed_by, &question)).await;
            asked.unwrap_or_else(|| Err(context.too_slow(&question, begun)))
        } else {
            self.ask_upstream(context, tag, &missed_by, &Question::default()).await
        };
        let (answer, fetched, asked_as) = match asked {
            Ok((Named { digest, fetched }, principal)) => (Ok(digest), fetched, Some(principal)),
            Err(Error::Upstream(error)) => (Err(error), None, None),
            Err(error @ Error::OutOfTime { .. }) => {
                return match record {
                    Some(record) => self.stale(context, tag, record, error).await,
                    None => Err(error),
                };
            }
            Err(other) => return self.record_if_open_to_all(context, tag, other).await,
        };
        match freshness::decide(answer, record) {
            Decision::Current(digest) => {
                inner.access.membership().name_by_tag(repository, digest);
                if let Some(fetched) = fetched {
                    self.confirm(repository, tag, digest).await;
                    return Ok(fetched.answer());
                }
                if let Some(answer) = inner.stored.find(repository, digest).await {
                    self.confirm(repository, tag, digest).await;
                    return Ok(answer.with_source(AnswerSource::Revalidated));
                }
                self.fetch_or_record(context, tag, digest, record, asked_as).await
            }
            Decision::Stale(record, error) => self.stale(context, tag, record, error.into()).await,
            Decision::Forget(error) => {
                let is_gone = missed_by.lock().iter().any(|principal| witnesses.contains(principal));
                if !is_gone {
                    return Err(error.into());
                }
                inner.confirmed.forget(repository, tag);
                if let Err(error) = inner.records.remove_tag(repository, tag).await {
                    tracing::error!(%repository, %tag, %error, "the record of a tag that is gone could not be removed");
                }
                Err(error.into())
            }
            Decision::Fail(error) => self.record_if_open_to_all(context, tag, error.into()).await,
        }
    }

    /// What upstream says that the tag names, and as whom it was asked; one request for equal questions. A manifest that
    /// comes with the answer is verified and stored: what is no manifest proves no right. The principals for whom there is
    /// no such tag are added to `missed_by`.
    async fn ask_upstream(
        &self,
        context: &PullContext,
        tag: &Tag,
        missed_by: &Mutex<Vec<Principal>>,
        question: &Question,
    ) -> Result<(Named, Principal), Error> {
        let repository = context.repository();
        let request = |auth: AuthContext| {
            let tags = self.clone();
            let (repository, tag) = (repository.clone(), tag.clone());
            let principal = auth.presented.principal;
            let key = (repository.clone(), tag.clone(), principal, auth.patience);
            let named = move || async move { tags.ask_as(&repository, &tag, &auth).await };
            let resolved = self.0.resolutions.run(key, named);
            async move {
                let resolved = question.ask(resolved).await.unwrap_or(Err(Error::panicked("resolved a tag")));
                if let Err(Error::Upstream(upstream::Error::NotFound { public, .. })) = &resolved {
                    missed_by.lock().push(self.0.access.known().concerned(principal, *public));
                }
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
        let Inner { upstream, stored, fetcher, .. } = &*self.0;
        let Allowed { value, proof } = upstream.resolve(repository, tag, auth).await?;
        let ResolvedTag { digest, manifest } = value;
        let fetched = match manifest {
            Some(manifest) if stored.find(repository, digest).await.is_none() => {
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
        let Some(record) = record else { return self.fetch(context, tag, digest).await };
        let registry = context.repository().registry();
        if asked_as.is_some_and(|principal| self.0.upstream.is_budget_low(registry, principal)) {
            let reserved = Error::RateLimitReserved { registry: registry.clone() };
            if let Ok(answer) = self.stale(context, tag, record, reserved).await {
                return Ok(answer);
            }
        }
        let fetched = if self.may_serve_record(context, tag, record).await {
            self.fetch_in_time(context, tag, digest).await
        } else {
            self.fetch(context, tag, digest).await
        };
        match fetched {
            Err(error) if error.fault() == Fault::Outage => self.stale(context, tag, record, error).await,
            fetched => fetched,
        }
    }

    /// Whether the manifest of a record is here and may be served stale, should the one that the tag names now be slow.
    /// The caller's right was proved just now.
    async fn may_serve_record(&self, context: &PullContext, tag: &Tag, record: TagRecord) -> bool {
        let repository = context.repository();
        !self.freshness(repository, tag).stale_if_error.is_zero()
            && self.0.stored.find(repository, record.digest).await.is_some()
    }

    /// Fetches the manifest, and gives up while the client still waits: there is a record to serve.
    async fn fetch_in_time(
        &self,
        context: &PullContext,
        tag: &Tag,
        digest: Digest,
    ) -> Result<ManifestAnswer, Error> {
        let begun = Instant::now();
        let fetched = context.in_time(self.fetch(context, tag, digest)).await;
        fetched.unwrap_or_else(|| Err(Error::OutOfTime { seconds: begun.elapsed().as_secs() }))
    }

    async fn fetch(&self, context: &PullContext, tag: &Tag, digest: Digest) -> Result<ManifestAnswer, Error> {
        let fetcher = &self.0.fetcher;
        let fetched = match fetcher.fetch(context, &digest.into()).await {
            // Some registries announce a digest under which they do not serve the document.
            Err(Error::Upstream(upstream::Error::NotFound { .. })) => {
                fetcher.fetch(context, &tag.clone().into()).await?
            }
            fetched => fetched?,
        };
        self.confirm(context.repository(), tag, fetched.digest).await;
        Ok(fetched.answer())
    }

    /// The manifest that the tag last named, for a caller whose right holds although upstream cannot be asked, and not for
    /// longer than the operator allows: counted from the start of an outage of the registry, else from when the tag was
    /// served so first.
    async fn stale(
        &self,
        context: &PullContext,
        tag: &Tag,
        record: TagRecord,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let Inner { access, stored, .. } = &*self.0;
        let (repository, known) = (context.repository(), access.known());
        let outage = access.outage_lasted(repository.registry(), &error).await;
        let now = self.0.records.clock().now();
        let begun = self.stale_from(context, tag, record, outage);
        let stale = self.0.confirmed.stale_for(repository, tag, begun, now);
        let lasted = outage.map_or(stale, |outage| outage.max(stale));
        let young = lasted < self.freshness(repository, tag).stale_if_error;
        let may_read = known.is_open_to_all(repository)
            || known.held_since(context, &error).await.is_some()
            || known.open_cached(context, Use::Read).await;
        if !young || !may_read {
            return Err(error);
        }
        let Some(answer) = stored.find(repository, record.digest).await else { return Err(error) };
        // The request log tells of each such answer, and why.
        let request = context.request_id();
        tracing::debug!(%request, %repository, %tag, %error, "serving the manifest that the tag last named");
        Ok(answer.stale(record.confirmed_at, error))
    }

    /// Since when a tag is taken to be served stale that was not known to be: from now on; but a signature or attestation,
    /// of which little is known after a restart, from when upstream last named it, unless there is an outage, whose start is
    /// on the disk.
    fn stale_from(
        &self,
        context: &PullContext,
        tag: &Tag,
        record: TagRecord,
        outage: Option<Duration>,
    ) -> Timestamp {
        let is_known = self.0.confirmed.is_known(context.repository(), tag);
        if freshness::is_attached(tag) && outage.is_none() && !is_known {
            return record.confirmed_at;
        }
        self.0.records.clock().now()
    }

    /// Under `policy = "open"` what is cached is for every pod, also where upstream refuses this one.
    async fn record_if_open_to_all(
        &self,
        context: &PullContext,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let Inner { access, records, stored, .. } = &*self.0;
        let repository = context.repository();
        let refused = matches!(
            &error,
            Error::Upstream(upstream::Error::Refused { .. } | upstream::Error::Unauthenticated { .. })
                | Error::AuthenticationRequired { .. }
        );
        if !refused || !access.known().is_open_to_all(repository) {
            return Err(error);
        }
        let Some(record) = records.tag(repository, tag).await else { return Err(error) };
        match stored.find(repository, record.digest).await {
            Some(answer) => Ok(answer.stale(record.confirmed_at, error)),
            None => Err(error),
        }
    }

    /// Records that upstream says now what the tag names.
    async fn confirm(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        self.0.confirmed.confirm(repository, tag, digest, self.0.records.clock().now());
        self.0.records.confirm_tag_later(repository, tag, digest).await;
        self.0.fetcher.names().share_tag(repository, tag, digest).await;
    }
}
