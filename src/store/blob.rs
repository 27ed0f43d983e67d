//! The way out: a committed blob, every chunk of it checked before it leaves.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::buffers::Buffer;
use super::error::Error;
use super::growing::{read_cached, read_exact_at};
use super::integrity::{Builder, CHUNK, Checks};
use super::layout::{self, Layout};
use super::reserve::{InUse, Space};
use crate::reference::{Digest, Hasher};
use crate::support::body_chunk::{BodyChunk, FileRange, IntegrityCheck};

/// A committed blob, open for reading. It stays readable even if it is removed meanwhile.
#[derive(Debug, Clone)]
pub struct Blob(Arc<Opened>);

#[derive(Debug)]
pub(super) struct Opened {
    digest: Digest,
    file: Arc<File>,
    checks: Checks,
    _in_use: InUse,
}

/// Blobs that are being read: opened once, with one copy of their checksums, for all who read them.
#[derive(Default)]
pub(super) struct Opens(Mutex<HashMap<Digest, Weak<Opened>>>);

impl Opens {
    /// A blob that somebody reads just now.
    pub(super) fn find(&self, digest: &Digest) -> Option<Blob> {
        self.lock().get(digest)?.upgrade().map(Blob)
    }

    pub(super) fn keep(&self, blob: &Blob) {
        let mut opens = self.lock();
        if opens.len() == opens.capacity() {
            opens.retain(|_, opened| opened.strong_count() > 0);
        }
        opens.insert(blob.digest(), Arc::downgrade(&blob.0));
    }

    /// Ends the sharing of this one; whether it had not ended before.
    pub(super) fn take(&self, blob: &Blob) -> bool {
        let (mut opens, digest) = (self.lock(), blob.digest());
        let shared = opens.get(&digest).is_some_and(|opened| opened.as_ptr() == Arc::as_ptr(&blob.0));
        if shared {
            opens.remove(&digest);
        }
        shared
    }

    /// Whoever comes next must not share what is being read.
    pub(super) fn forget(&self, digest: &Digest) {
        self.lock().remove(digest);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Weak<Opened>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No more bytes than this are handed out in memory; of longer pieces the kernel sends the very pages that were
/// checked.
const COPIED_MAX: u64 = 16 * 1024;
/// Chunks that are checked and handed out together.
const CHUNKS_AT_ONCE: u64 = 4;

/// Bytes of a checksum file at most: those of a 1 TiB blob.
const CHECKS_MAX: u64 = 128 * 1024 * 1024;

impl Blob {
    /// Opens a blob; `None` if there is none. Blocks; hashes the whole blob if its checksums are missing or bad.
    pub(super) fn open(layout: &Layout, digest: &Digest, space: &Space) -> Result<Option<Self>, Error> {
        // Before the look, so that it is not evicted in between.
        let in_use = space.using(*digest);
        let path = layout.blob(digest);
        let file = match layout::open_regular(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(damaged(digest, &e.to_string()));
            }
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let checks = match read_checks(&layout.checks_of(digest)) {
            Some(checks) => checks,
            None => {
                let checks = hash_again(&file, &path, digest)?;
                layout.write_small(&layout.checks_of(digest), &checks.encode())?;
                checks
            }
        };
        let size = file.metadata().map_err(Error::io("look at", &path))?.len();
        if size != checks.size() {
            return Err(damaged(digest, &format!("{size} bytes instead of {}", checks.size())));
        }
        let opened = Opened { digest: *digest, file: Arc::new(file), checks, _in_use: in_use };
        Ok(Some(Self(Arc::new(opened))))
    }

    /// What it is.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.checks.size()
    }

    /// The next checked bytes at `offset`, none at or beyond `end`. Empty only at `end`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a chunk fails its check: its bytes are not returned.
    pub async fn read(&self, offset: u64, end: u64) -> Result<BodyChunk, Error> {
        let end = end.min(self.size());
        if end.saturating_sub(offset) <= COPIED_MAX {
            return self.copy(offset, end).await.map(BodyChunk::Memory);
        }
        let end = end.min((offset / CHUNK as u64 + CHUNKS_AT_ONCE) * CHUNK as u64);
        self.check(offset, end).await?;
        let check: Arc<dyn IntegrityCheck> = self.0.clone();
        let (file, len) = (Arc::clone(&self.0.file), (end - offset) as usize);
        Ok(BodyChunk::File(FileRange { file, offset, len, check: Some(check) }))
    }

    /// As [`Blob::read`], in memory, at most to the end of a chunk.
    async fn copy(&self, offset: u64, end: u64) -> Result<Bytes, Error> {
        if offset >= end {
            return Ok(Bytes::new());
        }
        let Opened { digest, file, checks, .. } = &*self.0;
        let chunk = offset / CHUNK as u64;
        let (start, len) = checks.place_of(chunk);
        let bytes = read_exact_at(file, start, len).await.map_err(|e| self.0.unreadable(start, &e))?;
        if !checks.hold(chunk, &bytes) {
            return Err(wrong_chunk(digest, start));
        }
        let to = (end - start).min(len as u64) as usize;
        Ok(bytes.slice((offset - start) as usize..to))
    }

    /// Checks every chunk that has bytes from `offset` up to `end`: at once what is in memory, and the rest on a
    /// blocking thread.
    async fn check(&self, offset: u64, end: u64) -> Result<(), Error> {
        let mut chunks = offset / CHUNK as u64..end.div_ceil(CHUNK as u64);
        let mut buffer = Buffer::new(CHUNK);
        while let Some(chunk) = chunks.next() {
            let (start, len) = self.0.checks.place_of(chunk);
            let content = &mut buffer.bytes()[..len];
            let had = read_cached(&self.0.file, start, content).map_err(|e| self.0.unreadable(start, &e))?;
            if had < len {
                let opened = Arc::clone(&self.0);
                let rest = move || (chunk..chunks.end).try_for_each(|chunk| opened.check(chunk, &mut buffer));
                return super::blocking(rest).await;
            }
            if !self.0.checks.hold(chunk, content) {
                return Err(wrong_chunk(&self.0.digest, start));
            }
        }
        Ok(())
    }

    /// All of a blob that is known to be small, such as a manifest.
    ///
    /// # Errors
    /// As [`Blob::read`], and [`Error::TooLong`] beyond `limit` bytes.
    pub async fn read_all(&self, limit: usize) -> Result<Bytes, Error> {
        if self.size() > limit as u64 {
            return Err(Error::TooLong { digest: self.digest(), limit: limit as u64 });
        }
        let first = self.copy(0, self.size()).await?;
        if first.len() as u64 == self.size() {
            return Ok(first);
        }
        let mut all = first.to_vec();
        while (all.len() as u64) < self.size() {
            all.extend_from_slice(&self.copy(all.len() as u64, self.size()).await?);
        }
        Ok(all.into())
    }
}

impl Opened {
    /// Checks one chunk. Blocks.
    fn check(&self, chunk: u64, buffer: &mut Buffer) -> Result<(), Error> {
        let (start, len) = self.checks.place_of(chunk);
        let content = &mut buffer.bytes()[..len];
        self.file.read_exact_at(content, start).map_err(|e| self.unreadable(start, &e))?;
        if self.checks.hold(chunk, content) { Ok(()) } else { Err(wrong_chunk(&self.digest, start)) }
    }

    fn unreadable(&self, start: u64, error: &std::io::Error) -> Error {
        damaged(&self.digest, &format!("reading at {start}: {error}"))
    }
}

impl IntegrityCheck for Opened {
    fn is_intact(&self, offset: u64, end: u64) -> bool {
        let mut buffer = Buffer::new(CHUNK);
        (offset / CHUNK as u64..end.div_ceil(CHUNK as u64))
            .all(|chunk| self.check(chunk, &mut buffer).is_ok())
    }
}

fn wrong_chunk(digest: &Digest, start: u64) -> Error {
    damaged(digest, &format!("wrong checksum of the chunk at {start}"))
}

fn damaged(digest: &Digest, reason: &str) -> Error {
    Error::Damaged { digest: *digest, reason: reason.to_owned() }
}

fn read_checks(path: &Path) -> Option<Checks> {
    let file = layout::open_regular(path).ok().flatten()?;
    let mut content = Vec::new();
    file.take(CHECKS_MAX).read_to_end(&mut content).ok()?;
    Checks::decode(&content)
}

/// Checksums of a blob that has lost them: only after its digest has been found right.
fn hash_again(mut file: &File, path: &Path, digest: &Digest) -> Result<Checks, Error> {
    let (mut hasher, mut checks, mut buffer) = (Hasher::default(), Builder::default(), vec![0; CHUNK]);
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                checks.update(&buffer[..n]);
            }
        }
    }
    match hasher.finish() {
        actual if actual == *digest => Ok(checks.finish()),
        actual => Err(damaged(digest, &format!("its content has digest {actual}"))),
    }
}
