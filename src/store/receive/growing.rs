//! The content of an ingest while it grows.
//!
//! The download writes from the start on, up to its end so far, and each chunk has a checksum from then on: a
//! reader, also long after the download is complete or was given up, is handed no byte that is not what was received. A
//! reader far ahead of that end may fetch a range from upstream by itself and write it here, out of order; the
//! download adopts that range when it arrives there. No byte is verified before the ingest as a whole is: until then it
//! is upstream's word.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::reference::{Digest, Hasher};
use crate::store::budget::reserve::Reservation;
use crate::store::budget::room_for_blob::RoomForBlob;
use crate::store::disk::blocking;
use crate::store::disk::calls::DiskCalls;
use crate::store::disk::calls_under_way::HANGS_AFTER;
use crate::store::error::Error;
use crate::store::integrity::crc32c;
use crate::store::integrity::{Checksums, ChecksumsBuilder};
use crate::store::read::checked_file::{CheckedFile, Damage};
use crate::store::read::in_use::InUseMark;
use crate::store::read::recent_comparisons::RecentComparisons;
use crate::support::body_chunk::BodyChunk;

/// A handle to the content of an ingest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GrowingBlob {
    digest: Digest,
    content: Arc<CheckedFile<Mutex<ChecksumsBuilder>>>,
    /// Held while bytes are written ahead of the download, so that it does not claim them meanwhile.
    out_of_order: Arc<Mutex<Ranges>>,
    room: Arc<RoomForBlob>,
    /// Readers go on with this file after its blob is complete: an eviction would free nothing.
    _in_use: Arc<InUseMark>,
    calls: DiskCalls,
}

/// Bytes of a piece that was written out of order: the download adopts as many at a time.
pub(super) const PIECE_MAX: usize = 256 * 1024;

/// The ranges beyond the end so far that were written out of order.
#[derive(Debug, Default)]
struct Ranges {
    /// Bytes before this offset belong to the download, which has hashed them or is about to write them.
    claimed_until: u64,
    /// Start to end, none adjacent to another, and none of it claimed.
    written: BTreeMap<u64, u64>,
    /// Bytes of these.
    bytes: u64,
    /// Bytes for which room is being made, and that are being written.
    begun: u64,
    /// Up to where was written, even if that failed.
    end: u64,
    /// Start to end, and the checksum that the bytes had when they were received. What several readers wrote is in
    /// none.
    pieces: BTreeMap<u64, (u64, u32)>,
}

impl Ranges {
    /// Notes the checksums of bytes that were written.
    fn note_pieces(&mut self, start: u64, bytes: &[u8]) {
        let end = start + bytes.len() as u64;
        while let Some((&other, _)) = self.pieces.range(..end).next_back().filter(|(_, (to, _))| *to > start)
        {
            self.pieces.remove(&other);
        }
        if let Some((from, (to, checksum))) = self.pieces.range_mut(..start).next_back()
            && *to == start
            && end - from <= PIECE_MAX as u64
        {
            (*to, *checksum) = (end, crc32c::crc32c_append(*checksum, bytes));
            return;
        }
        let mut at = start;
        for piece in bytes.chunks(PIECE_MAX) {
            let to = at + piece.len() as u64;
            self.pieces.insert(at, (to, crc32c::crc32c(piece)));
            at = to;
        }
    }

    /// The download has, or is about to have, every byte before `until`.
    fn claim(&mut self, until: u64) {
        self.claimed_until = until;
        while let Some((&start, &end)) = self.written.first_key_value()
            && start < until
        {
            self.written.remove(&start);
            self.bytes -= end.min(until) - start;
            if end > until {
                self.written.insert(until, end);
            }
        }
    }

    /// Bytes that are on the disk, or about to be in order.
    fn on_disk(&self) -> u64 {
        self.claimed_until.saturating_add(self.bytes)
    }

    fn add(&mut self, mut start: u64, mut end: u64) {
        // A range that overlaps or is adjacent is merged.
        while let Some((from, to)) = self.written.range(..=end).next_back().map(|(from, to)| (*from, *to))
            && to >= start
        {
            self.written.remove(&from);
            self.bytes -= to - from;
            start = start.min(from);
            end = end.max(to);
        }
        self.written.insert(start, end);
        self.bytes += end - start;
    }

    fn end_of_range_at(&self, offset: u64) -> Option<u64> {
        self.written.range(..=offset).next_back().map(|(_, end)| *end).filter(|end| *end > offset)
    }
}

impl GrowingBlob {
    /// Content of `digest` that will be written to `file`, in `room`.
    pub(in crate::store) fn new(
        digest: Digest,
        file: Arc<File>,
        room: RoomForBlob,
        in_use: InUseMark,
        calls: DiskCalls,
    ) -> Self {
        let content = Arc::new(CheckedFile::new(file, Mutex::default(), calls.clone()));
        let (out_of_order, room) = (Arc::default(), Arc::new(room));
        Self { digest, content, out_of_order, room, _in_use: Arc::new(in_use), calls }
    }

    /// So many bytes are on the disk.
    pub(super) fn reserved_are_written(&self, bytes: u64) {
        self.room.are_written(bytes);
    }

    /// The download writes no more: only what the readers keep on the disk stays reserved.
    pub(super) fn keep_reserved_for_readers(&self) {
        self.room.keep_for_readers();
    }

    /// Hands over what is reserved: the content is a blob now, which is counted by itself.
    pub(super) fn take_reserved(&self) -> Option<Reservation> {
        self.room.take()
    }

    /// The download has, or is about to have, every byte before `until`: no other writer may write there any more.
    /// Returns how many bytes are on the disk once it has.
    ///
    /// # Errors
    /// No space for them.
    pub(in crate::store) fn claim(&self, until: u64) -> Result<u64, Error> {
        let (on_disk, begun) = {
            let mut ranges = self.out_of_order.lock();
            ranges.claim(until);
            (ranges.on_disk(), ranges.begun)
        };
        self.room.reserve_up_to(on_disk + begun)?;
        Ok(on_disk)
    }

    /// Nothing is written any more. Returns up to where was.
    pub(super) fn claim_all(&self) -> u64 {
        let mut ranges = self.out_of_order.lock();
        ranges.claim(u64::MAX);
        ranges.end
    }

    /// Takes note of the next bytes of the download, which are in the file by now and may be read from here on. To be
    /// called by one caller at a time: the download.
    pub(super) fn note_written(&self, bytes: &[u8]) {
        let checksums = self.content.checksums();
        let end = checksums.lock().end();
        // Not under the lock: every reader takes it, on threads that serve others.
        let next = end.followed_by(bytes);
        checksums.lock().add(next);
    }

    /// Bytes that the download has written so far, from the start on.
    pub fn written(&self) -> u64 {
        self.content.checksums().lock().size()
    }

    /// The checksums of what the download has written.
    pub(in crate::store) fn checksums(&self) -> Checksums {
        self.content.checksums().lock().clone().finish()
    }

    /// The calls to the disk that has the file.
    pub(in crate::store) fn calls(&self) -> &DiskCalls {
        &self.calls
    }

    pub(in crate::store) fn file(&self) -> &Arc<File> {
        self.content.file()
    }

    /// Writes bytes that were fetched ahead of the download, for the download to adopt. Bytes that the download has
    /// claimed meanwhile are dropped. A reader waits for it, and therefore not for a disk that hangs.
    ///
    /// # Errors
    /// No space; the disk, or that it hangs; then the range does not count as written.
    pub async fn write_out_of_order(&self, offset: u64, bytes: Bytes) -> Result<(), Error> {
        if self.calls.is_hanging() {
            return Err(Error::Hangs);
        }
        let this = self.clone();
        let write = blocking::run(move || this.write_ahead(offset, &bytes));
        tokio::time::timeout(HANGS_AFTER, write).await.unwrap_or(Err(Error::Hangs))
    }

    /// As [`GrowingBlob::write_out_of_order`]. Blocks.
    fn write_ahead(&self, offset: u64, bytes: &Bytes) -> Result<(), Error> {
        let len = bytes.len() as u64;
        let needed = {
            let mut ranges = self.out_of_order.lock();
            if offset < ranges.claimed_until {
                return Ok(());
            }
            ranges.begun += len;
            ranges.on_disk() + ranges.begun
        };
        let reserved = self.room.reserve_up_to(needed);
        let _call = self.calls.begin();
        // Locked during the write: the download must not claim this range meanwhile.
        let mut ranges = self.out_of_order.lock();
        ranges.begun -= len;
        reserved?;
        if offset >= ranges.claimed_until {
            let written = self.file().write_all_at(bytes, offset);
            ranges.end = ranges.end.max(offset + len);
            written.map_err(Error::io("write ahead of a download to", Path::new("ingest")))?;
            ranges.add(offset, offset + len);
            ranges.note_pieces(offset, bytes);
            self.room.are_written(ranges.on_disk());
        }
        Ok(())
    }

    /// As long as this lives, a reader writes ahead of the download.
    #[cfg(test)]
    pub(crate) fn hold_writes_ahead(&self) -> impl Sized + '_ {
        self.out_of_order.lock()
    }

    /// Whether both are the content of one ingest.
    pub fn is_same_file(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.content, &other.content)
    }

    /// How many of `bytes` are the same as those at `offset`, from the first on; bytes that were not written, or cannot
    /// be read, are not the same. Blocks.
    pub fn common_prefix(&self, offset: u64, bytes: &[u8]) -> u64 {
        let mut here = vec![0; bytes.len()];
        let mut read = 0;
        let _call = self.calls.begin_read();
        while let Ok(more @ 1..) = self.file().read_at(&mut here[read..], offset + read as u64) {
            read += more;
        }
        let same = here[..read].iter().zip(bytes).take_while(|(one, other)| one == other);
        same.count() as u64
    }

    /// The end of the range at `offset` that was written out of order; `None` if there is none. Blocks while such a
    /// range is being written.
    pub(super) fn out_of_order_until(&self, offset: u64) -> Option<u64> {
        self.out_of_order.lock().end_of_range_at(offset)
    }

    /// The piece that begins at `offset`: one past its last byte, and its checksum; else where the next one begins.
    pub(super) fn piece_from(&self, offset: u64) -> Result<(u64, u32), Option<u64>> {
        let ranges = self.out_of_order.lock();
        match ranges.pieces.range(offset..).next() {
            Some((start, piece)) if *start == offset => Ok(*piece),
            next => Err(next.map(|(start, _)| *start)),
        }
    }

    /// As `out_of_order_until`, for a caller that must not block: `None` too while such a range is being written.
    pub fn known_out_of_order_until(&self, offset: u64) -> Option<u64> {
        self.out_of_order.try_lock()?.end_of_range_at(offset)
    }

    /// The next bytes at `offset` up to `end` at most, which the download must have written. They were compared with
    /// what was received; bytes that have left the page cache are read on a blocking thread.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they cannot be read, or are not what was received; [`Error::Hangs`].
    pub async fn read(&self, offset: u64, end: u64) -> Result<BodyChunk, Error> {
        self.content.read(offset, end, None).await.map_err(|damage| self.damaged(damage))
    }

    /// As [`GrowingBlob::read`], but what is in `recent` was compared by another reader a moment ago, and is not again.
    ///
    /// # Errors
    /// As [`GrowingBlob::read`].
    pub async fn read_among(
        &self,
        offset: u64,
        end: u64,
        recent: &RecentComparisons,
    ) -> Result<BodyChunk, Error> {
        self.content.read(offset, end, Some(recent)).await.map_err(|damage| self.damaged(damage))
    }

    /// As [`GrowingBlob::read`], all of it, in memory that is given for it: the very bytes that were compared.
    ///
    /// # Errors
    /// As [`GrowingBlob::read`].
    pub async fn copy_all(&self, offset: u64, end: u64, memory: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.content.copy_all(offset, end, memory).await.map_err(|damage| self.damaged(damage))
    }

    /// The hash of the bytes before `end`, which the download must have written.
    ///
    /// # Errors
    /// As [`GrowingBlob::read`].
    pub async fn hash_until(&self, end: u64) -> Result<Hasher, Error> {
        self.content.hash_until(end, self.digest.hasher()).await.map_err(|damage| self.damaged(damage))
    }

    fn damaged(&self, damage: Damage) -> Error {
        damage.into_error(self.digest)
    }
}

#[cfg(test)]
#[path = "growing_tests.rs"]
mod tests;
