//! Manifests: the document of a digest, and the manifest that a tag names now.
//!
//! ```text
//! stored     a digest that is here: in memory (kept, memory_cache), else in the store
//! fetch      a digest or tag from upstream: once for all equal requests, verified, stored
//! resolve    what a tag names now: asked, or by its record (confirmed), as freshness (pure) decides
//! ```
//!
//! Promises: every manifest that leaves was verified as a whole, and its caller has a right to it. Deliberately not
//! here: blobs, prefetching, and arch aliases, which use [`Manifests`].

pub(crate) mod confirmed;
pub(crate) mod fetch;
pub(crate) mod freshness;
pub(crate) mod kept;
pub(crate) mod memory_cache;
pub(crate) mod resolve;
pub(crate) mod stored;

use std::sync::Arc;

use tokio::time::Instant;

use super::access::rights::Use;
use super::access::{Access, Purpose, Subject};
use super::answer::{AnswerSource, ManifestAnswer};
use super::config::Config;
use super::context::{PullContext, Question};
use super::error::Error;
use super::registry_client::RegistryClient;
use crate::reference::{Digest, Reference, Repository, Tag};
use crate::store::Store;
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::upstream::AuthContext;
use fetch::ManifestFetcher;
use kept::KeptManifests;
use resolve::Tags;
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
    upstream: Arc<dyn RegistryClient>,
    stored: StoredManifests,
    fetcher: ManifestFetcher,
    tags: Tags,
}

impl Manifests {
    /// Manifests of `store`, and of `upstream` where they are not there.
    pub(crate) fn new(
        config: Live<Config>,
        access: Access,
        upstream: Arc<dyn RegistryClient>,
        store: Store,
        tasks: Tasks,
    ) -> Self {
        let kept = KeptManifests::new(store.clone());
        let stored = StoredManifests::new(store.clone(), access.membership().clone(), kept.clone());
        let fetcher =
            ManifestFetcher::new(access.clone(), Arc::clone(&upstream), store.clone(), kept, tasks.clone());
        let tags = Tags::new(
            config,
            access.clone(),
            Arc::clone(&upstream),
            store.records().clone(),
            stored.clone(),
            fetcher.clone(),
            tasks,
        );
        Self { access, upstream, stored, fetcher, tags }
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
        match reference {
            Reference::Digest(digest) => self.by_digest(context, *digest, wanted).await,
            Reference::Tag(tag) => self.by_tag(context, tag).await,
        }
    }

    /// The manifest that a tag names now.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn by_tag(&self, context: &PullContext, tag: &Tag) -> Result<ManifestAnswer, Error> {
        // On the heap, so that the future of a request by digest stays small.
        Box::pin(self.tags.manifest_of(context, tag)).await
    }

    async fn by_digest(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        let right = if wanted == ManifestUse::Resolve { Use::Resolve } else { Use::Read };
        let may_read = self.access.known().open_cached(context, right).await;
        let Some(answer) = self.stored.find(context.repository(), digest).await else {
            return Ok(Box::pin(self.fetcher.fetch(context, &digest.into())).await?.answer());
        };
        if may_read {
            return Ok(answer);
        }
        let (question, begun) = (Question::default(), Instant::now());
        let confirmed = Box::pin(context.in_time(self.confirm(context, digest, &question))).await;
        match confirmed.unwrap_or_else(|| Err(context.too_slow(&question, begun))) {
            Ok(()) => Ok(answer.with_source(AnswerSource::Revalidated)),
            Err(error) => match self.access.known().held_since(context, &error).await {
                Some(since) => Ok(answer.stale(since, error)),
                None => Err(error),
            },
        }
    }

    async fn confirm(&self, context: &PullContext, digest: Digest, question: &Question) -> Result<(), Error> {
        // The manifest is here: what was proved before may hold without an answer.
        let context = &context.without_patience();
        let (upstream, repository) = (&self.upstream, context.repository());
        let request = |auth: AuthContext| async move {
            Ok(question.ask(upstream.confirm_manifest(repository, digest, &auth)).await?)
        };
        self.access.ask(context, &Subject::Manifest(digest), Purpose::Prove, request).await?;
        Ok(())
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
