//! Blobs that no client waits for: downloaded into the store, for a pre-pull or ahead of their requests.

use std::time::Duration;

use super::ATTEMPTS_MAX;
use super::Blobs;
use super::download::{Followed, StoredOrFollowed};
use super::flight::Sharing;
use super::flight::led_by::LedBy;
use super::flight::progress::Progress;
use crate::pull::context::{Priority, PullContext};
use crate::pull::error::Error;
use crate::reference::{Digest, Registry};

/// How often the progress of a download into the store is reported.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// How long the end of a download past the disk is waited for: that of a client which reads slowly may take longer, and
/// then the blob is downloaded beside it.
const DETACHED_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// A blob that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InStore {
    /// Its bytes.
    pub size: u64,
    /// Whether it was downloaded for this request.
    pub was_downloaded: bool,
}

/// What became of a blob that was to be downloaded into the store.
enum Fetched {
    Stored(InStore),
    /// The download that was joined failed for a reason of its leader.
    LeaderFailed(Error),
    /// The download that was joined goes past the disk, and this one need not: the store passes a large blob by for a
    /// client, and there may have been no place for a download.
    Detached,
}

impl Blobs {
    /// Downloads a blob into the store unless it is there. `report` is called now and then with the bytes that are
    /// there, and of how many.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::NotStored`] if the store did not take it.
    pub(crate) async fn fetch_into_store(
        &self,
        context: &PullContext,
        digest: Digest,
        report: impl Fn(u64, Option<u64>),
    ) -> Result<InStore, Error> {
        let (mut sharing, mut last) = (Sharing::All, Error::NotStored(None));
        for _ in 0..ATTEMPTS_MAX {
            match self.fetch_sharing(context, digest, &report, sharing).await? {
                Fetched::Stored(stored) => return Ok(stored),
                Fetched::LeaderFailed(error) if sharing == Sharing::SameQuestion => return Err(error),
                // Upstream has answered this caller, if not the leader that it joined.
                Fetched::LeaderFailed(error) => (sharing, last) = (Sharing::SameQuestion, error),
                Fetched::Detached => {
                    // Not as one of its followers, for whom it would go on. It ends with its last client.
                    let registry = context.repository().registry();
                    let end = self.0.flights.wait_while(|| self.0.flights.has(registry, digest));
                    if tokio::time::timeout(DETACHED_WAIT_MAX, end).await.is_err() {
                        sharing = Sharing::SameQuestion;
                    }
                }
            }
        }
        Err(last)
    }

    async fn fetch_sharing(
        &self,
        context: &PullContext,
        digest: Digest,
        report: &impl Fn(u64, Option<u64>),
        sharing: Sharing,
    ) -> Result<Fetched, Error> {
        let stored = |size, was_downloaded| Ok(Fetched::Stored(InStore { size, was_downloaded }));
        let looked_up_at = Some(self.0.downloads.ended());
        if let Some(found) = self.0.stored.find(context, digest).await? {
            return stored(found.blob.size(), false);
        }
        let joined = self.0.downloads.join_or_lead(context, digest, looked_up_at, sharing).await?;
        let Followed { led_by, mut progress } = match joined {
            StoredOrFollowed::Stored(found) => return stored(found.blob.size(), false),
            StoredOrFollowed::Following(followed) => followed,
        };
        loop {
            let now = progress.borrow_and_update().clone();
            match now {
                Progress::Waiting => {}
                Progress::Filling { readable, size, .. } => report(readable, size),
                Progress::Complete { size, .. } => {
                    // Until the blob has its name in the store, or the store refused it: readers do not wait for that.
                    while progress.changed().await.is_ok() {}
                    if !self.has(digest).await {
                        return Err(self.not_stored(context, digest, Some(size)).await);
                    }
                    return stored(size, led_by == LedBy::Itself);
                }
                Progress::Detached { size, .. } if led_by != LedBy::Itself => {
                    drop(progress);
                    let registry = context.repository().registry();
                    let checked = self.0.room.check(registry, size).await;
                    return checked
                        .map(|()| Fetched::Detached)
                        .map_err(|error| Error::NotStored(Some(error)));
                }
                Progress::Detached { size, .. } => return Err(self.not_stored(context, digest, size).await),
                Progress::Failed(error) if led_by.concerns_leader_only(&error) => {
                    return Ok(Fetched::LeaderFailed(error));
                }
                Progress::Failed(error) => return Err(error),
            }
            let changed = tokio::time::timeout(REPORT_EVERY, progress.changed()).await;
            if matches!(changed, Ok(Err(_))) && !progress.borrow().is_over() {
                return Err(Error::LeaderGone);
            }
        }
    }

    /// That the store did not take a blob, with what it says now of one of this size.
    async fn not_stored(&self, context: &PullContext, digest: Digest, size: Option<u64>) -> Error {
        let refused = match self.0.room.check(context.repository().registry(), size).await {
            Err(error) => Some(error),
            // Of a runtime's own pull, being asked would count.
            Ok(()) if context.priority() == Priority::Foreground => None,
            Ok(()) => self.0.room.judge_request(context.priority(), digest, size).await,
        };
        Error::NotStored(refused)
    }

    /// Whether the store would take a blob of `size` bytes from a registry now.
    pub(crate) async fn would_take(&self, registry: &Registry, digest: Digest, size: u64) -> bool {
        self.0.room.check(registry, Some(size)).await.is_ok() && !self.0.room.is_passed_by(digest, size).await
    }

    /// Whether the store takes anything from a registry now.
    pub(crate) async fn has_room(&self, registry: &Registry) -> bool {
        self.0.room.check(registry, None).await.is_ok()
    }

    /// Downloads a blob into the store ahead of its request, and waits until that is over. A failure is only logged:
    /// the request itself will tell. `size` is what its manifest claims: without room for that it is not begun.
    pub(crate) async fn prefetch(&self, context: &PullContext, digest: Digest, size: u64) {
        // Whether the repository may hand out what is on disk is asked when a client wants it.
        if self.has(digest).await {
            return;
        }
        let registry = context.repository().registry();
        if !self.would_take(registry, digest, size).await {
            return;
        }
        match self.0.downloads.join_or_lead(context, digest, None, Sharing::All).await {
            // Not by following it: a download that only this waits for ends if it is too slow.
            Ok(StoredOrFollowed::Following(followed)) => {
                drop(followed);
                self.0.flights.wait_while(|| self.0.flights.has(registry, digest)).await;
            }
            Ok(StoredOrFollowed::Stored(_)) => {}
            Err(error) => {
                let repository = context.repository();
                tracing::debug!(%repository, %digest, %error, "a blob was not prefetched");
            }
        }
    }
}
