//! Blobs: from the store where its bytes may be handed out, else by joining the flight that fetches it, or leading one.

use std::sync::Arc;

use tokio::sync::watch;

use crate::pull::access::authorize::{Caller, Purpose};
use crate::pull::access::grants::Subject;
use crate::pull::access::rights::Use;
use crate::pull::blob::fill;
use crate::pull::blob::flight::{Boarding, Flight, Lead, Progress};
use crate::pull::blob::follow::BlobBody;
use crate::pull::error::Error;
use crate::pull::manifest::fetch::Stale;
use crate::pull::{AnswerSource, BlobAnswer, BlobRange, Puller};
use crate::reference::{Digest, Repository};
use crate::upstream;

/// Times that a blob is looked for anew because somebody else's download ended in a way that says nothing about us.
const ATTEMPTS_MAX: usize = 3;

/// How a blob can be had.
pub(crate) enum Flown {
    /// It landed meanwhile.
    Landed(Box<BlobAnswer>),
    /// By following.
    Seat(AnswerSource, watch::Receiver<Progress>),
}

impl Puller {
    /// A blob under its own name.
    pub(crate) async fn blob_of(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        let mut last = Error::Abandoned;
        for _ in 0..ATTEMPTS_MAX {
            let looked_at = Some(self.0.flights.ended());
            if let Some(answer) = self.blob_in_store(repository, digest, caller).await? {
                return Ok(answer);
            }
            if let BlobRange::Bytes { start, end } = wanted
                && let Some(answer) = self.part_alone(repository, digest, caller, start, end).await?
            {
                return Ok(answer);
            }
            self.0.pods.asked();
            let (source, progress) = match self.fly(repository, digest, caller, looked_at, true).await? {
                Flown::Landed(answer) => return Ok(*answer),
                Flown::Seat(source, progress) => (source, progress),
            };
            match first_word(progress, wanted != BlobRange::Whole).await {
                Ok((progress, size)) => {
                    let body = BlobBody::following(self.reader(repository, digest, caller), progress, size);
                    return Ok(BlobAnswer { size, body, source, stale: None });
                }
                Err(error) if source == AnswerSource::Join && speaks_for_its_leader_only(&error) => {
                    last = error
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// A seat in the flight of a blob, which is begun if there is none. `looked_at` says how many flights had ended when
    /// the store was looked into in vain, if it was; `hurry` says that somebody waits for it.
    pub(crate) async fn fly(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        looked_at: Option<u64>,
        hurry: bool,
    ) -> Result<Flown, Error> {
        match self.0.flights.board(repository, digest, caller, hurry) {
            Boarding::Lead(lead) => {
                // The flight before may have landed between a look into the store and the boarding.
                let may_have_landed = looked_at != Some(self.0.flights.ended());
                if may_have_landed
                    && let Some(answer) = self.blob_in_store(repository, digest, caller).await?
                {
                    return Ok(Flown::Landed(Box::new(answer)));
                }
                Ok(Flown::Seat(AnswerSource::Fill, self.lead(lead)?))
            }
            Boarding::Join(flight) => {
                let progress = flight.follow();
                if !self.is_told(&flight, repository, digest, caller).await {
                    self.confirm(repository, digest, caller).await?;
                }
                Ok(Flown::Seat(AnswerSource::Join, progress))
            }
        }
    }

    /// Whether what the leader of a flight is told is told to `caller` too: it would ask the same, or upstream has said
    /// yes to it and to this repository already. Others need their own yes.
    async fn is_told(
        &self,
        flight: &Flight,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
    ) -> bool {
        let same = flight.repository == *repository;
        if same && flight.caller.asks_like(caller) {
            return true;
        }
        // The bytes come from this very registry, so that its word about another of its repositories counts.
        (same || self.0.store.member(repository, digest).await.is_some())
            && self.right(repository, caller, Use::Read).await.is_some()
    }

    /// The size of a blob under its own name.
    pub(crate) async fn blob_size_of(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
    ) -> Result<(Option<u64>, AnswerSource, Option<Stale>), Error> {
        if let Some(answer) = self.blob_in_store(repository, digest, caller).await? {
            return Ok((answer.size, answer.source, answer.stale));
        }
        let upstream = &self.0.upstream;
        let question = |auth| async move { Ok(upstream.confirm_blob(repository, digest, &auth).await?) };
        let (size, _) =
            self.ask(repository, caller, &Subject::Blob(digest), Purpose::Prove, question).await?;
        Ok((size, AnswerSource::Passthrough, None))
    }

    /// A blob on disk that `repository` may hand out to `caller`, asking its registry first where that is not known.
    pub(crate) async fn blob_in_store(
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
            (AnswerSource::Hit, None)
        } else {
            match self.confirm(repository, digest, caller).await {
                Ok(()) => (AnswerSource::Revalidated, None),
                Err(error) if member => match self.held_since(repository, caller, &error).await {
                    Some(since) => (AnswerSource::Stale, Some(Stale { confirmed_at: since, error })),
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
}

/// Waits until a flight has something to say: bytes to come and how many, or a failure. A blob so small that it is
/// withheld whole is waited for, so that a wrong one is an error before any header has left.
async fn first_word(
    mut progress: watch::Receiver<Progress>,
    size_wanted: bool,
) -> Result<(watch::Receiver<Progress>, Option<u64>), Error> {
    let spoken = |progress: &Progress| match progress {
        Progress::Waiting => false,
        Progress::Filling { size: Some(size), .. } => *size > fill::TAIL,
        Progress::Filling { size: None, readable, .. } => !size_wanted && *readable > 0,
        _ => true,
    };
    let size = match progress.wait_for(spoken).await.as_deref() {
        Ok(Progress::Filling { size, .. }) => *size,
        Ok(Progress::Landed { size, .. }) => Some(*size),
        Ok(Progress::Detached { size, .. }) => *size,
        Ok(Progress::Failed(error)) => return Err(error.clone()),
        Ok(Progress::Waiting) | Err(_) => return Err(Error::Abandoned),
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
