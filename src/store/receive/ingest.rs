//! Receiving content: `Ingest -> Verified -> committed`, each step consuming the one before.
//!
//! A write is a transaction. Bytes are hashed, checksummed and bounded as they come; only content whose digest is right
//! becomes [`Verified`], and only that can be committed. Dropping either before the end removes the file; its bytes
//! stay reserved while readers have it open, and are given back with the last of them. Everything here blocks and
//! belongs on a blocking thread.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::reference::{Digest, Hasher};
use crate::store::budget::reserve::Reservation;
use crate::store::budget::room_for_blob::{Reserve, RoomForBlob};
use crate::store::budget::share::OwnerId;
use crate::store::disk::calls::WriterCalls;
use crate::store::disk::failpoints;
use crate::store::error::Error;
use crate::store::integrity::Checksums;
use crate::store::integrity::crc32c;
use crate::store::layout::{self, Layout};
use crate::store::read::in_use::InUseMark;
use crate::store::receive::growing::{GrowingBlob, PIECE_MAX};
use crate::store::receive::hashing::ContentHash;

/// Bytes of one blob at most, whatever upstream declares: 1 TiB.
const BLOB_BYTES_MAX: u64 = 1 << 40;
/// Bytes of a blob up to which its checksums are written without a sync: after a power cut they are made again from so
/// many bytes in about a millisecond, and a pull has many small blobs.
const CHECKS_REMADE_MAX: u64 = 1024 * 1024;

/// Content being received.
pub struct Ingest {
    layout: Layout,
    expected: Digest,
    limit: u64,
    declared: Option<u64>,
    written: u64,
    hashing: ContentHash,
    calls: WriterCalls,
    path: Temporary,
    owner: OwnerId,
    receiving: Receiving,
}

/// Content that has the digest that was asked for, not yet durable.
pub struct Verified {
    digest: Digest,
    checksums: Checksums,
    path: Temporary,
    owner: OwnerId,
    receiving: Receiving,
}

/// Content to which bytes may still be added, or a name be given. When it is dropped without that, what was reserved
/// ahead is given back.
struct Receiving(GrowingBlob);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.keep_reserved_for_readers();
    }
}

/// A file in `ingest/`, removed unless it was published.
struct Temporary(Option<PathBuf>, Layout);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            self.1.remove_temporary(&path);
        }
    }
}

impl Ingest {
    /// Begins to receive the content of `expected` from the registry `owner`, of `declared` bytes where upstream said
    /// so.
    ///
    /// # Errors
    /// A declared size beyond 1 TiB; the disk.
    pub(in crate::store) fn begin(
        layout: &Layout,
        expected: Digest,
        declared: Option<u64>,
        owner: OwnerId,
        reserve: Reserve,
        in_use: InUseMark,
    ) -> Result<Self, Error> {
        if declared.is_some_and(|size| size > BLOB_BYTES_MAX) {
            return Err(Error::TooLong { digest: expected, limit: BLOB_BYTES_MAX });
        }
        let _change = layout.change()?;
        layout.make_directory(&layout.ingest())?;
        let path = layout.temporary(&expected.hex());
        let file = Arc::new(layout::create(&path)?);
        failpoints::reached("ingest begun");
        let limit = declared.unwrap_or(BLOB_BYTES_MAX);
        let room = RoomForBlob::new(reserve, limit);
        let growing = GrowingBlob::new(expected, file, room, in_use, layout.calls().clone());
        Ok(Self {
            layout: layout.clone(),
            expected,
            limit,
            declared,
            written: 0,
            hashing: ContentHash::new(expected.hasher()),
            calls: layout.calls().of_writer(),
            path: Temporary(Some(path), layout.clone()),
            owner,
            receiving: Receiving(growing),
        })
    }

    /// The bytes written so far, for followers.
    pub fn growing(&self) -> GrowingBlob {
        self.receiving.0.clone()
    }

    /// The hash of what is written, for one who takes over from a writer that hangs.
    pub fn running_hash(&self) -> ContentHash {
        self.hashing.clone()
    }

    /// Writes the next bytes and returns how many there are now. Followers can read them from here on.
    ///
    /// # Errors
    /// More bytes than declared or allowed; no space; the disk, also that it gives nothing back. After an error the
    /// ingest can only be detached or dropped.
    pub fn write(&mut self, bytes: &Bytes) -> Result<u64, Error> {
        let after = self.written + bytes.len() as u64;
        if after > self.limit {
            return Err(Error::TooLong { digest: self.expected, limit: self.limit });
        }
        if self.layout.calls().reads_hang() {
            // Its followers could not read it.
            return Err(Error::Hangs);
        }
        let growing = &self.receiving.0;
        let on_disk = growing.claim(after)?;
        {
            let _call = self.calls.begin();
            growing.file().write_all_at(bytes, self.written).map_err(self.io("write"))?;
        }
        growing.note_written(bytes);
        failpoints::reached("content written");
        self.advance(after, on_disk);
        Ok(after)
    }

    /// Hashes bytes that were written, in order. Apart from [`Ingest::write`], so that readers need not wait for it.
    pub fn hash(&mut self, bytes: &Bytes) {
        self.hashing.update(bytes);
    }

    /// Adopts the next bytes that were written out of order, up to `until` at most, hashes them, and returns how many
    /// bytes there are now: at most 256 KiB more per call, so that readers see progress. A piece is compared first with
    /// the checksum that it had when it was received, so that what the disk has damaged is not upstream's fault; the
    /// rest of one that the download has begun to overwrite has none.
    ///
    /// # Errors
    /// No space; the disk, also where it gives back other bytes; that no such bytes are there, which is a defect of the
    /// caller.
    pub fn adopt_out_of_order(&mut self, until: u64) -> Result<u64, Error> {
        let end = self.receiving.0.out_of_order_until(self.written).unwrap_or(self.written);
        let end = end.min(until).min(self.limit);
        let (piece, end) = match self.receiving.0.piece_from(self.written) {
            Ok((piece_end, checksum)) => (Some((piece_end, checksum)), end.min(piece_end)),
            Err(next) => (None, next.map_or(end, |next| end.min(next))),
        };
        let len = usize::try_from(end - self.written).unwrap_or(usize::MAX).min(PIECE_MAX);
        if len == 0 {
            return Err(self.io("adopt a range of")(std::io::ErrorKind::NotFound.into()));
        }
        let growing = &self.receiving.0;
        let on_disk = growing.claim(self.written + len as u64)?;
        let read = piece.map_or(len, |(piece_end, _)| (piece_end - self.written) as usize);
        let mut bytes = vec![0; read];
        {
            let _call = growing.calls().begin_read();
            growing.file().read_exact_at(&mut bytes, self.written).map_err(self.io("read"))?;
        }
        if piece.is_some_and(|(_, checksum)| crc32c::crc32c(&bytes) != checksum) {
            let damaged = std::io::Error::new(std::io::ErrorKind::InvalidData, "a wrong checksum");
            return Err(self.io("read what was written to")(damaged));
        }
        bytes.truncate(len);
        growing.note_written(&bytes);
        // Reading back is faster than hashing, and these bytes count for no budget.
        self.hashing.update_and_wait(&bytes.into());
        self.advance(self.written + len as u64, on_disk);
        Ok(self.written)
    }

    /// Gives up storing: returns the bytes written so far, how many they are, and their running hash, `None` if that
    /// was lost. The file has no name any more and is gone with its last reader.
    pub fn detach(self) -> (GrowingBlob, u64, Option<Hasher>) {
        (self.growing(), self.written, self.hashing.take().map(|(hasher, _)| hasher))
    }

    /// Proves that the content is complete and has the digest that was asked for.
    ///
    /// # Errors
    /// Too few bytes, or another digest; the disk.
    pub fn verify(self) -> Result<Verified, Error> {
        let growing = &self.receiving.0;
        if growing.claim_all() > self.written {
            // A reader was sent more than the blob has: the file would count as damaged.
            let _call = self.layout.calls().begin();
            growing.file().set_len(self.written).map_err(self.io("shorten"))?;
        }
        if let Some(expected) = self.declared.filter(|&size| size != self.written) {
            return Err(Error::TooShort { digest: self.expected, expected, got: self.written });
        }
        let lost = self.io("hash")(std::io::Error::other("the hashing thread ended early"));
        let actual = self.hashing.take().ok_or(lost)?.0.finish();
        let checksums = self.receiving.0.checksums();
        if actual != self.expected || checksums.size() != self.written {
            return Err(Error::Mismatch { expected: self.expected, actual: actual.into() });
        }
        Ok(Verified {
            digest: actual,
            checksums,
            path: self.path,
            owner: self.owner,
            receiving: self.receiving,
        })
    }

    fn advance(&mut self, written: u64, on_disk: u64) {
        self.written = written;
        self.receiving.0.reserved_are_written(on_disk);
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        Error::io(what, self.path.0.as_deref().unwrap_or(self.layout.root()))
    }
}

impl Verified {
    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.checksums.size()
    }

    pub(in crate::store) fn digest(&self) -> Digest {
        self.digest
    }

    pub(in crate::store) fn owner(&self) -> OwnerId {
        self.owner
    }

    /// Adds the content to what is staged by `staging`: its checksums, and after them its own file. Once that has its
    /// name, and only then, a blob exists; an existing one is replaced by this equal one. Its bytes are durable by
    /// then.
    ///
    /// # Errors
    /// The disk. Nothing is left behind but what was there before.
    pub(in crate::store) fn stage(&self, staging: &Layout) -> Result<(), Error> {
        let Some(path) = self.path.0.clone() else { return Ok(()) };
        failpoints::reached("content verified");
        let (checks, encoded) = (staging.checks_of(&self.digest), self.checksums.encode());
        if self.size() <= CHECKS_REMADE_MAX {
            staging.write_derived(&checks, &encoded)?;
        } else {
            staging.write_small(&checks, &encoded)?;
        }
        staging.make_directory(&staging.blobs(self.digest.algorithm()))?;
        staging.name_later(path, staging.blob(&self.digest), Arc::clone(self.receiving.0.file()));
        Ok(())
    }

    /// The blob exists. Returns the reservation, to end once the blob is counted; `None` for an empty blob.
    pub(in crate::store) fn named(mut self) -> Option<Reservation> {
        self.path.0 = None;
        self.receiving.0.take_reserved()
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
