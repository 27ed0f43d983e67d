//! Downloads: a request for a blob that is not in the store joins the flight that fetches it, or leads one.
//!
//! A request that joins is authorised in its own repository first, as things are now: what the registry said to the
//! leader is as old as the download, which may last an hour, and counts for those who ask the same no longer than a
//! minute. How many downloads there are at once is bounded, in all and by registry; one that finds no place goes past
//! the disk to its clients.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{Instrument, Span};

use super::fill::Filler;
use super::flight::led_by::LedBy;
use super::flight::progress::Progress;
use super::flight::{Flight, FlightStart, Flights, Leader, Role, Sharing};
use super::past_the_disk::memory::WINDOWS_MAX;
use super::places::{Places, Shares};
use super::stored::{StoredBlob, StoredBlobs};
use crate::pull::access::Access;
use crate::pull::access::rights::Use;
use crate::pull::config::Config;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::Digest;
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// Blob downloads at the same time. Each holds up to two of the threads that may block (`cli/serve`): half of them, and
/// the rest is for the store.
const DOWNLOADS_MAX: usize = 256;
/// Downloads past the disk at the same time for which there is no place as one into the store: each has a window, as
/// every other may have that the disk does not take. Further ones are refused.
const DETACHED_MAX: usize = WINDOWS_MAX - DOWNLOADS_MAX;

/// How a blob can be had.
pub(crate) enum StoredOrFollowed {
    /// From the store: it was completed in the meantime.
    Stored(Box<StoredBlob>),
    /// By following a flight.
    Following(Followed),
}

/// A flight, for one of its followers.
pub(crate) struct Followed {
    pub(crate) led_by: LedBy,
    pub(crate) progress: watch::Receiver<Progress>,
}

/// Downloads under way. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Downloads {
    access: Access,
    stored: StoredBlobs,
    flights: Flights,
    filler: Filler,
    places: Places,
    detached_places: Places,
    tasks: Tasks,
}

impl Downloads {
    pub(crate) fn new(
        access: Access,
        stored: StoredBlobs,
        flights: Flights,
        filler: Filler,
        config: Live<Config>,
        tasks: Tasks,
    ) -> Self {
        let places = Places::new(Shares::of(DOWNLOADS_MAX), config.clone());
        let detached_places = Places::new(Shares::of(DETACHED_MAX), config);
        Self { access, stored, flights, filler, places, detached_places, tasks }
    }

    /// How many flights have ended; to be read before the store is looked into, and passed to [`Self::join_or_lead`].
    pub(crate) fn ended(&self) -> u64 {
        self.flights.ended()
    }

    /// Joins the flight of a blob, or leads a new one. `looked_up_at` is what [`Self::ended`] said before the store was
    /// looked into in vain; `None` if it was not.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn join_or_lead(
        &self,
        context: &PullContext,
        digest: Digest,
        looked_up_at: Option<u64>,
        sharing: Sharing,
    ) -> Result<StoredOrFollowed, Error> {
        let has_right = self.access.known().fresh(context, Use::Read).await.is_some();
        let start = self.start(has_right);
        match self.flights.join_or_lead(context, digest, sharing, start) {
            Role::Lead(leader) => {
                // The flight before this one may have completed after the look into the store.
                if looked_up_at != Some(self.ended())
                    && let Some(stored) = self.stored.find(context, digest).await?
                {
                    return Ok(StoredOrFollowed::Stored(Box::new(stored)));
                }
                context.reads_download_of(context);
                let (led_by, progress) = (LedBy::Itself, self.lead(leader)?);
                Ok(StoredOrFollowed::Following(Followed { led_by, progress }))
            }
            Role::Follow(flight) => {
                let progress = flight.follow();
                if sharing != Sharing::Nobody
                    && !self.answer_counts_for(&flight, context, digest, has_right).await
                    && !self.is_allowed(&flight, context, digest).await?
                {
                    // What the registry delivers to this very request shows it.
                    let own = self.join_or_lead(context, digest, looked_up_at, sharing.with_fewer());
                    return Box::pin(own).await;
                }
                let led_by = match flight.is_same_question(context) {
                    true => LedBy::SameQuestion,
                    false => LedBy::AnotherQuestion,
                };
                flight.add_alternate(context);
                context.reads_download_of(flight.context());
                tracing::debug!(download = %flight.context().request_id(), %digest, "joins a download");
                Ok(StoredOrFollowed::Following(Followed { led_by, progress }))
            }
        }
    }

    /// What is known before a flight that this pull leads. With a fresh right upstream is asked only to deliver.
    fn start(&self, has_right: bool) -> FlightStart {
        FlightStart {
            last_answer: self.access.membership().last_answer(),
            asked: (!has_right).then(|| self.access.known().asked_now()),
        }
    }

    /// Whether upstream's answer to the leader is an answer to this caller too: it would ask the same a moment later,
    /// or upstream has allowed it in this repository already. Other callers, and those whose right has ended since,
    /// need an answer of their own.
    async fn answer_counts_for(
        &self,
        flight: &Flight,
        context: &PullContext,
        digest: Digest,
        has_right: bool,
    ) -> bool {
        let (repository, known) = (context.repository(), self.access.known());
        if flight.is_same_question(context) {
            let is_young = |asked| known.counts_for_others(repository, asked);
            return has_right
                || flight.start().asked.is_some_and(is_young)
                || known.is_open_to_all(repository);
        }
        has_right && self.is_of_repository(flight, context, digest).await
    }

    /// Whether the registry itself said that the repository has the blob: to the leader, or to a question before. The
    /// bytes come from this very registry, so that its answer about another of its repositories counts.
    async fn is_of_repository(&self, flight: &Flight, context: &PullContext, digest: Digest) -> bool {
        let repository = context.repository();
        flight.is_for(repository) || self.access.membership().is_confirmed(repository, digest).await
    }

    /// Whether upstream says now that the caller may have the blob, or cannot be asked and what it said before holds.
    ///
    /// # Errors
    /// Upstream's answer, or why there is none.
    async fn is_allowed(
        &self,
        flight: &Flight,
        context: &PullContext,
        digest: Digest,
    ) -> Result<bool, Error> {
        let (membership, repository) = (self.access.membership(), context.repository());
        let question = membership.question(repository, digest);
        let progress = flight.follow();
        let declared = membership.declared_size(repository, digest);
        let known = declared.or(progress.borrow().verified_size());
        let head = match self.access.ask_for_blob(context, digest, known).await {
            Ok(head) => head,
            Err(error) => {
                let is_held = self.is_of_repository(flight, context, digest).await
                    && self.access.known().held_since(context, &error).await.is_some();
                return if is_held { Ok(true) } else { Err(error) };
            }
        };
        let size = known.or(progress.borrow().size());
        let is_shown = head.shows_blob_of(size);
        if is_shown {
            // Where the download alone says the size, the answer was not recorded.
            question.record_blob().await;
        }
        Ok(is_shown)
    }

    fn lead(&self, leader: Leader) -> Result<watch::Receiver<Progress>, Error> {
        let (progress, filler) = (leader.flight().follow(), self.filler.clone());
        let registry = leader.flight().context().repository().registry();
        if let Some(place) = self.places.take(registry) {
            let span = span_of(&leader);
            let fill = async move {
                filler.fill(leader).await;
                drop(place);
            };
            self.tasks.spawn(fill.instrument(span));
            return Ok(progress);
        }
        // Only for a client that waits.
        let place = self.detached_places.take(registry).filter(|_| leader.flight().is_foreground());
        let place = place.ok_or(Error::TooManyDownloads)?;
        let span = span_of(&leader);
        let fill = async move {
            filler.fill_detached(leader).await;
            drop(place);
        };
        self.tasks.spawn(fill.instrument(span));
        Ok(progress)
    }

    /// Waits until no download is under way, but no longer than `wait`: what has been received is worth keeping.
    pub(crate) async fn settle(&self, wait: Duration) {
        if tokio::time::timeout(wait, self.places.all_given_back()).await.is_err() {
            tracing::info!(downloads = self.flights.count(), "stopping with downloads under way");
        }
    }
}

/// What a download is in the log: within the request that leads it, around each question to upstream.
fn span_of(leader: &Leader) -> Span {
    let (context, digest) = (leader.flight().context(), leader.digest());
    tracing::debug_span!("download", of = %context.request_id(), repository = %context.repository(), %digest)
}
