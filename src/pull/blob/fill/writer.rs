//! The blocking side of a fill: what was received is written, published, hashed. And what becomes of it where the disk
//! takes no more, or hangs: the rest goes past the disk.
//!
//! A call to a disk that hangs does not return, and its thread with it. So what the writer is writing, and the queue
//! behind it, are where they can be taken from it; a writer that returns after that ends, and what it wrote is dropped.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::piece_queue::{Piece, Received};
use crate::pull::blob::flight::Leader;
use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::blob::past_the_disk::Detached;
use crate::pull::blob::past_the_disk::rest::Rest;
use crate::pull::blob::source::delivery::Trail;
use crate::pull::blob::withheld_tail::Withheld;
use crate::store::{self, ContentHash, HANGS_AFTER, Ingest, Verified};

/// How often it is looked at whether a piece takes longer than [`HANGS_AFTER`].
const LOOK: Duration = Duration::from_secs(1);

/// What became of the bytes.
pub(super) enum Written {
    Verified(Box<Verified>),
    /// The queue closed without the end.
    Incomplete,
    /// The disk does not take them.
    Detached(Box<Detached>),
    /// What was left to do was taken from the writer.
    TakenOver,
}

/// What is written of one download.
pub(super) struct Writing {
    pub(super) content: FlightContent,
    pub(super) withheld: Withheld,
    pub(super) trail: Trail,
    hash: ContentHash,
    state: Mutex<WriterState>,
}

/// What the writer does.
enum WriterState {
    /// It waits for the next piece, and has the queue.
    Waits,
    /// It writes this one, since then.
    Writes { piece: Piece, rest: mpsc::Receiver<Piece>, since: Instant },
    /// Nothing any more.
    TakenOver,
}

impl Writing {
    pub(super) fn new(ingest: &Ingest, content: FlightContent, withheld: Withheld, trail: Trail) -> Self {
        Self { content, withheld, trail, hash: ingest.running_hash(), state: Mutex::new(WriterState::Waits) }
    }

    fn begin_piece(&self, piece: Piece, rest: mpsc::Receiver<Piece>) {
        *self.state.lock() = WriterState::Writes { piece, rest, since: Instant::now() };
    }

    /// Some of the piece is done.
    fn made_progress(&self) {
        if let WriterState::Writes { since, .. } = &mut *self.state.lock() {
            *since = Instant::now();
        }
    }

    /// The piece is written, or cannot be; `None` if it was taken over meanwhile.
    fn end_piece(&self) -> Option<(Piece, mpsc::Receiver<Piece>)> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, WriterState::Waits) {
            WriterState::Writes { piece, rest, .. } => Some((piece, rest)),
            WriterState::Waits | WriterState::TakenOver => {
                *state = WriterState::TakenOver;
                None
            }
        }
    }

    /// Returns once the writer has hung in a call for [`HANGS_AFTER`].
    pub(super) async fn hangs(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if matches!(&*self.state.lock(), WriterState::Writes { since, .. } if since.elapsed() >= HANGS_AFTER)
            {
                return;
            }
        }
    }

    /// Takes from a writer that hangs what it is writing and what comes after it; `None` if it hangs no more, or if it
    /// is not known what was hashed. Blocks until what was written is hashed, for milliseconds.
    pub(super) fn take_over(&self) -> Option<Detached> {
        let mut state = self.state.lock();
        if !matches!(&*state, WriterState::Writes { since, .. } if since.elapsed() >= HANGS_AFTER) {
            return None;
        }
        let (hasher, written) = self.hash.take()?;
        let WriterState::Writes { piece, rest, .. } = std::mem::replace(&mut *state, WriterState::TakenOver)
        else {
            return None;
        };
        let written = HashedStart::new(written, hasher);
        Some(self.detached(store::Error::Hangs, written, Rest::Queue(Some(piece), rest)))
    }

    fn detached(&self, error: store::Error, written: HashedStart, rest: Rest) -> Detached {
        let (growing, withheld, trail) =
            (Some(self.content.clone()), self.withheld.clone(), self.trail.clone());
        Detached { error: Some(error), growing, written, withheld, trail, rest }
    }
}

/// Writes what comes, until the end or until the disk takes no more. Blocks.
///
/// # Errors
/// Content that is not what the digest says; the disk, if what was written is not hashed.
pub(super) fn write(
    mut ingest: Ingest,
    mut pieces: mpsc::Receiver<Piece>,
    writing: &Writing,
    leader: &Leader,
) -> Result<Written, store::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        // The piece, and so its memory, is where it can be taken from a writer that hangs.
        let received = piece.received.clone();
        let taken = match &received {
            Received::End => {
                // It waits for a reader that writes ahead of the download: also for one whose call hangs.
                writing.begin_piece(piece, pieces);
                let verified = ingest.verify();
                let is_own = writing.end_piece().is_some();
                return if is_own {
                    Ok(Written::Verified(Box::new(verified?)))
                } else {
                    Ok(Written::TakenOver)
                };
            }
            Received::Bytes(bytes) => {
                writing.begin_piece(piece, pieces);
                let written = ingest.write(bytes);
                written.inspect(|written| writing.content.compare(written - bytes.len() as u64, bytes))
            }
            Received::InFile(until) => {
                writing.begin_piece(piece, pieces);
                hash_in_file(&mut ingest, *until, |written| {
                    writing.made_progress();
                    leader.publish_readable(writing.withheld.readable(written));
                })
            }
        };
        let Some((piece, rest)) = writing.end_piece() else { return Ok(Written::TakenOver) };
        pieces = rest;
        match taken {
            Ok(written) => {
                if let Received::Bytes(_) = &received {
                    leader.publish_readable(writing.withheld.readable(written));
                    ingest.hash(&piece.into_held_bytes());
                }
            }
            Err(error) if error.is_local() => {
                let (_, written, hasher) = ingest.detach();
                // Without the hash no follower could verify the whole.
                let Some(hasher) = hasher else { return Err(error) };
                let (written, rest) = (HashedStart::new(written, hasher), Rest::Queue(Some(piece), pieces));
                return Ok(Written::Detached(Box::new(writing.detached(error, written, rest))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Written::Incomplete)
}

/// Takes over what a reader wrote out of order, up to an offset; returns how many bytes there are now.
fn hash_in_file(ingest: &mut Ingest, until: u64, mut publish: impl FnMut(u64)) -> Result<u64, store::Error> {
    let mut written = 0;
    while written < until {
        written = ingest.adopt_out_of_order(until)?;
        publish(written);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::pull::blob::fill::memory::FillMemory;
    use crate::pull::blob::fill::piece_queue::piece_queue;
    use crate::pull::blob::flight::{Flights, Role, Sharing};
    use crate::pull::blob::past_the_disk::rest::NextOfRest;
    use crate::pull::blob::places::Holder;
    use crate::pull::for_tests;
    use crate::reference::Digest;
    use crate::store::Owner;
    use crate::support::metrics::IntGauge;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_at_the_end_of_a_blob_keeps_no_reader_of_its_tail_waiting() {
        let (store, _clock, _directory) = for_tests::store();
        let (content, owner) =
            (Bytes::from_static(&[7; 1_000]), Owner::unlimited(&"reg.test".parse().unwrap()));
        let digest = Digest::of(&content);
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let context = for_tests::pull(&"reg.test/app".parse().unwrap());
        let Role::Lead(leader) = flights.join_or_lead(&context, digest, Sharing::All, Default::default())
        else {
            panic!()
        };
        let ingest = store.begin(digest, Some(1_000), owner).await.unwrap();
        let (growing, trail) = (ingest.growing(), Trail::default());
        let filling = leader.publish_filling(growing.clone(), Some(1_000), false, None);
        let writing = Arc::new(Writing::new(&ingest, filling, Withheld::of(Some(1_000), &trail), trail));
        let holder = Holder::Named(context.repository().registry().clone());
        let (mut queue, received) = piece_queue(FillMemory::default().of_fill(&holder));
        queue.send(Received::Bytes(content)).await.unwrap();
        // Not one of the runtime's: time goes on while it blocks.
        let (runtime, its_writing) = (tokio::runtime::Handle::current(), Arc::clone(&writing));
        let writer = std::thread::spawn(move || {
            let _entered = runtime.enter();
            write(ingest, received, &its_writing, &leader)
        });
        while growing.written() < 1_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let held = growing.hold_writes_ahead();
        queue.send(Received::End).await.unwrap();
        let is_end = |piece: &Piece| matches!(piece.received, Received::End);
        let is_at_end =
            || matches!(&*writing.state.lock(), WriterState::Writes { piece, .. } if is_end(piece));
        // In real time: that of the test goes on as soon as it waits.
        for _ in 0..2_000 {
            if is_at_end() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let noticed = tokio::time::timeout(Duration::from_secs(60), writing.hangs()).await;
        noticed.expect("nothing notices that it hangs");
        let mut taken = writing.take_over().expect("what is left is taken from it");
        assert!(matches!(taken.rest.next().await, Ok(NextOfRest::End)));
        assert_eq!(taken.written.len(), 1_000);
        drop(held);
        assert!(matches!(writer.join().unwrap(), Ok(Written::TakenOver)));
    }
}
