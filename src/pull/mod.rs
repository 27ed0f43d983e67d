//! The story of one pull, whoever asks: may it be handed out, is it here, what does the tag mean, who is fetching it.
//!
//! Promises: one upstream request for any number of callers; nobody gets a complete body that is wrong; no byte is
//! handed out under a repository's name that this repository's own upstream did not deliver or confirm; what was
//! pulled once is served again when upstream is away.
//!
//! Deliberately not here: HTTP, and how long a caller is willing to wait.

mod authorise;
mod error;
mod fill;
mod flight;
mod follow;
mod freshness;
mod manifests;
pub mod metrics;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

pub use error::{Error, Fault};
pub use follow::BlobBody;
pub use manifests::{ManifestAnswer, Stale};

use crate::coalesce::Coalesce;
use crate::reference::{Digest, Reference, Repository, Tag};
use crate::store::Store;
use crate::upstream::{self, Listing, Page, Upstream};
use authorise::Confirmations;
use flight::{Boarding, Flights, Lead, Progress};
use freshness::Said;
use manifests::Fetched;
use metrics::Metrics;

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
}

/// Pulls. Cheap to clone.
#[derive(Clone)]
pub struct Puller(Arc<Inner>);

struct Inner {
    store: Store,
    upstream: Upstream,
    flights: Flights,
    fills: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    resolutions: Coalesce<(Repository, Tag), Said>,
    manifests: Coalesce<(Repository, Reference), Result<Fetched, Error>>,
    confirmations: Confirmations,
}

impl Puller {
    /// A puller over a store and an upstream.
    pub fn new(store: Store, upstream: Upstream, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            store,
            upstream,
            flights: Flights::new(metrics.flights.clone()),
            fills: Arc::new(Semaphore::new(FILLS_MAX)),
            metrics: Arc::new(metrics),
            resolutions: Coalesce::default(),
            manifests: Coalesce::default(),
            confirmations: Confirmations::default(),
        }))
    }

    /// Blob downloads under way.
    pub fn flights(&self) -> u64 {
        u64::try_from(self.0.metrics.flights.get()).unwrap_or(0)
    }

    /// A blob. With `size_wanted` the answer waits until the size is known, which a range needs.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: Digest,
        size_wanted: bool,
    ) -> Result<BlobAnswer, Error> {
        let mut last = Error::Abandoned;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(answer) = self.blob_in_store(repository, digest).await? {
                return Ok(answer);
            }
            let (source, progress) = match self.0.flights.board(repository, digest) {
                Boarding::Lead(lead) => {
                    // The flight before may have landed between our look into the store and the boarding.
                    if let Some(answer) = self.blob_in_store(repository, digest).await? {
                        return Ok(answer);
                    }
                    (Source::Fill, self.lead(lead)?)
                }
                Boarding::Join(flight) => {
                    let progress = flight.follow();
                    if flight.repository != *repository {
                        self.confirm(repository, digest).await?;
                    }
                    (Source::Join, progress)
                }
            };
            match first_word(progress, size_wanted).await {
                Ok((progress, size)) => {
                    return Ok(BlobAnswer { size, body: BlobBody::following(progress, size), source });
                }
                Err(error) if source == Source::Join && speaks_for_its_leader_only(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The size of a blob, without fetching it.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn blob_size(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<(Option<u64>, Source), Error> {
        if let Some(answer) = self.blob_in_store(repository, digest).await? {
            return Ok((answer.size, answer.source));
        }
        Ok((self.0.upstream.confirm_blob(repository, digest).await?, Source::Proxied))
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
    ) -> Result<Page, Error> {
        Ok(self.0.upstream.list(repository, listing, query).await?)
    }

    /// A blob on disk that `repository` may hand out, asking its registry first where that is not known.
    async fn blob_in_store(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Option<BlobAnswer>, Error> {
        let store = &self.0.store;
        let received = store.received_from(repository.registry(), digest).await;
        if !received {
            return Ok(None);
        }
        let Some(blob) = store.blob(digest).await? else {
            return Ok(None);
        };
        let source = if authorise::may_hand_out(store, repository, digest).await.is_some() {
            Source::Hit
        } else {
            self.confirm(repository, digest).await?;
            Source::Revalidated
        };
        let size = Some(blob.size());
        Ok(Some(BlobAnswer { size, body: BlobBody::committed(blob, store.clone()), source }))
    }

    /// Starts the download of a flight.
    fn lead(&self, lead: Lead) -> Result<watch::Receiver<Progress>, Error> {
        let Ok(place) = Arc::clone(&self.0.fills).try_acquire_owned() else { return Err(Error::Busy) };
        let progress = lead.flight().follow();
        let (store, upstream, metrics) =
            (self.0.store.clone(), self.0.upstream.clone(), Arc::clone(&self.0.metrics));
        tokio::spawn(async move {
            fill::fill(lead, store, upstream, metrics).await;
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

    async fn confirm(&self, repository: &Repository, digest: Digest) -> Result<(), Error> {
        let Inner { confirmations, store, upstream, .. } = &*self.0;
        authorise::confirm(confirmations, store, upstream, repository, digest).await
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
            | Error::Upstream(upstream::Error::NotFound { .. } | upstream::Error::Refused { .. })
    )
}
