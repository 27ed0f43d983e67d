//! Filling a flight: upstream's body into the store, the watermark published as it grows.
//!
//! Runs on a task of its own and is nobody's client's business: it goes on when they leave. Receiving is async;
//! writing happens on a blocking thread behind a short queue, hashing on another, so that none waits for the others. If our
//! own disk fails, the followers are handed what they need to go on without it. The tail of the blob is withheld from
//! readers until the digest is verified; durability is waited for by nobody.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::pull::Puller;
use crate::pull::blob::flight::{Flight, Lead, Progress};
use crate::pull::blob::segments;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store::{self, Ingest, Member, Store, Verified};

/// Bytes withheld from readers until the digest is verified. A blob no larger is withheld whole, so that a wrong one
/// is an error and not a broken body.
pub(crate) const TAIL: u64 = 64 * 1024;
/// Pieces between receiving and writing; a piece has at most 256 KiB.
const QUEUE: usize = 8;

/// A part of a body on its way to the writer.
pub(crate) enum Received {
    /// The next bytes.
    Bytes(Bytes),
    /// The next bytes up to this place are there already: they were kept ahead of the watermark.
    Kept(u64),
    /// The proper end; a queue that closes without it is a failure.
    End,
}

/// Fills the flight of `lead` to its end, whatever that is.
pub(crate) async fn fill(lead: Lead, puller: Puller) {
    let lead = Arc::new(lead);
    let result = match receive(&lead, &puller).await {
        Ok(Filled::Verified(verified)) => {
            land(&lead, verified, puller.0.store.clone()).await;
            "landed"
        }
        Ok(Filled::Detached) => "detached",
        Err(error) => {
            let (repository, digest) = (&lead.flight().repository, lead.digest());
            if !matches!(error, Error::Unidentified { .. }) {
                tracing::warn!(%repository, %digest, %error, "a download failed");
            }
            let reason = error.reason();
            lead.fail(error);
            reason
        }
    };
    puller.0.metrics.fills.with_label_values(&[result]).inc();
}

/// Tells the readers that everything is there, then makes it durable; the flight ends after that, so that whoever
/// comes later finds the blob.
async fn land(lead: &Arc<Lead>, verified: Verified, store: Store) {
    lead.publish_landed(verified.size());
    let (digest, repository) = (lead.digest(), lead.flight().repository.clone());
    let committed = spawn_blocking(move || store.commit(verified, &repository, &Member::Blob)).await;
    match committed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%digest, %error, "a blob was served but could not be stored"),
        Err(error) => tracing::error!(%digest, %error, "a blob was served but storing it panicked"),
    }
}

/// How a fill that did not fail ended.
enum Filled {
    Verified(Verified),
    /// Our disk would not have it: everybody who follows goes on without it.
    Detached,
}

async fn receive(lead: &Arc<Lead>, puller: &Puller) -> Result<Filled, Error> {
    let flight = lead.flight();
    let (digest, store) = (lead.digest(), &puller.0.store);
    let reader = puller.reader(&flight.repository, digest, &flight.caller);
    let source = reader.source(0).await?;
    let size = source.size();
    let ingest = match store.begin(digest, size).await {
        Ok(ingest) => ingest,
        Err(error) if error.is_local() => {
            log_detached(flight, digest, store, &error);
            lead.publish(Progress::Detached { growing: None, written: 0, hasher: Hasher::default(), size });
            return Ok(Filled::Detached);
        }
        Err(error) => return Err(error.into()),
    };
    let growing = ingest.growing();
    lead.publish(Progress::Filling { growing: growing.clone(), size, readable: 0 });
    let (queue, received) = mpsc::channel(QUEUE);
    let writer = spawn_blocking({
        let lead = Arc::clone(lead);
        move || write(ingest, received, size, &lead)
    });
    let received = segments::pump(source, &reader, &growing, &queue, flight).await;
    drop(queue);
    match (received, writer.await) {
        (_, Err(_panicked)) => Err(Error::Abandoned),
        (_, Ok(Err(error))) => Err(error.into()),
        (_, Ok(Ok(Written::Detached(error)))) => {
            log_detached(flight, digest, store, &error);
            store.record_failure(&error);
            Ok(Filled::Detached)
        }
        (Ok(()), Ok(Ok(Written::Verified(verified)))) => Ok(Filled::Verified(verified)),
        (Err(error), Ok(Ok(_))) => Err(error),
        (Ok(()), Ok(Ok(Written::Nothing))) => Err(Error::Abandoned),
    }
}

/// What became of the bytes.
enum Written {
    Verified(Verified),
    /// The queue closed without the end.
    Nothing,
    /// The disk failed; the followers have been told.
    Detached(store::Error),
}

/// The blocking side: write, publish, hash.
fn write(
    mut ingest: Ingest,
    mut received: mpsc::Receiver<Received>,
    size: Option<u64>,
    lead: &Lead,
) -> Result<Written, store::Error> {
    while let Some(piece) = received.blocking_recv() {
        let taken = match piece {
            Received::End => return ingest.verify().map(Written::Verified),
            Received::Bytes(bytes) => ingest.write(&bytes).map(|written| {
                lead.publish_readable(readable(written, size));
                ingest.hash(&bytes);
            }),
            Received::Kept(until) => {
                take_over(&mut ingest, until, |written| lead.publish_readable(readable(written, size)))
            }
        };
        match taken {
            Ok(()) => {}
            Err(error) if error.is_local() => {
                let (growing, written, hasher) = ingest.detach();
                // Without it nobody could tell whether the whole is right.
                let Some(hasher) = hasher else { return Err(error) };
                // They go on by themselves from where the disk failed: nobody's pull fails because our disk does.
                lead.publish(Progress::Detached { growing: Some(growing), written, hasher, size });
                return Ok(Written::Detached(error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Written::Nothing)
}

fn take_over(ingest: &mut Ingest, until: u64, mut tell: impl FnMut(u64)) -> Result<(), store::Error> {
    let mut written = 0;
    while written < until {
        written = ingest.adopt_out_of_order(until)?;
        tell(written);
    }
    Ok(())
}

/// Tells why a blob is not stored but passed through, where that is news.
fn log_detached(flight: &Flight, digest: Digest, store: &Store, error: &store::Error) {
    let repository = &flight.repository;
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if store.should_log(error) {
        tracing::error!(%repository, %digest, %error, cause, "a blob cannot be stored; it is passed through to those who wait");
    } else {
        tracing::debug!(%repository, %digest, %error, cause, "a blob is passed through");
    }
}

/// How many bytes may be handed out when `written` of `size` are there and none is verified.
fn readable(written: u64, size: Option<u64>) -> u64 {
    match size {
        Some(size) => written.min(size.saturating_sub(TAIL)),
        // Each byte may be the last but 64 KiB.
        None => written.saturating_sub(TAIL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_never_readable_before_the_digest_is_verified() {
        for size in [0, 1, TAIL - 1, TAIL, TAIL + 1, 10 * TAIL] {
            for written in [0, 1, TAIL, size] {
                let written = written.min(size);
                assert!(readable(written, Some(size)) <= size.saturating_sub(TAIL));
                assert!(readable(written, None) <= written.saturating_sub(TAIL));
            }
        }
        assert_eq!(readable(9 * TAIL, Some(10 * TAIL)), 9 * TAIL);
    }
}
