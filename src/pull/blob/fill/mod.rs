//! Filling a flight: upstream's body into the store, the readable offset published as it grows.
//!
//! Runs on a task of its own and goes on when clients leave, unless it is too slow. Receiving is async; writing happens
//! on a blocking thread behind a short queue, hashing on another, so that none waits for the others. What the disk does
//! not take, from the first byte or from some byte on, goes to the followers through a window: they share the body that
//! is open. The tail of the blob is withheld from readers until the digest is verified; no reader waits for durability.

mod concurrency;
pub(super) mod memory;
pub(super) mod piece_queue;
mod prepared;
mod segment;
pub(super) mod segments;
pub(super) mod shared_copy;
pub(super) mod transfer;
mod writer;

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::pull::blob::fill::memory::FillMemory;
use crate::pull::blob::fill::piece_queue::piece_queue;
use crate::pull::blob::fill::prepared::Prepared;
use crate::pull::blob::fill::shared_copy::{SharedCopies, SharedCopy};
use crate::pull::blob::fill::transfer::Transfers;
use crate::pull::blob::fill::writer::{Writing, Written, write};
use crate::pull::blob::flight::{Flight, Leader};
use crate::pull::blob::parts::byte_range::is_much;
use crate::pull::blob::parts::partial::Partials;
use crate::pull::blob::past_the_disk::{Detached, DetachedFills};
use crate::pull::blob::priority::Foreground;
use crate::pull::blob::room::Room;
use crate::pull::blob::source::BlobSource;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::blob::source::delivery::{Trail, Tries, Way, fault_of};
use crate::pull::blob::source::tiered::{Opened, TierCopy, WholeBlob};
use crate::pull::blob::vouched::Vouched;
use crate::pull::blob::withheld_tail::Withheld;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::metrics::Metrics;
use crate::reference::Digest;
use crate::store::{self, Ingest, Member, Owner, Store, Verified};
use crate::support::slowness::{LOOK_INTERVAL, SlownessWatch, Speed};
use crate::support::tasks::Tasks;

/// Fills flights. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Filler {
    pub(super) room: Room,
    pub(super) store: Store,
    pub(super) source: BlobSource,
    pub(super) transfers: Transfers,
    pub(super) foreground: Foreground,
    pub(super) partials: Partials,
    pub(super) copies: SharedCopies,
    pub(super) detached: DetachedFills,
    pub(super) memory: FillMemory,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
}

/// How a fill that did not fail ended.
enum Filled {
    Verified(Box<Verified>, Trail, Option<SharedCopy>),
    /// The disk took nothing, or not all: the followers were given the rest past it, or what of it could be had.
    Detached(Result<(), Error>),
}

impl Filler {
    /// Fills the flight of `leader` to its end, whatever that is.
    pub(crate) async fn fill(&self, leader: Leader) {
        let leader = Arc::new(leader);
        let received = tokio::select! {
            received = self.receive(&leader) => received,
            () = self.too_slow(leader.flight()) => Err(Error::NoClient),
        };
        self.end(&leader, received).await;
    }

    /// Fills the flight of `leader` past the disk, from the first byte on.
    pub(crate) async fn fill_detached(&self, leader: Leader) {
        let ended = async {
            let (context, digest) = (leader.flight().context(), leader.digest());
            let body = WholeBlob { source: &self.source, context, digest }.open().await?.body;
            let detached = Detached::from_first_byte(body, digest.hasher(), None);
            self.detached.run(&leader, detached).await
        };
        let ended = ended.await;
        self.end(&Arc::new(leader), ended.map(|()| Filled::Detached(Ok(())))).await;
    }

    async fn end(&self, leader: &Arc<Leader>, received: Result<Filled, Error>) {
        let result = match received {
            Ok(Filled::Verified(verified, trail, copy)) => {
                self.complete(leader, *verified, &trail, copy).await;
                "complete"
            }
            Ok(Filled::Detached(Ok(()))) => "detached",
            Ok(Filled::Detached(Err(error))) | Err(error) => {
                let context = leader.flight().context();
                if !matches!(error, Error::AuthenticationRequired { .. }) {
                    let (request, repository) = (context.request_id(), context.repository());
                    let digest = leader.digest();
                    // What a client waited for is in the request log, repeats folded.
                    if leader.flight().is_foreground() {
                        tracing::debug!(%request, %repository, %digest, %error, "a download failed");
                    } else {
                        tracing::warn!(%request, %repository, %digest, %error, "a download failed");
                    }
                }
                let reason = error.reason();
                // The followers of one that is past the disk learn it from its window.
                if !leader.is_detached() {
                    leader.fail(error);
                }
                reason
            }
        };
        self.metrics.fills.with_label_values(&[result]).inc();
        // A writer that hangs keeps the leader: none joins what it has been taken from.
        leader.end();
    }

    /// Publishes that everything is there, then makes it durable; the flight ends after that, so that a later request
    /// finds the blob. What the registry does not say of the repository makes it no member: a later request asks.
    async fn complete(
        &self,
        leader: &Arc<Leader>,
        verified: Verified,
        trail: &Trail,
        copy: Option<SharedCopy>,
    ) {
        leader.publish_complete(verified.size());
        let (digest, context) = (leader.digest(), leader.flight().context());
        let before = leader.flight().start().last_answer;
        let is_member = self.source.is_member(context, digest, verified.size(), trail, before).await;
        if is_member {
            copy.into_iter().for_each(|copy| copy.complete(verified.size()));
            self.source.names().share_member(context.repository(), digest, &Member::Blob).await;
        }
        let (store, repository) = (self.store.clone(), context.repository().clone());
        let commit = move || store.commit(verified, &repository, is_member.then_some(&Member::Blob));
        let committed = self.tasks.spawn_blocking(commit).await;
        self.partials.forget(context, digest);
        match committed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%digest, %error, "a blob was served but could not be stored"),
            Err(error) => tracing::error!(%digest, %error, "a blob was served but storing it panicked"),
        }
    }

    /// Receives the blob. Wrong content is followed by another try, at another endpoint or in another way, while there
    /// is one.
    async fn receive(&self, leader: &Arc<Leader>) -> Result<Filled, Error> {
        let (context, digest) = (leader.flight().context(), leader.digest());
        let registry = context.repository().registry();
        if !leader.flight().is_foreground()
            && let Err(error) = self.room.check(registry, None).await
        {
            // No client waits for it, and it would be thrown away.
            self.detached.log(leader.flight(), digest, &error);
            return Err(Error::NotStored(Some(error)));
        }
        let mut tries = Tries::default();
        let mut wrong = None;
        loop {
            let prepared = self.prepare(leader);
            let Opened { body, tier_copy } =
                WholeBlob { source: &self.source, context, digest }.open().await?;
            if let Some(error) = wrong.take_if(|_| tries.is_repeated_by(body.endpoint())) {
                return Err(error);
            }
            let (trail, unproved) = (body.trail().clone(), body.unproved());
            let vouched = self.vouched(context, digest, &body).await;
            let received = self.receive_body(leader, body, vouched, tries.way(), tier_copy, prepared).await;
            let error = match received {
                Ok(filled) => {
                    if let (Filled::Verified(..), Some(unproved)) = (&filled, &unproved) {
                        self.source.record_verified(context, unproved, &trail).await;
                    }
                    return Ok(filled);
                }
                Err(error) => error,
            };
            let Some(fault) = fault_of(&error, &trail) else { return Err(error) };
            self.partials.forget(context, digest);
            let another = self.source.record_wrong_content(context, digest, &trail, fault);
            if !tries.failed(&trail, another) {
                return Err(error);
            }
            let repository = context.repository();
            tracing::warn!(%repository, %digest, %error, "wrong content: the download begins anew");
            wrong = Some(error);
        }
    }

    /// The registry's word for the leader. It is asked for where there are parts to be taken over: without it they
    /// would be fetched again.
    async fn vouched(&self, context: &PullContext, digest: Digest, body: &SourceBody) -> Option<Vouched> {
        let kept = |size| self.partials.bytes_of(context, digest, size) > 0;
        match body.size().is_some_and(kept) {
            true => self.source.vouched_if_asked(context, digest, body).await,
            false => self.source.vouched(context, digest, body).await,
        }
    }

    async fn receive_body(
        &self,
        leader: &Arc<Leader>,
        body: SourceBody,
        vouched: Option<Vouched>,
        way: Way,
        tier_copy: TierCopy,
        prepared: Option<Prepared>,
    ) -> Result<Filled, Error> {
        let (context, digest) = (leader.flight().context(), leader.digest());
        let owner = self.room.owner(context.repository().registry());
        // A large layer of which a little was read by parts is passed by like any other; one of which much was, is
        // completed.
        let is_begun = vouched.is_some()
            && body.size().is_some_and(|size| is_much(self.partials.bytes_of(context, digest, size), size));
        let refused = match is_begun {
            true => None,
            false => self.room.judge_request(context.priority(), digest, body.size()).await,
        };
        let begun = match refused {
            Some(refused) => Err(refused),
            None => {
                let take = |vouched| self.partials.take_ingest(context, digest, body.size(), vouched);
                match vouched.and_then(take) {
                    Some(ingest) => Ok(ingest),
                    None => self.begin(prepared, digest, body.size(), owner).await,
                }
            }
        };
        let ingest = match begun {
            Ok(ingest) => ingest,
            Err(error) if error.is_local() => {
                // No other node waits for what this one does not store.
                drop(tier_copy);
                let detached = Detached::from_first_byte(body, leader.digest().hasher(), Some(error));
                return Ok(Filled::Detached(self.detached.run(leader, detached).await));
            }
            Err(error) => return Err(error.into()),
        };
        self.store_body(leader, body, vouched, ingest, way, tier_copy).await
    }

    /// Has the file of a blob made while its registry is asked, unless parts of it are kept in one.
    fn prepare(&self, leader: &Leader) -> Option<Prepared> {
        let (context, digest) = (leader.flight().context(), leader.digest());
        let repository = context.repository();
        let size = self.source.access().membership().declared_size(repository, digest)?;
        let is_kept = self.partials.bytes_of(context, digest, size) > 0;
        let owner = self.room.owner(repository.registry());
        (!is_kept).then(|| Prepared::new(&self.store, digest, size, owner, &self.tasks))
    }

    async fn begin(
        &self,
        prepared: Option<Prepared>,
        digest: Digest,
        size: Option<u64>,
        owner: Owner,
    ) -> Result<Ingest, store::Error> {
        if let Some(prepared) = prepared
            && let Some(begun) = prepared.take(size, owner).await
        {
            return begun;
        }
        self.store.begin(digest, size, owner).await
    }

    async fn store_body(
        &self,
        leader: &Arc<Leader>,
        body: SourceBody,
        vouched: Option<Vouched>,
        ingest: Ingest,
        way: Way,
        tier_copy: TierCopy,
    ) -> Result<Filled, Error> {
        let (flight, digest, size) = (leader.flight(), leader.digest(), body.size());
        let withheld = Withheld::of(size, body.trail());
        let (growing, trail) = (ingest.growing(), body.trail().clone());
        let trail_of_body = trail.clone();
        let content = leader.publish_filling(growing.clone(), size, withheld.is_mirrored(), vouched);
        let copy = self.copies.begin(flight, digest, &content, size, tier_copy);
        let registry = flight.context().repository().registry();
        let memory = self.memory.of_fill(&self.room.holder(registry));
        let (mut queue, received) = piece_queue(memory);
        let writing = Arc::new(Writing::new(&ingest, content, withheld, trail));
        let writer = self.tasks.spawn_blocking({
            let (leader, writing) = (Arc::clone(leader), Arc::clone(&writing));
            move || write(ingest, received, &writing, &leader)
        });
        let transfer = async {
            let transferred = self.transfers.run(leader, body, &growing, &mut queue, way).await;
            // Also what came before it failed: followers are served that.
            queue.close().await;
            transferred
        };
        // Where the writer is over by itself, nothing more is received, whatever that waits for.
        let write = async {
            match self.written(writer, &writing).await.map_err(Err)? {
                Written::Verified(verified) => {
                    Ok(Some(Filled::Verified(verified, trail_of_body.clone(), copy)))
                }
                Written::Incomplete | Written::TakenOver => Ok(None),
                Written::Detached(detached) => {
                    detached.error.iter().for_each(|error| self.store.record_failure(error));
                    // What the disk does not take is not copied: no other node waits for it.
                    drop(copy);
                    Err(Ok(Filled::Detached(self.detached.run(leader, *detached).await)))
                }
            }
        };
        match tokio::try_join!(async { Ok(transfer.await) }, write) {
            Err(over) => over,
            Ok((Err(error), _)) => Err(error),
            Ok((Ok(()), Some(filled))) => Ok(filled),
            Ok((Ok(()), None)) => Err(Error::panicked("transferred a blob")),
        }
    }

    /// What became of the bytes of a writer. From one that hangs the rest is taken, and it is left to itself.
    async fn written(
        &self,
        mut writer: JoinHandle<Result<Written, store::Error>>,
        writing: &Arc<Writing>,
    ) -> Result<Written, Error> {
        loop {
            tokio::select! {
                written = &mut writer => {
                    return Ok(written.map_err(|ended| Error::task_ended("wrote a blob", &ended))??);
                }
                () = writing.hangs() => {}
            }
            let writing = Arc::clone(writing);
            let taken = self.tasks.spawn_blocking(move || writing.take_over()).await;
            if let Ok(Some(detached)) = taken {
                return Ok(Written::Detached(Box::new(detached)));
            }
        }
    }

    /// Returns once the download of a flight is too slow and no client waits for it or reads it. While it yields to
    /// others, or waits for another node, slowness is not its own.
    async fn too_slow(&self, flight: &Flight) {
        let mut watch = SlownessWatch::new(Instant::now());
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let is_excused =
                flight.has_client() || flight.waits_for_tier() || self.foreground.is_yielding(flight);
            if watch.judge(Instant::now(), flight.received(), is_excused) == Speed::TooSlow {
                return;
            }
        }
    }
}
