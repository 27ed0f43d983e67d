//! Manifests: the document of a digest, and the manifest that a tag names now.
//!
//! ```text
//! stored     a digest that is here: in memory (kept, memory_cache), else in the store
//! fetch      a digest or tag from upstream: once for all equal requests, verified (fetched), stored
//! resolved   when each was last resolved, so that a digest is not handed out for ever after it was deleted upstream
//! resolve    what a tag names now: asked, or by its record (recorded, confirmed), as freshness (pure) decides
//! ```
//!
//! Promises: every manifest that leaves was verified as a whole, and its caller has a right to it. Deliberately not
//! here: blobs, prefetching, and arch aliases, which use [`Manifests`].

pub(crate) mod confirmed;
pub(crate) mod fetch;
pub(crate) mod fetched;
pub(crate) mod freshness;
pub(crate) mod kept;
pub(crate) mod memory_cache;
mod recorded;
pub(crate) mod resolve;
pub(crate) mod resolved;
pub(crate) mod stored;

use std::sync::Arc;

use tokio::time::Instant;

use super::access::Access;
use super::access::rights::{self, Use};
use super::answer::{AnswerSource, ManifestAnswer};
use super::config::Config;
use super::context::{PullContext, UpstreamWait};
use super::error::{Error, Fault};
use super::registry_client::RegistryClient;
use super::shared_names::SharedNames;
use crate::reference::{Digest, MediaType, Reference, Repository, Tag};
use crate::store::{Member, Store};
use crate::support::clock::{Clock, Moment};
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use fetch::ManifestFetcher;
use fetched::FetchWait;
use kept::KeptManifests;
use resolve::Tags;
use resolved::ResolvedManifests;
use stored::StoredManifests;

/// What a request wants of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestUse {
    /// Its digest (`HEAD`): the step of a pull in which a runtime checks its credential.
    Resolve,
    /// The document, and then what it lists.
    Pull,
}

/// Manifests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Manifests {
    access: Access,
    stored: StoredManifests,
    fetcher: ManifestFetcher,
    tags: Tags,
    resolved: Arc<ResolvedManifests>,
    clock: Clock,
}

impl Manifests {
    /// Manifests of `store`, and of `upstream` where they are not there.
    pub(crate) fn new(
        config: Live<Config>,
        access: Access,
        upstream: Arc<dyn RegistryClient>,
        store: Store,
        names: SharedNames,
        tasks: Tasks,
    ) -> Self {
        let kept = KeptManifests::new(config.clone(), store.clone());
        let stored = StoredManifests::new(store.clone(), access.membership().clone(), kept.clone());
        let fetcher = ManifestFetcher::new(
            access.clone(),
            Arc::clone(&upstream),
            store.clone(),
            kept,
            stored.memory(),
            names,
            tasks.clone(),
        );
        let tags = Tags::new(
            config,
            access.clone(),
            upstream,
            store.records().clone(),
            stored.clone(),
            fetcher.clone(),
            tasks,
        );
        let (resolved, clock) = (Arc::default(), store.records().clock().clone());
        Self { access, stored, fetcher, tags, resolved, clock }
    }

    /// When upstream last said what a tag names.
    pub(crate) async fn tag_confirmed(&self, repository: &Repository, tag: &Tag) -> Option<Moment> {
        self.tags.last_confirmed(repository, tag).await
    }

    /// The clock that records are dated by.
    pub(crate) fn clock_of_records(&self) -> &Clock {
        &self.clock
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn find(
        &self,
        context: &PullContext,
        reference: &Reference,
        wanted: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        let answer = match reference {
            Reference::Digest(digest) => self.by_digest(context, *digest, wanted).await?,
            Reference::Tag(tag) => self.by_tag(context, tag).await?,
        };
        self.resolved.spread(context.repository(), &answer, self.clock.now());
        Ok(answer)
    }

    /// The manifest that a tag names now.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn by_tag(&self, context: &PullContext, tag: &Tag) -> Result<ManifestAnswer, Error> {
        // On the heap, so that the future of a request by digest stays small.
        let answer = Box::pin(self.tags.manifest_of(context, tag)).await?;
        if answer.stale.is_none() {
            self.resolved.record(context.repository(), answer.digest, self.clock.now());
        }
        Ok(answer)
    }

    async fn by_digest(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        let right = if wanted == ManifestUse::Resolve { Use::Resolve } else { Use::Read };
        let (repository, known) = (context.repository(), self.access.known());
        let fresh = known.fresh_grant(context, right).await;
        let Some(answer) = self.stored.find(repository, digest).await else {
            let (fetcher, reference) = (&self.fetcher, digest.into());
            let fetched = match Box::pin(fetcher.fetch(context, &reference, FetchWait::Unbounded)).await {
                Ok(fetched) => fetched,
                Err(error) => return Box::pin(self.restored(context, digest, error)).await,
            };
            if fetched.is_authoritative {
                self.resolved.record(repository, digest, self.clock.now());
            }
            return Ok(fetched.answer());
        };
        if known.is_open_to_all(repository) || fresh.is_some() && self.is_recent(repository, digest) {
            return Ok(answer);
        }
        let (wait, begun) = (UpstreamWait::default(), Instant::now());
        let principal = fresh.map(|grant| grant.principal);
        let asked = self.access.still_there(context, digest).await;
        let asking = asked.ask_for_manifest(principal, &answer.media_type, &wait);
        let confirmed = context.in_time(Box::pin(asking).as_mut()).await;
        let Err(error) = confirmed.unwrap_or_else(|| Err(context.too_slow(&wait, begun))) else {
            self.resolved.record(repository, digest, self.clock.now());
            return Ok(answer.with_source(AnswerSource::Revalidated));
        };
        let error = asked.conclude(error).await;
        let is_gone = self.access.membership().has_ended(repository, digest);
        if (is_gone || error.is_denied()) && !self.stored.is_still_member(repository, digest).await {
            self.resolved.forget(repository, digest);
        }
        // By this very question or another one, whatever became of the rest of it.
        if is_gone {
            return Err(error);
        }
        match (known.held_since(context, &error).await, fresh) {
            (Some(since), _) => Ok(answer.stale(since, error)),
            // The right needs no proof, and the registry did not say that the manifest is gone.
            (None, Some(grant)) if matches!(error.fault(), Fault::Outage | Fault::Invalid | Fault::Ours) => {
                Ok(answer.stale(grant.proved_at, error))
            }
            _ => Err(error),
        }
    }

    /// A manifest that could not be fetched: where its registry cannot be asked, another node may have learned that
    /// everyone may read it.
    async fn restored(
        &self,
        context: &PullContext,
        digest: Digest,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let (repository, names) = (context.repository(), self.fetcher.names());
        if error.fault() != Fault::Outage
            || !matches!(names.shared_member(repository, digest).await, Some(Member::Manifest(_)))
            || !names.hold_right(repository, &error).await
        {
            return Err(error);
        }
        let Some(since) = self.access.known().held_since(context, &error).await else { return Err(error) };
        if !self.fetcher.restore(repository, digest).await {
            return Err(error);
        }
        match self.stored.find(repository, digest).await {
            Some(answer) => Ok(answer.stale(since, error)),
            None => Err(error),
        }
    }

    /// Whether a manifest was resolved so short a time ago that it is served without asking upstream.
    fn is_recent(&self, repository: &Repository, digest: Digest) -> bool {
        let terms = self.access.known().terms(repository);
        let age = self.resolved.age(repository, digest, self.clock.now());
        age.is_some_and(|age| rights::is_fresh(age, Use::Read, &terms))
    }

    /// The media type of a manifest that is in memory.
    pub(crate) fn kept_type(&self, repository: &Repository, digest: Digest) -> Option<MediaType> {
        self.stored.kept_type(repository, digest)
    }

    /// Forgets what is in memory of an image that was removed, or imported.
    pub(crate) fn forget(&self, repository: &Repository, tag: Option<&Tag>) {
        if let Some(tag) = tag {
            self.tags.forget(repository, tag);
        }
        self.stored.forget();
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod withheld_tests;
