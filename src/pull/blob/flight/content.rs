//! The content of a flight that may begin anew: what came before turned out wrong, and bytes of it may have been sent.
//!
//! Promises: a reader that was sent bytes of content that was wrong goes on with the new content only if that begins
//! with the same bytes; it is cut off otherwise. The comparison is made once for all readers, while the new content is
//! written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::reference::Hasher;
use crate::store::{self, GrowingBlob, RecentComparisons};
use crate::support::body_chunk::BodyChunk;

/// The file that a flight is read from, and those that it was read from before. Cheap to clone: every follower does for
/// every piece.
#[derive(Debug, Clone)]
pub(crate) struct FlightContent(Arc<Content>);

#[derive(Debug)]
struct Content {
    growing: GrowingBlob,
    /// What the followers have compared of it.
    compared: RecentComparisons,
    replaced: Box<[Arc<Replaced>]>,
}

/// Content that was wrong.
#[derive(Debug)]
struct Replaced {
    growing: GrowingBlob,
    /// Bytes from the start that the content after it has in common with it, as far as that was written.
    same_until: AtomicU64,
}

impl FlightContent {
    pub(crate) fn new(growing: GrowingBlob) -> Self {
        Self::of(growing, Box::new([]))
    }

    /// New content, in the place of this.
    pub(crate) fn replaced_by(&self, growing: GrowingBlob) -> Self {
        let before = self.0.replaced.iter().map(|replaced| &replaced.growing).chain([&self.0.growing]);
        let replaced = before
            .map(|growing| Arc::new(Replaced { growing: growing.clone(), same_until: AtomicU64::new(0) }));
        Self::of(growing, replaced.collect())
    }

    fn of(growing: GrowingBlob, replaced: Box<[Arc<Replaced>]>) -> Self {
        Self(Arc::new(Content { growing, compared: RecentComparisons::default(), replaced }))
    }

    /// Compares bytes at `offset`, which are about to become readable, with the content before. Blocks; to be called
    /// for all bytes in their order.
    pub(crate) fn compare(&self, offset: u64, bytes: &[u8]) {
        for replaced in &self.0.replaced {
            // One that differs before this offset stays where it is.
            if replaced.same_until.load(Ordering::Acquire) == offset {
                let same = replaced.growing.common_prefix(offset, bytes);
                replaced.same_until.store(offset + same, Ordering::Release);
            }
        }
    }

    /// Whether a reader that was sent the bytes before `at` of `before` can go on here, where they have been written.
    pub(crate) fn continues(&self, before: &Self, at: u64) -> bool {
        self.0.growing.is_same_file(&before.0.growing)
            || self.0.replaced.iter().any(|replaced| {
                replaced.growing.is_same_file(&before.0.growing)
                    && replaced.same_until.load(Ordering::Acquire) >= at
            })
    }

    /// Whether both are read from the same file.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.growing.is_same_file(&other.0.growing)
    }

    /// As [`GrowingBlob::written`].
    pub(crate) fn written(&self) -> u64 {
        self.0.growing.written()
    }

    /// As [`GrowingBlob::read_among`] the followers of the flight.
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn read(&self, offset: u64, end: u64) -> Result<BodyChunk, store::Error> {
        self.0.growing.read_among(offset, end, &self.0.compared).await
    }

    /// As [`GrowingBlob::copy_all`].
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn copy_all(
        &self,
        offset: u64,
        end: u64,
        memory: Vec<u8>,
    ) -> Result<Vec<u8>, store::Error> {
        self.0.growing.copy_all(offset, end, memory).await
    }

    /// As [`GrowingBlob::hash_until`].
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn hash_until(&self, end: u64) -> Result<Hasher, store::Error> {
        self.0.growing.hash_until(end).await
    }

    /// As [`GrowingBlob::write_out_of_order`].
    ///
    /// # Errors
    /// No space; the disk; then the range does not count as written.
    pub(crate) async fn write_out_of_order(&self, offset: u64, bytes: Bytes) -> Result<(), store::Error> {
        self.0.growing.write_out_of_order(offset, bytes).await
    }
}
