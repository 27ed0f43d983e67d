//! The story of one pull, whoever asks: may it be handed out, is it here, what does the tag mean, who is fetching it.
//!
//! Promises: one upstream request for any number of callers; nobody gets a complete body that is wrong; nobody gets
//! what upstream would not give to a credential that is his to use; no byte is handed out under a repository's name
//! that this repository's own upstream did not deliver or confirm; what was pulled once is served again when upstream
//! is away, to those who could read it before.
//!
//! Deliberately not here: HTTP, and how long a caller is willing to wait.

mod access;
mod arch_alias;
mod blob;
mod config;
mod error;
mod import;
mod keep;
mod manifest;
pub mod metrics;
mod prefetch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use access::authorize::Caller;
pub use blob::follow::BlobBody;
pub use config::{Config, Policy, Terms};
pub use error::{Error, Fault, Unidentified};
pub use manifest::fetch::{ManifestAnswer, Stale};
pub use manifest::freshness::{Freshness, Rule, Rules, TagTtl, pattern_of};

use crate::credentials::Keychain;
use crate::reference::{Digest, Principal, Reference, Repository, Tag};
use crate::store::Store;
use crate::support::metrics::RegistryLabels;
use crate::support::singleflight::Singleflight;
use crate::upstream::{Allowed, Listing, Page, Upstream};
use access::authorize::Purpose;
use access::grants::{Grants, Subject};
use arch_alias::records::Forms;
use blob::flight::Flights;
use blob::follow::Reader;
use blob::priority::Pods;
use manifest::confirmed::{Confirmed, Refreshing};
use manifest::fetch::Fetched;
use manifest::memory_cache::Recent;
use metrics::Metrics;

/// Blob downloads at the same time. Each holds a blocking thread, of which the runtime has 512; the rest is for the
/// store.
const FILLS_MAX: usize = 256;

/// At which step of a pull somebody asks for a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestUse {
    /// To know what is there: the step in which a runtime checks its credential.
    Resolve,
    /// To have it, and then what it lists: that is fetched ahead.
    Pull,
    /// To have it, and to see to the rest by himself.
    Single,
}

/// How an answer was come by; also a label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// From the store, upstream not asked.
    Hit,
    /// From a download that was under way.
    Join,
    /// From upstream.
    Fill,
    /// From the store, after upstream said that it is still right.
    Revalidated,
    /// From the store; upstream is asked meanwhile, behind the caller's back.
    Refreshing,
    /// From the store, because upstream could not be asked.
    Stale,
    /// Handed through and not stored.
    Passthrough,
}

impl AnswerSource {
    /// The label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Join => "join",
            Self::Fill => "fill",
            Self::Revalidated => "revalidated",
            Self::Refreshing => "refreshing",
            Self::Stale => "stale",
            Self::Passthrough => "passthrough",
        }
    }
}

/// A blob to serve.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Bytes, unless upstream did not say and they are still coming.
    pub size: Option<u64>,
    /// The bytes.
    pub body: BlobBody,
    /// How it was come by.
    pub source: AnswerSource,
    /// Set if upstream could not be asked whether the caller may still have it.
    pub stale: Option<Stale>,
}

/// How much of a blob somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobRange {
    /// All of it.
    Whole,
    /// Some range, which cannot be told before the size is known.
    Range,
    /// The bytes from `start` up to, not including, `end`, as far as there are any.
    Bytes {
        /// The first.
        start: u64,
        /// One past the last.
        end: u64,
    },
}

/// Equal questions of one principal, asked once.
type Asked<K, T> = Singleflight<(Repository, K, Principal), Result<Allowed<T>, Error>>;

/// Pulls. Cheap to clone.
#[derive(Clone)]
pub struct Puller(Arc<Inner>);

struct Inner {
    config: Config,
    store: Store,
    upstream: Upstream,
    keychain: Keychain,
    grants: Grants,
    flights: Flights,
    fills: Arc<Semaphore>,
    recent: Recent,
    confirmed: Confirmed,
    refreshing: Refreshing,
    forms: Forms,
    pods: Pods,
    /// Images that are fetched ahead.
    ahead: Arc<Semaphore>,
    /// Upstream connections beside the first of a blob.
    extra_lanes: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    resolutions: Asked<Tag, Option<Digest>>,
    /// With whether the answer proves a right: a mirror's delivery must not pass for a proof.
    manifests: Asked<(Reference, bool), Fetched>,
    confirmations: Asked<Digest, Option<u64>>,
}

impl Puller {
    /// A puller over a store, an upstream and the node's credentials.
    pub fn new(
        config: Config,
        store: Store,
        upstream: Upstream,
        keychain: Keychain,
        metrics: Metrics,
        labels: Arc<RegistryLabels>,
    ) -> Self {
        let metrics = Arc::new(metrics);
        Self(Arc::new(Inner {
            grants: Grants::new(store.clone(), config.negative_ttl, Arc::clone(&metrics), labels),
            forms: Forms::new(store.clone()),
            config,
            store,
            upstream,
            keychain,
            flights: Flights::new(metrics.flights.clone()),
            fills: Arc::new(Semaphore::new(FILLS_MAX)),
            recent: Recent::default(),
            confirmed: Confirmed::default(),
            refreshing: Refreshing::default(),
            pods: Pods::default(),
            ahead: prefetch::places(),
            extra_lanes: blob::segments::places(),
            metrics,
            resolutions: Singleflight::default(),
            manifests: Singleflight::default(),
            confirmations: Singleflight::default(),
        }))
    }

    /// Blob downloads under way.
    pub fn flights(&self) -> u64 {
        u64::try_from(self.0.metrics.flights.get()).unwrap_or(0)
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        caller: &Caller,
        step: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        if step != ManifestUse::Single && matches!(reference, Reference::Tag(_)) {
            self.0.pods.asked();
        }
        if !self.has_suffixes(repository) {
            return self.manifest_of(repository, reference, caller, step).await;
        }
        if let Reference::Digest(digest) = reference
            && let Some(answer) = Box::pin(self.stands_in(repository, *digest, caller, step)).await
        {
            return Ok(answer);
        }
        match Box::pin(self.manifest_of(repository, reference, caller, step)).await {
            Err(said) if Self::leaves_room(&said) => {
                Box::pin(self.manifest_by_suffix(repository, reference, caller, step, said)).await
            }
            answered => answered,
        }
    }

    /// A blob, all of it whatever part is wanted; a small part of a large blob that nobody has pulled may come alone.
    /// For a range the answer waits until the size is known.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        if !self.has_suffixes(repository) {
            return self.blob_of(repository, digest, caller, wanted).await;
        }
        if let Some(other) = self.holder(repository, digest).await
            && let Ok(answer) = Box::pin(self.blob_of(&other, digest, caller, wanted)).await
        {
            return Ok(answer);
        }
        match Box::pin(self.blob_of(repository, digest, caller, wanted)).await {
            Err(said) if Self::leaves_room(&said) => {
                Box::pin(self.blob_by_suffix(repository, digest, caller, wanted, said)).await
            }
            answered => answered,
        }
    }

    /// The size of a blob, without fetching it.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn blob_size(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
    ) -> Result<(Option<u64>, AnswerSource, Option<Stale>), Error> {
        match Box::pin(self.blob_size_of(repository, digest, caller)).await {
            Err(said) if self.has_suffixes(repository) && Self::leaves_room(&said) => {
                Box::pin(self.size_by_suffix(repository, digest, caller, said)).await
            }
            answered => answered,
        }
    }

    fn has_suffixes(&self, repository: &Repository) -> bool {
        self.0.config.arch_suffixes.contains_key(repository.registry())
    }

    fn reader(&self, repository: &Repository, digest: Digest, caller: &Caller) -> Reader {
        let (repository, caller) = (repository.clone(), caller.clone());
        Reader { puller: self.clone(), repository, digest, caller }
    }

    /// A page of tags or referrers, always upstream's own.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn list(
        &self,
        repository: &Repository,
        listing: &Listing,
        query: Option<String>,
        caller: &Caller,
    ) -> Result<Page, Error> {
        let (upstream, query) = (&self.0.upstream, &query);
        let question =
            |auth| async move { Ok(upstream.list(repository, listing, query.clone(), &auth).await?) };
        Ok(self.ask(repository, caller, &Subject::List, Purpose::Prove, question).await?.0)
    }

    /// Waits until no download is under way, but no longer than `wait`: what has been received is worth keeping.
    pub async fn settle(&self, wait: Duration) {
        let no_more = self.0.fills.acquire_many(FILLS_MAX as u32);
        if tokio::time::timeout(wait, no_more).await.is_err() {
            tracing::info!(downloads = self.flights(), "ending with downloads under way");
        }
    }
}
