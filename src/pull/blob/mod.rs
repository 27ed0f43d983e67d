//! Blobs: served from the store where the caller may read them, else downloaded once and followed by every reader.
//!
//! ```text
//! stored         on disk, and this caller may read it?
//! begun          what a client has parts of: an outage of upstream is waited through for the rest
//! parts/         a small part of a blob that is not being downloaded: kept, else fetched once
//!   byte_range     whether it is fetched alone, as single_ranges does
//!   partial        what is kept of such parts, each fetched once for all (fetch), and read with what is missing (read)
//! download       joins the flight, or leads it
//! flight/        one download of a blob under way, and every request that waits for it
//!   progress       how far it is, as its leader publishes it; its content may begin anew (content)
//!   pace           whether it is fast enough to fill the line of a node
//!   sharing        who shares it, and what was known when it began
//!   led_by         what the failure of its leader says to a follower
//! fill/          upstream -> store: room, bound, write, hash, verify, commit
//!   prepared       its file, made while the registry is asked
//!   transfer       one connection, or several (segments, concurrency), yielding by priority
//!   piece_queue    what was received, on its way to the writer, within the memory of all downloads (memory)
//!   writer         the thread that writes, publishes and hashes
//!   shared_copy    what the shared tier lacks is copied there
//! source/        asks for the blob (request): the shared tier where its registry confirms it (tiered), else that
//!   body           the bytes, resumed where they break off (resume, asked_blob)
//!   delivery       after wrong content: another endpoint, or one connection instead of several
//! past_the_disk/ what the disk does not take (rest): to its clients all the same, in a bounded memory (memory)
//!   window         one body that several clients share (window_state)
//!   passthrough    one body to one client: one that fell out of the window, or a range by itself
//! body/          the bytes of an answer, wherever they come from
//!   first_bytes    when an answer may begin that follows a download
//!   sent           what the client has; what follows must belong to it
//!   follow         every client reads up to the readable offset
//!   refetch        what the disk gives no more when it is sent (refetch_places)
//! into_store     downloads that no client waits for
//! components     these, put together
//! ```
//!
//! Several of them use: `places` (how many downloads there may be, for one registry and in all), `room` (whether
//! the store has room), `priority` (what a runtime waits for goes first), `vouched` (what only those get for whom
//! the registry vouches), `hashed_start` (how a blob begins, as far as it was received) and `withheld_tail` (the end of
//! a body, until the whole is right).
//!
//! Deliberately not here: manifests, and what a blob is.

pub(crate) mod begun;
pub(crate) mod body;
pub(crate) mod components;
pub(crate) mod download;
pub(crate) mod fill;
pub(crate) mod flight;
mod hashed_start;
pub(crate) mod into_store;
pub(crate) mod parts;
mod past_the_disk;
pub(crate) mod places;
pub(crate) mod priority;
pub(crate) mod room;
pub(crate) mod source;
pub(crate) mod stored;
mod vouched;
pub(crate) mod withheld_tail;

use std::sync::Arc;
use std::time::Duration;

use super::access::{Purpose, Subject, proved_by};
use super::answer::AnswerSource;
use super::context::{Priority, PullContext};
use super::error::Error;
use crate::reference::Digest;
use crate::upstream::AuthContext;
use body::BlobBody;
pub use body::answer::{BlobAnswer, BlobSize};
use body::first_bytes::{first_bytes, has_answer_soon};
use body::reader::Reader;
use components::Components;
use download::{Followed, StoredOrFollowed};
use flight::Sharing;
use flight::led_by::{LedBy, was_for_store_alone};
use parts::FoundPart;
pub use parts::byte_range::BlobRange;
use parts::single_ranges::Alone;
use priority::Foreground;
use source::tiered::WholeBlob;
use stored::StoredBlob;
use withheld_tail::TAIL;

/// Times that a blob is looked for anew because the download that was joined ended in a way that says nothing about
/// this caller.
const ATTEMPTS_MAX: usize = 3;

/// Blobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Blobs(Arc<Components>);

impl Blobs {
    /// Blobs by these components.
    pub(crate) fn new(components: Components) -> Self {
        Self(Arc::new(components))
    }

    /// A blob, whole whatever range is wanted; a small part of a blob that is not being downloaded may come alone. For
    /// a range the answer waits until the size is known, if no manifest says it. An outage of upstream is waited
    /// through where the caller was given a part of the blob in this repository and asks for what comes later.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn find(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        let mut waits = 0;
        loop {
            match self.find_now(context, digest, wanted).await {
                Ok(answer) => {
                    if answer.source != AnswerSource::Hit {
                        self.0.begun.record(context, digest);
                    }
                    return Ok(answer);
                }
                Err(error) if self.0.begun.waits_through(context, digest, wanted, &error, waits).await => {
                    waits += 1
                }
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
            _ => self.0.access.membership().declared_size(context.repository(), digest),
        };
        let announced = declared.filter(|size| *size > TAIL);
        let size_needed = wanted != BlobRange::Whole && announced.is_none();
        let whole = WholeBlob { source: &self.0.source, context, digest };
        let mut last = Error::LeaderGone;
        let mut sharing = Sharing::All;
        for attempt in 1..=ATTEMPTS_MAX {
            if attempt == ATTEMPTS_MAX {
                sharing = Sharing::SameQuestion;
            }
            let looked_up_at = Some(self.0.downloads.ended());
            if let Some(stored) = self.0.stored.find(context, digest).await? {
                return Ok(self.stored_answer(context, stored));
            }
            match self.range_alone(context, digest, wanted).await {
                Ok(None) => {}
                Ok(Some(answer)) => return Ok(answer),
                // The whole may come from the shared tier.
                Err(error) if whole.may_come_from_tier_in_outage(&error).await => {}
                Err(error) => return Err(error),
            }
            if context.priority() == Priority::Foreground {
                self.0.foreground.record();
            }
            let downloads = &self.0.downloads;
            let Followed { led_by, mut progress } =
                match downloads.join_or_lead(context, digest, looked_up_at, sharing).await? {
                    StoredOrFollowed::Stored(stored) => return Ok(self.stored_answer(context, *stored)),
                    StoredOrFollowed::Following(followed) => followed,
                };
            if !led_by.asks_the_same() && !has_answer_soon(&mut progress).await {
                // Upstream does not answer the leader; it has answered this caller.
                sharing = Sharing::SameQuestion;
                continue;
            }
            match first_bytes(progress, size_needed).await {
                Ok((progress, size)) => {
                    let size = size.or(announced);
                    let (source, followed) = (led_by.source(), Followed { led_by, progress });
                    let body = BlobBody::following(self.reader(context, digest), followed, size);
                    return Ok(BlobAnswer { size, media_type: None, body, source, stale: None });
                }
                Err(error) if led_by.concerns_leader_only(&error) => last = error,
                Err(error) if led_by != LedBy::Itself && was_for_store_alone(&error) => last = error,
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
        let declared = self.0.access.membership().declared_size(context.repository(), digest);
        let mut found = self.0.parts.find(context, digest, range, declared).await?;
        if let Some(FoundPart::Alone(Alone::SizeUnknown)) = found {
            let Some(size) = self.upstream_size(context, digest).await? else { return Ok(None) };
            found = self.0.parts.find(context, digest, range, Some(size)).await?;
        }
        let reader = self.reader(context, digest);
        let (body, size, is_hit) = match found {
            None | Some(FoundPart::Alone(Alone::SizeUnknown)) => return Ok(None),
            Some(FoundPart::Kept { partial, is_all }) => {
                let size = partial.size;
                (BlobBody::partial(reader, partial), size, is_all)
            }
            Some(FoundPart::Alone(Alone::Body { body, size })) => {
                (BlobBody::single_range(reader, *body, size)?, size, false)
            }
            Some(FoundPart::Alone(Alone::Beyond { size })) => (BlobBody::unstored(reader, size), size, false),
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
            self.0.stored.find(context, digest).await?
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
        let (registries, repository) = (&self.0.registries, context.repository());
        let declared = self.0.access.membership().declared_size(repository, digest);
        let request = |auth: AuthContext| async move {
            let allowed = registries.confirm_blob(repository, digest, &auth).await?;
            Ok(proved_by(allowed, declared))
        };
        let (head, _) = self.0.access.ask(context, &Subject::Blob(digest), Purpose::Prove, request).await?;
        // What a registry says to HEAD counts only where no manifest says it.
        Ok(declared.or(head.size))
    }

    /// Whether a blob is on disk; says nothing about who may read it.
    pub(crate) async fn has(&self, digest: Digest) -> bool {
        self.0.stored.open(digest).await.is_some()
    }

    /// Waits until what was to be written after its answer is on disk, a few seconds at most.
    pub(crate) async fn flush(&self) {
        self.0.stored.flush().await;
    }

    /// Blob downloads under way.
    pub(crate) fn downloads(&self) -> usize {
        self.0.flights.count()
    }

    /// When runtimes pull.
    pub(crate) fn foreground(&self) -> &Foreground {
        &self.0.foreground
    }

    /// Waits until no download is under way, but no longer than `wait`.
    pub(crate) async fn settle(&self, wait: Duration) {
        self.0.downloads.settle(wait).await;
    }

    fn reader(&self, context: &PullContext, digest: Digest) -> Reader {
        Reader {
            stored: self.0.stored.clone(),
            downloads: self.0.downloads.clone(),
            source: self.0.source.clone(),
            metrics: Arc::clone(&self.0.metrics),
            memory: self.0.memory.clone(),
            refetches: self.0.refetches.clone(),
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
mod joined_tests;
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
