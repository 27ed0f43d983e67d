//! Filling a flight: upstream's body into the store, the readable offset published as it grows.
//!
//! Runs on a task of its own and goes on when clients leave. Receiving is async; writing happens on a blocking thread
//! behind a short queue, hashing on another, so that none waits for the others. If the disk fails, the followers are
//! handed what they need to go on without it. The tail of the blob is withheld from readers until the digest is
//! verified; no reader waits for durability.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::delivery::{Tries, Way, fault_of};
use super::flight::{Flight, Leader, Progress};
use super::flight_content::FlightContent;
use super::segments::Received;
use super::source::{UpstreamBlobs, UpstreamBody};
use super::transfer::Transfers;
use super::withheld_tail::Withheld;
use crate::pull::error::Error;
use crate::pull::metrics::Metrics;
use crate::reference::{Digest, Hasher};
use crate::store::{self, Ingest, Member, Store, Verified};
use crate::support::tasks::Tasks;

/// Chunks between receiving and writing; a chunk has at most 256 KiB.
const QUEUE: usize = 8;

/// Fills flights. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Filler {
    store: Store,
    blobs: UpstreamBlobs,
    transfers: Transfers,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

/// How a fill that did not fail ended.
enum Filled {
    Verified(Verified),
    /// The disk failed: every follower goes on without it.
    Detached,
}

/// What became of the bytes.
enum Written {
    Verified(Verified),
    /// The queue closed without the end.
    Incomplete,
    /// The disk failed; the followers have been told.
    Detached(store::Error),
}

impl Filler {
    pub(crate) fn new(
        store: Store,
        blobs: UpstreamBlobs,
        transfers: Transfers,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, blobs, transfers, tasks, metrics }
    }

    /// Fills the flight of `leader` to its end, whatever that is.
    pub(crate) async fn fill(&self, leader: Leader) {
        let leader = Arc::new(leader);
        let result = match self.receive(&leader).await {
            Ok(Filled::Verified(verified)) => {
                self.complete(&leader, verified).await;
                "complete"
            }
            Ok(Filled::Detached) => "detached",
            Err(error) => {
                let context = leader.flight().context();
                if !matches!(error, Error::AuthenticationRequired { .. }) {
                    let (request, repository) = (context.request_id(), context.repository());
                    tracing::warn!(%request, %repository, digest = %leader.digest(), %error, "a download failed");
                }
                let reason = error.reason();
                leader.fail(error);
                reason
            }
        };
        self.metrics.fills.with_label_values(&[result]).inc();
    }

    /// Tells the readers that everything is there, then makes it durable; the flight ends after that, so that a later
    /// request finds the blob.
    async fn complete(&self, leader: &Arc<Leader>, verified: Verified) {
        leader.publish_complete(verified.size());
        let digest = leader.digest();
        let (store, repository) = (self.store.clone(), leader.flight().context().repository().clone());
        let commit = move || store.commit(verified, &repository, &Member::Blob);
        match self.tasks.spawn_blocking(commit).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%digest, %error, "a blob was served but could not be stored"),
            Err(error) => tracing::error!(%digest, %error, "a blob was served but storing it panicked"),
        }
    }

    /// Receives the blob. Wrong content is followed by another try, at another endpoint or in another way, while there is
    /// one.
    async fn receive(&self, leader: &Arc<Leader>) -> Result<Filled, Error> {
        let (context, digest) = (leader.flight().context(), leader.digest());
        let mut tries = Tries::default();
        let mut wrong = None;
        loop {
            let body = self.blobs.open(context, digest, 0, None).await?;
            if let Some(error) = wrong.take_if(|_| tries.is_repeated_by(body.endpoint())) {
                return Err(error);
            }
            let trail = body.trail().clone();
            let error = match self.receive_body(leader, body, tries.way()).await {
                Ok(filled) => return Ok(filled),
                Err(error) => error,
            };
            let Some(fault) = fault_of(&error, &trail) else { return Err(error) };
            let another = self.blobs.record_wrong_content(context, digest, &trail.suspects(), fault);
            if !tries.failed(&trail, another) {
                return Err(error);
            }
            let repository = context.repository();
            tracing::warn!(%repository, %digest, %error, "wrong content: the download begins anew");
            wrong = Some(error);
        }
    }

    async fn receive_body(
        &self,
        leader: &Arc<Leader>,
        body: UpstreamBody,
        way: Way,
    ) -> Result<Filled, Error> {
        let (flight, digest, size) = (leader.flight(), leader.digest(), body.size());
        let withheld = Withheld::of(size, body.endpoint());
        let ingest = match self.store.begin(digest, size).await {
            Ok(ingest) => ingest,
            Err(error) if error.is_local() => {
                self.log_detached(flight, digest, &error);
                leader.publish(Progress::Detached {
                    growing: None,
                    written: 0,
                    hasher: Hasher::default(),
                    size,
                });
                return Ok(Filled::Detached);
            }
            Err(error) => return Err(error.into()),
        };
        let growing = ingest.growing();
        let content = leader.publish_filling(growing.clone(), size);
        let (queue, received) = mpsc::channel(QUEUE);
        let writer = self.tasks.spawn_blocking({
            let leader = Arc::clone(leader);
            move || write(ingest, received, &withheld, &leader, &content)
        });
        let transferred = self.transfers.run(body, flight, digest, &growing, &queue, way).await;
        drop(queue);
        match (transferred, writer.await) {
            (_, Err(ended)) => Err(Error::task_ended("wrote a blob", &ended)),
            (_, Ok(Err(error))) => Err(error.into()),
            (_, Ok(Ok(Written::Detached(error)))) => {
                self.log_detached(flight, digest, &error);
                self.store.record_failure(&error);
                Ok(Filled::Detached)
            }
            (Ok(()), Ok(Ok(Written::Verified(verified)))) => Ok(Filled::Verified(verified)),
            (Err(error), Ok(Ok(_))) => Err(error),
            (Ok(()), Ok(Ok(Written::Incomplete))) => Err(Error::panicked("transferred a blob")),
        }
    }

    /// Logs why a blob is not stored, unless the same was logged a moment ago.
    fn log_detached(&self, flight: &Flight, digest: Digest, error: &store::Error) {
        let repository = flight.context().repository();
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        if self.store.should_log(error) {
            tracing::error!(%repository, %digest, %error, cause, "a blob cannot be stored; it is passed through to its readers");
        } else {
            tracing::debug!(%repository, %digest, %error, cause, "a blob is passed through");
        }
    }
}

/// The blocking side: write, publish, hash.
fn write(
    mut ingest: Ingest,
    mut received: mpsc::Receiver<Received>,
    withheld: &Withheld,
    leader: &Leader,
    content: &FlightContent,
) -> Result<Written, store::Error> {
    while let Some(next) = received.blocking_recv() {
        let taken = match next {
            Received::End => return ingest.verify().map(Written::Verified),
            Received::Bytes(bytes) => ingest.write(&bytes).map(|written| {
                content.compare(written - bytes.len() as u64, &bytes);
                leader.publish_readable(withheld.readable(written));
                ingest.hash(&bytes);
            }),
            Received::InFile(until) => hash_in_file(&mut ingest, until, |written| {
                leader.publish_readable(withheld.readable(written))
            }),
        };
        match taken {
            Ok(()) => {}
            Err(error) if error.is_local() => {
                let (_, written, hasher) = ingest.detach();
                // Without the hash no follower could verify the whole.
                let Some(hasher) = hasher else { return Err(error) };
                // They go on by themselves from where the disk failed: no pull fails because our disk does.
                let (growing, size) = (Some(content.clone()), withheld.size());
                leader.publish(Progress::Detached { growing, written, hasher, size });
                return Ok(Written::Detached(error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Written::Incomplete)
}

/// Takes over what a reader wrote out of order, up to an offset.
fn hash_in_file(ingest: &mut Ingest, until: u64, mut publish: impl FnMut(u64)) -> Result<(), store::Error> {
    let mut written = 0;
    while written < until {
        written = ingest.adopt_out_of_order(until)?;
        publish(written);
    }
    Ok(())
}
