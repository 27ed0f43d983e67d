//! The way in: `Ingest -> Verified -> committed`, each step consuming the one before.
//!
//! A write is a transaction. Bytes are hashed, checksummed and bounded as they come; only content whose digest is
//! right becomes [`Verified`], and only that can be committed. Dropping either before the end removes the file.
//! Everything here blocks and belongs on a blocking thread.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::failpoints;
use super::growing::{GrowingBlob, Kept};
use super::hashing::Hashing;
use super::integrity::Checks;
use super::layout::{self, Layout};
use super::reserve::Reservation;
use crate::reference::{Digest, Hasher};

/// Bytes that are reserved at a time for content of unknown size.
const STEP: u64 = 16 * 1024 * 1024;

/// Bytes that are taken over at a time.
const TAKEN_OVER_MAX: usize = 256 * 1024;

/// Gets bytes promised.
pub(super) type Room = Box<dyn Fn(u64) -> Result<Reservation, Error> + Send + Sync>;

/// Content being received.
pub struct Ingest {
    layout: Layout,
    expected: Digest,
    limit: u64,
    declared: Option<u64>,
    written: u64,
    hashing: Hashing,
    file: Arc<File>,
    kept: Arc<Kept>,
    path: Temporary,
    room: Room,
    reserved: Reservation,
}

/// Content that is what its digest says, not yet durable.
pub struct Verified {
    layout: Layout,
    digest: Digest,
    checks: Checks,
    file: Arc<File>,
    path: Temporary,
    reserved: Reservation,
}

/// A file in `ingest/`, removed unless it was published.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Ingest {
    pub(super) fn begin(
        layout: &Layout,
        expected: Digest,
        declared: Option<u64>,
        limit: u64,
        room: Room,
    ) -> Result<Self, Error> {
        let limit = declared.map_or(limit, |size| size.min(limit));
        let reserved = room(declared.unwrap_or(0))?;
        layout.make_directory(&layout.ingest())?;
        let path = layout.temporary(&expected.hex());
        let file = Arc::new(layout::create(&path)?);
        failpoints::reached("content begun");
        Ok(Self {
            layout: layout.clone(),
            expected,
            limit,
            declared,
            written: 0,
            hashing: Hashing::new(),
            file,
            kept: Arc::default(),
            path: Temporary(Some(path)),
            room,
            reserved,
        })
    }

    /// The bytes written so far, for those who follow.
    pub fn growing(&self) -> GrowingBlob {
        GrowingBlob::new(Arc::clone(&self.file), Arc::clone(&self.kept))
    }

    /// Takes bytes in and returns how many there are now. They can be read by followers from here on.
    ///
    /// # Errors
    /// More bytes than declared or allowed; no room; the disk. After an error the ingest is worth nothing.
    pub fn write(&mut self, bytes: &Bytes) -> Result<u64, Error> {
        let after = self.written + bytes.len() as u64;
        if after > self.limit {
            return Err(Error::TooLong { digest: self.expected, limit: self.limit });
        }
        if after > self.reserved.bytes() {
            self.reserved.add((self.room)(STEP.max(after - self.reserved.bytes()))?);
        }
        self.kept.take(after);
        self.file.write_all_at(bytes, self.written).map_err(self.io("write"))?;
        failpoints::reached("content written");
        self.written = after;
        Ok(after)
    }

    /// Hashes bytes that were written, in order. Apart from [`Ingest::write`] so that readers need not wait for it.
    pub fn hash(&mut self, bytes: &Bytes) {
        self.hashing.update(bytes);
    }

    /// Takes over the next bytes that were kept ahead of what is written, up to `until` at most, hashes them, and returns
    /// how many there are now. Fewer than there could be at a time, so that readers hear of them.
    ///
    /// # Errors
    /// The disk. None are there, which is a defect of the caller's.
    pub fn adopt_out_of_order(&mut self, until: u64) -> Result<u64, Error> {
        let until = self
            .growing()
            .out_of_order_until(self.written)
            .unwrap_or(self.written)
            .min(until)
            .min(self.limit);
        let len = usize::try_from(until - self.written).unwrap_or(usize::MAX).min(TAKEN_OVER_MAX);
        if len == 0 {
            return Err(self.io("take over a part of")(std::io::ErrorKind::NotFound.into()));
        }
        self.kept.take(self.written + len as u64);
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, self.written).map_err(self.io("read"))?;
        self.hashing.update(&bytes.into());
        self.written += len as u64;
        Ok(self.written)
    }

    /// Gives up storing: what was written so far, how much that is, and its running hash, `None` if that was lost.
    /// The file has no name any more and goes with its last reader.
    pub fn detach(self) -> (GrowingBlob, u64, Option<Hasher>) {
        (self.growing(), self.written, self.hashing.hasher())
    }

    /// The end of the content: proves that all of it came and that it is what was asked for.
    ///
    /// # Errors
    /// Too few bytes, or another digest.
    pub fn verify(self) -> Result<Verified, Error> {
        self.kept.take(u64::MAX);
        if let Some(expected) = self.declared.filter(|&size| size != self.written) {
            return Err(Error::TooShort { digest: self.expected, expected, got: self.written });
        }
        let lost = self.io("hash")(std::io::Error::other("its thread is gone"));
        let (actual, checks) = self.hashing.all().ok_or(lost)?;
        if actual != self.expected || checks.size() != self.written {
            return Err(Error::Mismatch { expected: self.expected, actual });
        }
        Ok(Verified {
            layout: self.layout,
            digest: actual,
            checks,
            file: self.file,
            path: self.path,
            reserved: self.reserved,
        })
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        Error::io(what, self.path.0.as_deref().unwrap_or(self.layout.root()))
    }
}

impl Verified {
    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.checks.size()
    }

    /// Makes the content durable and gives it its name: data, checksums, names, directories, in that order. Then, and
    /// only then, a blob exists. If it exists already, this one takes its place; they are equal. Returns the bytes
    /// that were promised, to be given back once the blob is counted.
    ///
    /// # Errors
    /// The disk. Nothing is left behind but what was there before.
    pub(super) fn commit(mut self) -> Result<Reservation, Error> {
        let Some(path) = self.path.0.clone() else {
            return Ok(self.reserved);
        };
        failpoints::reached("content verified");
        self.file.sync_data().map_err(Error::io("sync", &path))?;
        failpoints::reached("content synced");
        self.layout.write_small(&self.layout.checks_of(&self.digest), &self.checks.encode())?;
        self.layout.make_directory(&self.layout.blobs())?;
        layout::publish(&path, &self.layout.blob(&self.digest))?;
        self.path.0 = None;
        Ok(self.reserved)
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}
