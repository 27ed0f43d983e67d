//! The story of one pull, whoever asks: may it be handed out, is it here, what does the tag mean, who is fetching it.
//!
//! Promises: one upstream request for any number of callers; nobody gets a complete body that is wrong; nobody gets
//! what upstream would not give to a credential that is his to use; no byte is handed out under a repository's name
//! that this repository's own upstream did not deliver or confirm; what was pulled once is served again when upstream
//! is away, to those who could read it before.
//!
//! Deliberately not here: HTTP, and how long a caller is willing to wait.

mod ahead;
mod authorise;
mod config;
mod error;
mod fill;
mod flight;
mod follow;
mod freshness;
mod grants;
mod lanes;
mod manifests;
pub mod metrics;
mod part;
mod recent;
mod resolve;
mod rights;
mod source;
mod tags;
mod through;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

pub use authorise::Caller;
pub use config::{Config, Policy, Terms};
pub use error::{Error, Fault, Unidentified};
pub use follow::BlobBody;
pub use freshness::{Freshness, Rule, Rules, TagTtl, pattern_of};
pub use manifests::{ManifestAnswer, Stale};

use crate::coalesce::Coalesce;
use crate::credentials::Keychain;
use crate::metrics::RegistryLabels;
use crate::reference::{Digest, Principal, Reference, Repository, Tag};
use crate::store::Store;
use crate::upstream::{self, Listing, Page, Upstream, Yes};
use authorise::Purpose;
use flight::{Boarding, Flights, Lead, Progress};
use follow::Reader;
use grants::{Grants, Subject};
use manifests::Fetched;
use metrics::Metrics;
use recent::Recent;
use rights::Use;
use tags::{Confirmed, Refreshing};

/// Times that a blob is looked for anew because somebody else's download ended in a way that says nothing about us.
const ATTEMPTS_MAX: usize = 3;

/// Blob downloads at the same time. Each holds a blocking thread, of which the runtime has 512; the rest is for the
/// store.
const FILLS_MAX: usize = 256;

/// How an answer was come by; also a label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
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
    Proxied,
}

impl Source {
    /// The label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Join => "join",
            Self::Fill => "fill",
            Self::Revalidated => "revalidated",
            Self::Refreshing => "refreshing",
            Self::Stale => "stale",
            Self::Proxied => "proxied",
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
    pub source: Source,
    /// Set if upstream could not be asked whether the caller may still have it.
    pub stale: Option<Stale>,
}

/// How much of a blob somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
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

/// How a blob can be had.
enum Flown {
    /// It landed meanwhile.
    Landed(Box<BlobAnswer>),
    /// By following.
    Seat(Source, watch::Receiver<Progress>),
}

/// Equal questions of one principal, asked once.
type Asked<K, T> = Coalesce<(Repository, K, Principal), Result<Yes<T>, Error>>;

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
            config,
            store,
            upstream,
            keychain,
            flights: Flights::new(metrics.flights.clone()),
            fills: Arc::new(Semaphore::new(FILLS_MAX)),
            recent: Recent::default(),
            confirmed: Confirmed::default(),
            refreshing: Refreshing::default(),
            ahead: ahead::places(),
            extra_lanes: lanes::places(),
            metrics,
            resolutions: Coalesce::default(),
            manifests: Coalesce::default(),
            confirmations: Coalesce::default(),
        }))
    }

    /// Blob downloads under way.
    pub fn flights(&self) -> u64 {
        u64::try_from(self.0.metrics.flights.get()).unwrap_or(0)
    }

    /// The node's credentials and keys.
    pub fn keychain(&self) -> &Keychain {
        &self.0.keychain
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
        wanted: Wanted,
    ) -> Result<BlobAnswer, Error> {
        let mut last = Error::Abandoned;
        for _ in 0..ATTEMPTS_MAX {
            let looked_at = Some(self.0.flights.ended());
            if let Some(answer) = self.blob_in_store(repository, digest, caller).await? {
                return Ok(answer);
            }
            if let Wanted::Bytes { start, end } = wanted
                && let Some(answer) = self.part_alone(repository, digest, caller, start, end).await?
            {
                return Ok(answer);
            }
            let (source, progress) = match self.fly(repository, digest, caller, looked_at).await? {
                Flown::Landed(answer) => return Ok(*answer),
                Flown::Seat(source, progress) => (source, progress),
            };
            match first_word(progress, wanted != Wanted::Whole).await {
                Ok((progress, size)) => {
                    let body = BlobBody::following(self.reader(repository, digest, caller), progress, size);
                    return Ok(BlobAnswer { size, body, source, stale: None });
                }
                Err(error) if source == Source::Join && speaks_for_its_leader_only(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// A seat in the flight of a blob, which is begun if there is none. `looked_at` says how many flights had ended when
    /// the store was looked into in vain, if it was.
    async fn fly(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        looked_at: Option<u64>,
    ) -> Result<Flown, Error> {
        match self.0.flights.board(repository, digest, caller) {
            Boarding::Lead(lead) => {
                // The flight before may have landed between a look into the store and the boarding.
                let may_have_landed = looked_at != Some(self.0.flights.ended());
                if may_have_landed
                    && let Some(answer) = self.blob_in_store(repository, digest, caller).await?
                {
                    return Ok(Flown::Landed(Box::new(answer)));
                }
                Ok(Flown::Seat(Source::Fill, self.lead(lead)?))
            }
            Boarding::Join(flight) => {
                let progress = flight.follow();
                // What the leader is told is told to all who would ask the same; others need their own yes.
                let told = flight.repository == *repository
                    && (flight.caller.asks_like(caller)
                        || self.right(repository, caller, Use::Read).await.is_some());
                if !told {
                    self.confirm(repository, digest, caller).await?;
                }
                Ok(Flown::Seat(Source::Join, progress))
            }
        }
    }

    fn reader(&self, repository: &Repository, digest: Digest, caller: &Caller) -> Reader {
        let (repository, caller) = (repository.clone(), caller.clone());
        Reader { puller: self.clone(), repository, digest, caller }
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
    ) -> Result<(Option<u64>, Source, Option<Stale>), Error> {
        if let Some(answer) = self.blob_in_store(repository, digest, caller).await? {
            return Ok((answer.size, answer.source, answer.stale));
        }
        let upstream = &self.0.upstream;
        let question = |asking| async move { Ok(upstream.confirm_blob(repository, digest, &asking).await?) };
        let (size, _) =
            self.ask(repository, caller, &Subject::Blob(digest), Purpose::Prove, question).await?;
        Ok((size, Source::Proxied, None))
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
            |asking| async move { Ok(upstream.list(repository, listing, query.clone(), &asking).await?) };
        Ok(self.ask(repository, caller, &Subject::List, Purpose::Prove, question).await?.0)
    }

    /// A blob on disk that `repository` may hand out to `caller`, asking its registry first where that is not known.
    async fn blob_in_store(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Option<BlobAnswer>, Error> {
        let store = &self.0.store;
        let received = store.received_from(repository.registry(), digest).await;
        if !received {
            return Ok(None);
        }
        let Some(blob) = store.blob(digest).await? else {
            return Ok(None);
        };
        let member = self.membership(repository, digest).await.is_some();
        let (source, stale) = if member && self.may_read_cached(repository, caller, Use::Read).await {
            (Source::Hit, None)
        } else {
            match self.confirm(repository, digest, caller).await {
                Ok(()) => (Source::Revalidated, None),
                Err(error) if member => match self.held_since(repository, caller, &error).await {
                    Some(since) => (Source::Stale, Some(Stale { confirmed_at: since, error })),
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        };
        let size = Some(blob.size());
        let body = BlobBody::committed(self.reader(repository, digest, caller), blob);
        Ok(Some(BlobAnswer { size, body, source, stale }))
    }

    /// Starts the download of a flight.
    fn lead(&self, lead: Lead) -> Result<watch::Receiver<Progress>, Error> {
        let Ok(place) = Arc::clone(&self.0.fills).try_acquire_owned() else { return Err(Error::Busy) };
        let progress = lead.flight().follow();
        let puller = self.clone();
        tokio::spawn(async move {
            fill::fill(lead, puller).await;
            drop(place);
        });
        Ok(progress)
    }

    /// Waits until no download is under way, but no longer than `wait`: what has been received is worth keeping.
    pub async fn settle(&self, wait: Duration) {
        let no_more = self.0.fills.acquire_many(FILLS_MAX as u32);
        if tokio::time::timeout(wait, no_more).await.is_err() {
            tracing::info!(downloads = self.flights(), "ending with downloads under way");
        }
    }
}

/// Waits until a flight has something to say: bytes to come and how many, or a failure. A blob so small that it is
/// withheld whole is waited for, so that a wrong one is an error before any header has left.
async fn first_word(
    mut progress: watch::Receiver<Progress>,
    size_wanted: bool,
) -> Result<(watch::Receiver<Progress>, Option<u64>), Error> {
    let spoken = |progress: &Progress| match progress {
        Progress::Asking => false,
        Progress::Filling { size: Some(size), .. } => *size > fill::TAIL,
        Progress::Filling { size: None, readable, .. } => !size_wanted && *readable > 0,
        _ => true,
    };
    let size = match progress.wait_for(spoken).await.as_deref() {
        Ok(Progress::Filling { size, .. }) => *size,
        Ok(Progress::Landed { size, .. }) => Some(*size),
        Ok(Progress::Detached { size, .. }) => *size,
        Ok(Progress::Failed(error)) => return Err(error.clone()),
        Ok(Progress::Asking) | Err(_) => return Err(Error::Abandoned),
    };
    Ok((progress, size))
}

/// Whether a failed flight says nothing about somebody who joined it from another repository.
fn speaks_for_its_leader_only(error: &Error) -> bool {
    matches!(
        error,
        Error::Abandoned
            | Error::Unidentified { .. }
            | Error::Upstream(upstream::Error::NotFound { .. } | upstream::Error::Refused { .. })
    )
}
