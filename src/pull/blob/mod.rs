//! Blobs: served from the store where the caller may read them, else downloaded once and followed by every reader.
//!
//! ```text
//! stored        on disk, and this caller may read it?
//! begun         what a client has parts of: an outage of upstream is waited through
//! parts         a small part of a blob: kept, else fetched once
//!   byte_range  whether it is fetched alone (wanted)
//!   partial     what is kept of such parts (part_fetch), for those for whom the registry vouches (vouched)
//! first_bytes   when an answer may begin that follows a download
//! download      join the flight, or lead it (flight)
//!   places      how many there may be, for one registry and in all
//!   fill        upstream -> store: room, bound, write, hash, verify, commit
//!     prepared  its file, made while the registry is asked
//!     delivery  after wrong content: another endpoint, or one connection instead of several
//!     transfer  one connection, or several (segments, concurrency), yielding by priority
//!       source  asks for the blob (blob_request): the shared tier where the registry confirms it (tiered), else the
//!               registry
//!         upstream_body  the bytes, resumed where they break off (resume)
//!       piece_queue    what was received, on its way to the writer, within the memory of all downloads (fill_memory)
//!     writer    the thread that writes, publishes and hashes
//!     shared_copy  what the shared tier lacks is copied there
//!     detached  what the disk does not take (rest): through a window, shared by its clients (window_state), in a
//!               bounded memory (window_memory)
//! blob_body     the bytes of an answer, wherever they come from (read_parts: from kept parts)
//!   follow      every client reads up to the readable offset; passthrough by itself where it falls out of the window
//! into_store    downloads that no client waits for
//! ```
//!
//! Deliberately not here: manifests, and what a blob is.

pub(crate) mod begun;
mod blob_answer;
pub(crate) mod blob_body;
mod blob_request;
pub(crate) mod byte_range;
pub(crate) mod concurrency;
pub(crate) mod delivery;
mod detached;
pub(crate) mod download;
pub(crate) mod fill;
mod fill_memory;
pub(crate) mod first_bytes;
pub(crate) mod flight;
pub(crate) mod flight_content;
pub(crate) mod follow;
pub(crate) mod into_store;
pub(crate) mod out_of_order;
mod pace;
pub(crate) mod part_fetch;
pub(crate) mod partial;
pub(crate) mod parts;
pub(crate) mod passthrough;
mod piece_queue;
pub(crate) mod places;
pub(crate) mod prepared;
pub(crate) mod priority;
pub(crate) mod progress;
pub(crate) mod read_parts;
mod reader;
mod refetch;
mod refetch_places;
pub(crate) mod rest;
mod resume;
pub(crate) mod room;
pub(crate) mod segments;
pub(crate) mod shared_copy;
pub(crate) mod slow_registries;
pub(crate) mod source;
pub(crate) mod stored;
pub(crate) mod tiered;
pub(crate) mod transfer;
pub(crate) mod upstream_body;
mod vouched;
pub(crate) mod wanted;
pub(crate) mod window;
pub(crate) mod window_memory;
pub(crate) mod window_state;
pub(crate) mod withheld_tail;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use super::access::{Access, Purpose, Subject, proved_by};
use super::answer::AnswerSource;
use super::config::Config;
use super::context::{Priority, PullContext};
use super::error::Error;
use super::metrics::Metrics;
use super::registry_client::RegistryClient;
use super::shared_names::SharedNames;
use crate::reference::Digest;
use crate::store::Store;
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::upstream::AuthContext;
use begun::Begun;
pub use blob_answer::{BlobAnswer, BlobSize};
use blob_body::BlobBody;
use byte_range::SingleRanges;
use download::{Download, Downloads, Followed};
use fill::Filler;
use first_bytes::{concerns_leader_only, first_bytes, has_answer_soon, was_for_store_alone};
use flight::{Flights, Sharing};
use partial::Partials;
use parts::{Found, Parts};
use priority::Foreground;
use reader::Reader;
use refetch_places::RefetchPlaces;
use room::Room;
use segments::Segments;
use source::UpstreamBlobs;
use stored::{StoredBlob, StoredBlobs};
use transfer::Transfers;
pub use wanted::BlobRange;
use window_memory::WindowMemory;
use withheld_tail::TAIL;

/// Times that a blob is looked for anew because the download that was joined ended in a way that says nothing about
/// this caller.
const ATTEMPTS_MAX: usize = 3;

/// Blobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Blobs {
    access: Access,
    registries: Arc<dyn RegistryClient>,
    stored: StoredBlobs,
    upstream: UpstreamBlobs,
    parts: Parts,
    flights: Flights,
    downloads: Downloads,
    room: Room,
    foreground: Foreground,
    begun: Begun,
    memory: WindowMemory,
    refetches: RefetchPlaces,
    metrics: Arc<Metrics>,
}

impl Blobs {
    /// Blobs of `store`, and of `registries` where they are not there.
    pub(crate) fn new(
        config: Live<Config>,
        access: Access,
        registries: Arc<dyn RegistryClient>,
        store: Store,
        names: SharedNames,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        let flights = Flights::new(metrics.flights.clone());
        let foreground = Foreground::new(flights.clone());
        let stored = StoredBlobs::new(store.clone(), access.clone());
        let upstream = UpstreamBlobs::new(access.clone(), Arc::clone(&registries), names);
        let room = Room::new(config, store.clone());
        let segments = Segments::new(upstream.clone(), room.clone(), tasks.clone(), Arc::clone(&metrics));
        let transfers = Transfers::new(upstream.clone(), segments, foreground.clone());
        let partials = Partials::new(store, tasks.clone(), Arc::clone(&metrics));
        let memory = WindowMemory::default();
        let filler = Filler::new(
            room.clone(),
            partials.clone(),
            upstream.clone(),
            transfers,
            memory.clone(),
            tasks.clone(),
            Arc::clone(&metrics),
        );
        let downloads =
            Downloads::new(access.clone(), stored.clone(), flights.clone(), filler, room.clone(), tasks);
        let ranges = SingleRanges::new(upstream.clone(), flights.clone());
        let parts = Parts::new(upstream.clone(), ranges, partials, room.clone());
        let begun = Begun::default();
        Self {
            access,
            registries,
            stored,
            upstream,
            parts,
            flights,
            downloads,
            room,
            foreground,
            begun,
            memory,
            refetches: RefetchPlaces::default(),
            metrics,
        }
    }

    /// A blob, whole whatever range is wanted; a small part of a blob that is not being downloaded may come alone. For
    /// a range the answer waits until the size is known, if no manifest says it. An outage of upstream is waited
    /// through where a client has a part of the blob already.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn find(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        loop {
            match self.find_now(context, digest, wanted).await {
                Ok(answer) => {
                    if answer.source != AnswerSource::Hit {
                        self.begun.record(context, digest);
                    }
                    return Ok(answer);
                }
                Err(error) if self.begun.waits_through(context, digest, &error).await => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn find_now(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        // An answer with a range says how large the blob is. Where its registry does not, a manifest does: of what is
        // announced so, the last bytes are withheld until it is known to be right. What is withheld as a whole is
        // waited for.
        let declared = match wanted {
            BlobRange::Whole => None,
            _ => self.access.membership().declared_size(context.repository(), digest),
        };
        let announced = declared.filter(|size| *size > TAIL);
        let size_needed = wanted != BlobRange::Whole && announced.is_none();
        let mut last = Error::LeaderGone;
        let mut sharing = Sharing::All;
        for attempt in 1..=ATTEMPTS_MAX {
            if attempt == ATTEMPTS_MAX {
                sharing = Sharing::SameQuestion;
            }
            let looked_up_at = Some(self.downloads.ended());
            if let Some(stored) = self.stored.find(context, digest).await? {
                return Ok(self.stored_answer(context, stored));
            }
            match self.range_alone(context, digest, wanted).await {
                Ok(None) => {}
                Ok(Some(answer)) => return Ok(answer),
                // The whole may come from the shared tier.
                Err(error) if self.upstream.has_tier_in_outage(context, digest, &error).await => {}
                Err(error) => return Err(error),
            }
            if context.priority() == Priority::Foreground {
                self.foreground.record();
            }
            let downloads = &self.downloads;
            let Followed { source, is_own_answer, mut progress } =
                match downloads.join_or_lead(context, digest, looked_up_at, sharing).await? {
                    Download::Stored(stored) => return Ok(self.stored_answer(context, *stored)),
                    Download::Following(followed) => followed,
                };
            if !is_own_answer && !has_answer_soon(&mut progress).await {
                // Upstream does not answer the leader; it has answered this caller.
                sharing = Sharing::SameQuestion;
                continue;
            }
            match first_bytes(progress, size_needed).await {
                Ok((progress, size)) => {
                    let size = size.or(announced);
                    let followed = Followed { source, is_own_answer, progress };
                    let body = BlobBody::following(self.reader(context, digest), followed, size);
                    return Ok(BlobAnswer { size, media_type: None, body, source, stale: None });
                }
                Err(error) if source == AnswerSource::Join && concerns_leader_only(&error, is_own_answer) => {
                    last = error;
                }
                Err(error) if source == AnswerSource::Join && was_for_store_alone(&error) => last = error,
                Err(error @ Error::LeaderGone) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// A part that is fetched alone, or kept; `None` if it is not to be had alone.
    async fn range_alone(
        &self,
        context: &PullContext,
        digest: Digest,
        range: BlobRange,
    ) -> Result<Option<BlobAnswer>, Error> {
        let declared = self.access.membership().declared_size(context.repository(), digest);
        let mut found = self.parts.find(context, digest, range, declared).await?;
        if let Some(Found::SizeUnknown) = found {
            let Some(size) = self.upstream_size(context, digest).await? else { return Ok(None) };
            found = self.parts.find(context, digest, range, Some(size)).await?;
        }
        let reader = self.reader(context, digest);
        let (body, size, is_hit) = match found {
            None | Some(Found::SizeUnknown) => return Ok(None),
            Some(Found::Kept { partial, is_all }) => {
                let size = partial.size;
                (BlobBody::partial(reader, partial), size, is_all)
            }
            Some(Found::Alone(body, size)) => (BlobBody::single_range(reader, *body, size)?, size, false),
            Some(Found::Beyond(size)) => (BlobBody::unstored(reader, size), size, false),
        };
        let source = if is_hit { AnswerSource::Hit } else { AnswerSource::Passthrough };
        Ok(Some(BlobAnswer { size: Some(size), media_type: None, body, source, stale: None }))
    }

    /// The size of a blob; it is downloaded only where its registry does not say it.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn size(&self, context: &PullContext, digest: Digest) -> Result<BlobSize, Error> {
        if let Some(StoredBlob { blob, media_type, source, stale }) =
            self.stored.find(context, digest).await?
        {
            return Ok(BlobSize { size: blob.size(), media_type, source, stale });
        }
        let (media_type, stale) = (None, None);
        if let Some(size) = self.upstream_size(context, digest).await? {
            return Ok(BlobSize { size, media_type, source: AnswerSource::Passthrough, stale });
        }
        // The end of it tells: that of a download which the next request finds, or of bytes past the disk.
        let BlobAnswer { size, mut body, source, .. } =
            self.find(context, digest, BlobRange::From(0)).await?;
        let mut counted = 0;
        while size.is_none()
            && let Some(chunk) = body.next().await
        {
            counted += chunk?.len() as u64;
        }
        Ok(BlobSize { size: size.unwrap_or(counted), media_type, source, stale })
    }

    async fn upstream_size(&self, context: &PullContext, digest: Digest) -> Result<Option<u64>, Error> {
        let (registries, repository) = (&self.registries, context.repository());
        let declared = self.access.membership().declared_size(repository, digest);
        let request = |auth: AuthContext| async move {
            let allowed = registries.confirm_blob(repository, digest, &auth).await?;
            Ok(proved_by(allowed, declared))
        };
        let (head, _) = self.access.ask(context, &Subject::Blob(digest), Purpose::Prove, request).await?;
        // What a registry says to HEAD counts only where no manifest says it.
        Ok(declared.or(head.size))
    }

    /// Whether a blob is on disk; says nothing about who may read it.
    pub(crate) async fn has(&self, digest: Digest) -> bool {
        self.stored.open(digest).await.is_some()
    }

    /// Waits until what was to be written after its answer is on disk, a few seconds at most.
    pub(crate) async fn flush(&self) {
        self.stored.flush().await;
    }

    /// Blob downloads under way.
    pub(crate) fn downloads(&self) -> usize {
        self.flights.count()
    }

    /// When runtimes pull.
    pub(crate) fn foreground(&self) -> &Foreground {
        &self.foreground
    }

    /// Waits until no download is under way, but no longer than `wait`.
    pub(crate) async fn settle(&self, wait: Duration) {
        self.downloads.settle(wait).await;
    }

    fn reader(&self, context: &PullContext, digest: Digest) -> Reader {
        Reader {
            stored: self.stored.clone(),
            downloads: self.downloads.clone(),
            upstream: self.upstream.clone(),
            metrics: Arc::clone(&self.metrics),
            memory: self.memory.clone(),
            refetches: self.refetches.clone(),
            context: context.clone(),
            digest,
        }
    }

    fn stored_answer(&self, context: &PullContext, stored: StoredBlob) -> BlobAnswer {
        let StoredBlob { blob, media_type, source, stale } = stored;
        let size = Some(blob.size());
        let body = BlobBody::stored(self.reader(context, blob.digest()), blob);
        BlobAnswer { size, media_type, body, source, stale }
    }
}

#[cfg(test)]
mod hanging_disk_tests;
#[cfg(test)]
mod leader_failure_tests;
#[cfg(test)]
mod passed_by_tests;
#[cfg(test)]
mod past_the_disk_tests;
#[cfg(test)]
mod range_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiered_tests;
#[cfg(test)]
mod vouched_tests;
#[cfg(test)]
mod wrong_content_tests;
