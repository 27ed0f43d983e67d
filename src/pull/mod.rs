//! One pull: may this caller have it, is it here, what does the tag name now, who is downloading it?
//!
//! ```text
//! access      rights: remembered (grants), or proved by asking upstream as one principal after the other
//! manifest    what a tag names now (resolve, freshness); the document of a digest (stored, fetch)
//! blob        stored, or one download (flight, fill) that every reader follows
//! prefetch    what belongs to a layer that is read as a whole
//! shared_names  what nodes share of names for an outage
//! own_names   manifests and blobs under their own names
//! arch_alias  the same under the names that a registry's `arch_suffix` adds
//! import      images without a registry
//! ```
//!
//! Promises: one upstream request for any number of callers; no client receives a complete body that is wrong; no
//! caller receives what upstream would not give to a credential that the caller may use; no byte is served under a
//! repository's name that this repository's own upstream did not deliver or confirm; what was pulled once is served
//! again while upstream is away, to those who could read it before.
//!
//! Each part is constructed from what it needs, in `Puller::over`, what it is made of in its own `new`, and tested by
//! itself against a registry of the test's own. Deliberately not here: HTTP, and how long a caller is willing to wait.

mod access;
mod answer;
mod arch_alias;
mod blob;
mod config;
mod context;
mod error;
mod explain;
mod failure_kind;
#[cfg(test)]
mod fake_answers_for_tests;
#[cfg(test)]
mod fake_bodies_for_tests;
#[cfg(test)]
mod fake_registry_for_tests;
#[cfg(test)]
pub(crate) mod for_tests;
mod import;
mod manifest;
pub mod metrics;
mod own_names;
mod prefetch;
mod registry_client;
mod shared_names;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use access::known_rights::KnownRight;
pub use answer::{AnswerSource, ManifestAnswer, Stale};
pub use blob::body::BlobBody;
pub use blob::into_store::InStore;
pub use blob::{BlobAnswer, BlobRange, BlobSize};
pub use config::{Config, Freshness, Policy, Rule, Rules, TagTtl, Terms, pattern_of};
pub use context::{Caller, Priority, PullContext, RequestId};
pub use error::{ChallengeReason, Error, Fault};
pub use explain::Outlook;
pub use failure_kind::FailureKind;
pub use import::Importer;
pub use manifest::ManifestUse;
pub use prefetch::BLOBS_AT_ONCE;

use crate::credentials::Keychain;
use crate::reference::{Digest, Reference, Registry, Repository};
use crate::store::Store;
use crate::support::clock::Timestamp;
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::tier::Tier;
use crate::upstream::{Listing, Page, Upstream};
use access::Access;
use arch_alias::ArchAliases;
use blob::Blobs;
use blob::components::Components as BlobComponents;
use explain::Outlooks;
use manifest::Manifests;
use metrics::Metrics;
use own_names::OwnNames;
use prefetch::Prefetch;
use registry_client::RegistryClient;
use shared_names::SharedNames;

/// Pulls. Cheap to clone.
#[derive(Clone)]
pub struct Puller(Arc<Components>);

struct Components {
    config: Live<Config>,
    access: Access,
    manifests: Manifests,
    blobs: Blobs,
    own_names: OwnNames,
    aliases: ArchAliases,
    importer: Importer,
    outlooks: Outlooks,
    tasks: Tasks,
}

impl Puller {
    /// Pulls from `upstream` into `store`, with the credentials of `keychain` and the bytes of `tier` where it has
    /// them. New settings in `config` count from the next request on.
    pub fn new(
        config: Live<Config>,
        store: Store,
        upstream: Upstream,
        keychain: Keychain,
        tier: Tier,
        metrics: Metrics,
    ) -> Self {
        Self::over(config, store, Arc::new(upstream), keychain, tier, metrics)
    }

    fn over(
        config: Live<Config>,
        store: Store,
        upstream: Arc<dyn RegistryClient>,
        keychain: Keychain,
        tier: Tier,
        metrics: Metrics,
    ) -> Self {
        let (metrics, tasks) = (Arc::new(metrics), Tasks::default());
        let client = || Arc::clone(&upstream);
        let access =
            Access::new(config.clone(), store.records(), keychain, client(), tasks.clone(), &metrics);
        let names = SharedNames::new(tier, access.clone());
        names.replace_when_closed(store.records(), &tasks);
        let manifests = Manifests::new(
            config.clone(),
            access.clone(),
            client(),
            store.clone(),
            names.clone(),
            tasks.clone(),
        );
        let blobs = Blobs::new(BlobComponents::new(
            config.clone(),
            access.clone(),
            client(),
            store.clone(),
            names,
            tasks.clone(),
            metrics,
        ));
        let prefetch = Prefetch::new(config.clone(), access.clone(), blobs.clone(), tasks.clone());
        let own_names = OwnNames::new(manifests.clone(), blobs.clone(), prefetch, access.clone(), client());
        let aliases =
            ArchAliases::new(own_names.clone(), access.membership().clone(), store.records().clone());
        let importer = Importer::new(store, access.clone(), manifests.clone(), tasks.clone());
        let outlooks = Outlooks::new(config.clone(), access.clone(), manifests.clone());
        Self(Arc::new(Components {
            config,
            access,
            manifests,
            blobs,
            own_names,
            aliases,
            importer,
            outlooks,
            tasks,
        }))
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn manifest(
        &self,
        context: &PullContext,
        reference: &Reference,
        wanted: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        let Components { config, own_names, aliases, .. } = &*self.0;
        match config.current().archs_of(context.repository().registry()) {
            None => own_names.manifest(context, reference, wanted).await,
            Some(archs) => Box::pin(aliases.of(archs).manifest(context, reference, wanted)).await,
        }
    }

    /// A blob, whole whatever range is wanted; a small part of a blob that is not being downloaded may come alone. For
    /// a range the answer waits until the size is known.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn blob(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        let Components { config, own_names, aliases, .. } = &*self.0;
        match config.current().archs_of(context.repository().registry()) {
            None => own_names.blob(context, digest, wanted).await,
            Some(archs) => Box::pin(aliases.of(archs).blob(context, digest, wanted)).await,
        }
    }

    /// The size of a blob, without downloading it.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn blob_size(&self, context: &PullContext, digest: Digest) -> Result<BlobSize, Error> {
        let Components { config, own_names, aliases, .. } = &*self.0;
        match config.current().archs_of(context.repository().registry()) {
            None => own_names.blob_size(context, digest).await,
            Some(archs) => Box::pin(aliases.of(archs).blob_size(context, digest)).await,
        }
    }

    /// A page of tags or referrers, always upstream's own.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn list(
        &self,
        context: &PullContext,
        listing: &Listing,
        query: Option<String>,
    ) -> Result<Page, Error> {
        self.0.own_names.list(context, listing, query).await
    }

    /// Downloads a blob into the store unless it is there. `report` is called now and then with the bytes that are
    /// there, and of how many.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::NotStored`] if the store did not take it.
    pub async fn fetch_into_store(
        &self,
        context: &PullContext,
        digest: Digest,
        report: impl Fn(u64, Option<u64>),
    ) -> Result<InStore, Error> {
        self.0.blobs.fetch_into_store(context, digest, report).await
    }

    /// What would decide a pull of `reference` now; nothing is asked of upstream for it.
    pub async fn outlook(&self, context: &PullContext, reference: &Reference) -> Outlook {
        self.0.outlooks.outlook(context, reference).await
    }

    /// Whether the store takes anything from a registry now: there is room, and its disk has not failed a moment ago.
    pub async fn has_room(&self, registry: &Registry) -> bool {
        self.0.blobs.has_room(registry).await
    }

    /// Whether a blob of `bytes` is in the store, or the store would take it from a registry now.
    pub async fn would_have(&self, registry: &Registry, digest: Digest, bytes: u64) -> bool {
        self.0.blobs.has(digest).await || self.0.blobs.would_take(registry, digest, bytes).await
    }

    /// How many of these digests of an image are neither in the store nor synthesized.
    pub async fn missing(&self, repository: &Repository, digests: impl IntoIterator<Item = Digest>) -> usize {
        // Manifests are written after their answer.
        self.0.blobs.flush().await;
        let mut missing = 0;
        for digest in digests {
            let here = self.0.blobs.has(digest).await || self.0.aliases.has_index(repository, digest).await;
            missing += usize::from(!here);
        }
        missing
    }

    /// Waits while runtimes pull, within bounds: before background work begins.
    pub async fn yield_to_foreground(&self) {
        self.0.blobs.foreground().yield_before_start().await;
    }

    /// Whether the rate limit of the principal that upstream is asked as first is nearly used up.
    pub async fn is_budget_low(&self, context: &PullContext) -> bool {
        self.0.access.is_budget_low(context).await
    }

    /// Ends every grant of a repository, or of all; returns how many there were.
    ///
    /// # Errors
    /// The disk.
    pub async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, Error> {
        Ok(self.0.access.revoke(repository).await?)
    }

    /// Forgets what is in memory of an image that was removed from the store.
    pub fn forget(&self, repository: &Repository, reference: &Reference) {
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        self.0.manifests.forget(repository, tag);
    }

    /// Imports images.
    pub fn importer(&self) -> &Importer {
        &self.0.importer
    }

    /// The registries that cannot be asked, and since when.
    pub fn outages(&self) -> Vec<(Registry, Timestamp)> {
        self.0.access.outages()
    }

    /// Whether the operator named a registry, or it answered before: what a client mistyped is neither.
    pub fn is_known_registry(&self, registry: &Registry) -> bool {
        self.0.access.is_known_registry(registry)
    }

    /// Blob downloads under way.
    pub fn downloads(&self) -> usize {
        self.0.blobs.downloads()
    }

    /// Waits until downloads and everything else that was begun in the background is over, but no longer than `wait`:
    /// what has been received is worth keeping.
    pub async fn finish(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        self.0.blobs.settle(wait).await;
        let running = self.0.tasks.finish(deadline.saturating_duration_since(Instant::now())).await;
        if running > 0 {
            tracing::debug!(running, "background work is ended by the stop");
        }
    }
}
