//! For those who fetch before anybody asks, and for the owner of the store: parts of images fetched and kept, pins,
//! what there is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::authorise::Caller;
use super::blobs::Flown;
use super::error::Error;
use super::flight::{Flight, Progress};
use super::{Puller, Source};
use crate::clock::Timestamp;
use crate::reference::{Digest, Reference, Registry, Repository};
use crate::store::{self, Cached, Pin, Removed};
use crate::upstream::{EndpointStatus, LimitStatus};

/// How long pods may be waited for before the next part is begun in any case.
const YIELD_MAX: Duration = Duration::from_secs(60);
/// How long the next piece of a part may be put off for them.
const GIVE_WAY_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether they still wait.
const YIELD_LOOK: Duration = Duration::from_millis(50);
/// How often somebody is told how far a download is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A pod that has just asked for something will ask for more in a moment.
const MORE_TO_COME: Duration = Duration::from_millis(300);

/// When a pod last asked for something that was not here, or asked what a tag means.
#[derive(Default)]
pub(super) struct Pods(Mutex<Option<Instant>>);

impl Pods {
    pub(super) fn asked(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn are_pulling(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < MORE_TO_COME)
    }
}

impl Puller {
    fn somebody_waits(&self) -> bool {
        self.0.pods.are_pulling() || self.0.flights.somebody_waits()
    }

    /// Waits while downloads are under way that somebody waits for, within bounds.
    pub async fn yield_to_pods(&self) {
        let wait = async {
            while self.somebody_waits() {
                tokio::time::sleep(YIELD_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(YIELD_MAX, wait).await;
    }

    /// The same within a download that nobody waits for, before each piece of it, for less long: its registry must not
    /// think that we are gone.
    pub(super) async fn give_way(&self, flight: &Flight) {
        let wait = async {
            while !flight.is_hurried() && self.somebody_waits() {
                tokio::time::sleep(YIELD_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(GIVE_WAY_MAX, wait).await;
    }

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
                Progress::Asking => {}
                Progress::Filling { readable, size, .. } => told(readable, size),
                Progress::Landed { size, .. } => {
                    // Until it has a name in the store.
                    while progress.changed().await.is_ok() {}
                    return Ok((size, source == Source::Fill));
                }
                Progress::Detached { .. } => {
                    return Err(store::Error::NoRoom { needed: 0 }.into());
                }
                Progress::Failed(error) => return Err(error),
            }
            let next = tokio::time::timeout(TELL_EVERY, progress.changed()).await;
            if matches!(next, Ok(Err(_))) && !progress.borrow().is_over() {
                return Err(Error::Abandoned);
            }
        }
    }

    /// Pins an image.
    ///
    /// # Errors
    /// The disk.
    pub async fn pin(&self, pin: Pin) -> Result<(), store::Error> {
        self.0.store.pin(pin).await
    }

    /// Lets an image go; returns how many pins that ended.
    ///
    /// # Errors
    /// The disk.
    pub async fn unpin(&self, repository: &Repository, reference: &Reference) -> Result<usize, store::Error> {
        self.0.store.unpin(repository, reference).await
    }

    /// Lets one pin go.
    ///
    /// # Errors
    /// The disk.
    pub async fn unpin_root(&self, pin: &Pin) -> Result<(), store::Error> {
        self.0.store.remove_pin(pin.clone()).await
    }

    /// The images that are pinned.
    pub fn pins(&self) -> Vec<Pin> {
        self.0.store.pins()
    }

    /// The images that are here.
    ///
    /// # Errors
    /// The disk.
    pub async fn inventory(&self) -> Result<Vec<Cached>, store::Error> {
        self.0.store.inventory().await
    }

    /// Removes an image.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Removed, store::Error> {
        if let Reference::Tag(tag) = reference {
            self.0.confirmed.forget(repository, tag);
        }
        self.0.recent.clear();
        self.0.store.remove_image(repository, reference).await
    }

    /// Makes room as far as the budget wants it; returns how many bytes that freed.
    ///
    /// # Errors
    /// The disk.
    pub async fn make_room(&self) -> Result<u64, store::Error> {
        self.0.store.make_room().await
    }

    /// Body bytes that were received from upstream since the start.
    pub fn received_bytes(&self) -> u64 {
        self.0.upstream.received_bytes()
    }

    /// The registries that cannot be asked, and since when.
    pub fn outages(&self) -> Vec<(Registry, Timestamp)> {
        self.0.grants.outages()
    }

    /// The endpoints in trouble.
    pub fn troubles(&self) -> Vec<EndpointStatus> {
        self.0.upstream.troubles()
    }

    /// What registries have told about their rate limits.
    pub fn limits(&self) -> Vec<LimitStatus> {
        self.0.upstream.limits()
    }
}
