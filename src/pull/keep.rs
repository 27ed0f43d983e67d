//! For pre-pull: blobs fetched into the store. For the owner of the store: what is forgotten, and which registries
//! cannot be asked.

use std::time::Duration;

use super::access::authorize::Caller;
use super::blob::flight::Progress;
use super::blob::lookup::Flown;
use super::error::Error;
use super::{AnswerSource, Puller};
use crate::reference::{Digest, Reference, Registry, Repository};
use crate::store;
use crate::support::clock::Timestamp;

/// How often somebody is told how far a download is.
const TELL_EVERY: Duration = Duration::from_millis(200);

impl Puller {
    /// Fetches a blob into the store unless it is there; returns its size, and whether it was fetched. `told` hears how
    /// many bytes are there, and of how many, from time to time.
    ///
    /// # Errors
    /// Any of [`Error`]; a store that would not have it.
    pub async fn keep_blob(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        told: impl Fn(u64, Option<u64>),
    ) -> Result<(u64, bool), Error> {
        let looked_at = Some(self.0.flights.ended());
        if let Some(answer) = self.blob_in_store(repository, digest, caller).await? {
            return Ok((answer.size.unwrap_or(0), false));
        }
        let (source, mut progress) = match self.fly(repository, digest, caller, looked_at, false).await? {
            Flown::Landed(answer) => return Ok((answer.size.unwrap_or(0), false)),
            Flown::Seat(source, progress) => (source, progress),
        };
        loop {
            let said = progress.borrow_and_update().clone();
            match said {
                Progress::Waiting => {}
                Progress::Filling { readable, size, .. } => told(readable, size),
                Progress::Landed { size, .. } => {
                    // Until it has a name in the store, or is refused one: its readers do not wait for that.
                    while progress.changed().await.is_ok() {}
                    let here = self.0.store.blob(digest).await?.is_some();
                    return if here {
                        Ok((size, source == AnswerSource::Fill))
                    } else {
                        Err(Error::NotStored)
                    };
                }
                Progress::Detached { .. } => return Err(Error::NotStored),
                Progress::Failed(error) => return Err(error),
            }
            let next = tokio::time::timeout(TELL_EVERY, progress.changed()).await;
            if matches!(next, Ok(Err(_))) && !progress.borrow().is_over() {
                return Err(Error::Abandoned);
            }
        }
    }

    /// How many of these parts of an image are not in the store.
    ///
    /// # Errors
    /// The disk.
    pub async fn missing(
        &self,
        repository: &Repository,
        parts: impl IntoIterator<Item = Digest>,
    ) -> Result<usize, store::Error> {
        let mut count = 0;
        for digest in parts {
            let here = self.0.store.blob(digest).await?.is_some()
                || self.0.forms.composed(repository, digest).await.is_some();
            count += usize::from(!here);
        }
        Ok(count)
    }

    /// Forgets what is remembered in memory of an image that has been removed from the store.
    pub fn forget(&self, repository: &Repository, reference: &Reference) {
        if let Reference::Tag(tag) = reference {
            self.0.confirmed.forget(repository, tag);
        }
        self.0.recent.clear();
    }

    /// The registries that cannot be asked, and since when.
    pub fn outages(&self) -> Vec<(Registry, Timestamp)> {
        self.0.grants.outages()
    }
}
