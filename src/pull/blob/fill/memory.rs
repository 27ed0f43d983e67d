//! The memory for what downloads have received and not hashed yet: one bound for all, with a share for each registry.
//!
//! Where upstream is faster than the disk or the processor, this is what waits between them. A piece counts from before
//! it is queued for the writer until it is hashed, or handed on past the disk.
//!
//! Promises: all downloads together hold at most [`MEMORY_MAX`] bytes, those of one registry [`SHARE_MAX`]; where these
//! are taken, a download still gets a piece through once all but [`OWN_BYTES`] of its earlier ones are hashed, so that
//! none waits for another's disk or client. With 256 downloads and pieces of 256 KiB that is up to 96 MiB more.
//!
//! Not counted: what a download has just received (448 KiB at most, `piece_queue`), what its connection has read ahead
//! (256 KiB), one piece that it takes over from its file (256 KiB), and what segments that are not its first have
//! brought (`segments`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::pull::blob::places::Holder;
use crate::store::HASH_BATCH_BYTES;
use crate::support::byte_budget::{ByteBudget, ByteShare, Reservation, held_with};

/// Bytes of all downloads: a second of a disk that writes 64 MB/s, a sixteenth of what a node's manifest lets the
/// daemon have.
const MEMORY_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the downloads of one registry: the other three quarters are there for others.
const SHARE_MAX: usize = MEMORY_MAX / 4;
/// A download that holds fewer bytes than this may always have another piece. As many can wait to be hashed and not be
/// on their way there.
const OWN_BYTES: usize = HASH_BATCH_BYTES;
/// The memory. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FillMemory(Arc<ByteBudget<Holder>>);

/// What one download holds of it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct MemoryOfFill {
    share: ByteShare,
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: AtomicUsize,
    fewer: Notify,
}

/// Memory for a piece, until it is dropped.
#[derive(Debug)]
pub(crate) struct PieceMemory {
    held: Arc<Held>,
    bytes: usize,
    _reserved: Option<Reservation>,
}

impl Default for FillMemory {
    fn default() -> Self {
        Self::new(MEMORY_MAX, SHARE_MAX)
    }
}

impl FillMemory {
    /// Memory of `all` bytes, of which a registry may have `share`.
    pub(crate) fn new(all: usize, share: usize) -> Self {
        Self(Arc::new(ByteBudget::new(all, share)))
    }

    /// For one download.
    pub(crate) fn of_fill(&self, holder: &Holder) -> MemoryOfFill {
        MemoryOfFill { share: self.0.share_of(holder), held: Arc::default() }
    }
}

impl MemoryOfFill {
    /// Memory for a piece of `bytes`, once there is some. To be asked for one piece after the other.
    pub(crate) async fn take(&self, bytes: usize) -> PieceMemory {
        let reserved = tokio::select! {
            biased;
            reserved = self.share.reserve(bytes) => Some(reserved),
            () = self.holds_little() => None,
        };
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
        PieceMemory { held: Arc::clone(&self.held), bytes, _reserved: reserved }
    }

    async fn holds_little(&self) {
        while self.held.bytes.load(Ordering::Relaxed) >= OWN_BYTES {
            self.held.fewer.notified().await;
        }
    }
}

impl PieceMemory {
    /// `bytes`, for which the memory was taken: it is given back with their last copy.
    pub(crate) fn attach_to(self, bytes: Bytes) -> Bytes {
        held_with(bytes, self)
    }
}

impl Drop for PieceMemory {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        // Kept for the one that looks next, if none waits.
        self.held.fewer.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PIECE: usize = 256 * 1024;

    fn holder(name: &str) -> Holder {
        Holder::Named(name.parse().unwrap())
    }

    fn take(fill: &MemoryOfFill) -> Option<PieceMemory> {
        fill.take(PIECE).now_or_never()
    }

    #[test]
    fn however_many_downloads_a_registry_has_it_takes_its_share_and_one_piece_for_each() {
        let memory = FillMemory::new(16 * PIECE, 4 * PIECE);
        let fills: Vec<_> = (0..8).map(|_| memory.of_fill(&holder("slow.test"))).collect();
        let held = |fill: &MemoryOfFill| -> Vec<_> { std::iter::from_fn(|| take(fill)).collect() };
        let mut all: Vec<_> = fills.iter().map(held).collect();
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 4 + 7, "the first has the share");
        assert!(all.iter().all(|held| !held.is_empty()), "none waits for another");
        let other = memory.of_fill(&holder("other.test"));
        assert_eq!(held(&other).len(), 4, "what one registry has is not another's");
        all[0].pop();
        assert!(take(&fills[7]).is_some(), "what is given back can be taken");
    }

    #[tokio::test]
    async fn a_download_waits_for_its_own_pieces_alone() {
        let memory = FillMemory::new(PIECE, PIECE);
        let (fill, other) = (memory.of_fill(&holder("a.test")), memory.of_fill(&holder("b.test")));
        let never_given_back = take(&other).unwrap();
        let first = take(&fill).unwrap();
        let bytes = first.attach_to(Bytes::from_static(b"content"));
        let slice = bytes.slice(1..3);
        drop(bytes);
        let given_back = async {
            tokio::task::yield_now().await;
            assert_eq!(&slice[..], b"on");
            drop(slice);
        };
        let (second, ()) = tokio::join!(fill.take(PIECE), given_back);
        assert!(take(&fill).is_none(), "it is held until the last copy is dropped");
        drop((second, never_given_back));
        assert_eq!([&fill, &other].map(|fill| fill.held.bytes.load(Ordering::Relaxed)), [0, 0]);
    }

    #[tokio::test]
    async fn what_waits_to_be_hashed_with_the_next_piece_keeps_that_piece_from_no_download() {
        let memory = FillMemory::new(PIECE, PIECE);
        let (fill, other) = (memory.of_fill(&holder("a.test")), memory.of_fill(&holder("b.test")));
        let all = take(&other).unwrap();
        let waits = fill.take(HASH_BATCH_BYTES - 1).now_or_never().unwrap();
        assert!(take(&fill).is_some());
        drop((all, waits));
    }
}
