//! Reading a committed blob: every chunk is checked before it leaves.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::reference::{Digest, Hasher};
use crate::store::blocking;
use crate::store::buffers::Buffer;
use crate::store::error::Error;
use crate::store::in_use::{InUse, InUseMark};
use crate::store::integrity::{CHUNK, Checksums, ChecksumsBuilder};
use crate::store::layout::{self, Layout};
use crate::store::page_cache::{read_cached, read_exact_at};
use crate::support::body_chunk::{BodyChunk, FileRange, IntegrityCheck};

/// Longest range that is returned in memory; of longer ones the kernel sends the very pages that were checked.
const COPIED_BYTES_MAX: u64 = 16 * 1024;
/// Chunks that are checked and returned together.
const CHUNKS_AT_ONCE: u64 = 4;
/// Bytes of a checksum file at most: those of a 1 TiB blob.
const CHECKSUMS_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// A committed blob, open for reading. It stays readable even if it is removed meanwhile. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blob(Arc<OpenFile>);

/// A blob that is open as long as one of its readers lives.
#[derive(Debug, Clone)]
pub(super) struct WeakBlob(Weak<OpenFile>);

#[derive(Debug)]
struct OpenFile {
    digest: Digest,
    file: Arc<File>,
    checksums: Checksums,
    _in_use: InUseMark,
}

impl Blob {
    /// Opens a blob; `None` if there is none. Blocks; hashes the whole blob if its checksums are missing or damaged.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file cannot be the blob; the disk.
    pub(super) fn open(layout: &Layout, digest: &Digest, in_use: &InUse) -> Result<Option<Self>, Error> {
        // Before the file is opened, so that it is not evicted in between.
        let in_use = in_use.mark(*digest);
        let path = layout.blob(digest);
        let file = match layout::open_regular(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(damaged(digest, &e.to_string()));
            }
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let checksums = match read_checksums(&layout.checks_of(digest)) {
            Some(checksums) => checksums,
            None => {
                let checksums = hash_again(&file, &path, digest)?;
                layout.write_small(&layout.checks_of(digest), &checksums.encode())?;
                checksums
            }
        };
        let size = file.metadata().map_err(Error::io("inspect", &path))?.len();
        if size != checksums.size() {
            return Err(damaged(digest, &format!("{size} bytes instead of {}", checksums.size())));
        }
        let open = OpenFile { digest: *digest, file: Arc::new(file), checksums, _in_use: in_use };
        Ok(Some(Self(Arc::new(open))))
    }

    /// The digest of the content.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.0.checksums.size()
    }

    /// The next checked bytes at `offset`, none at or beyond `end`. Empty only at `end`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a chunk fails its check: its bytes are not returned.
    pub async fn read(&self, offset: u64, end: u64) -> Result<BodyChunk, Error> {
        let end = end.min(self.size());
        if end.saturating_sub(offset) <= COPIED_BYTES_MAX {
            return self.copy(offset, end).await.map(BodyChunk::Memory);
        }
        let end = end.min((offset / CHUNK as u64 + CHUNKS_AT_ONCE) * CHUNK as u64);
        self.check(offset, end).await?;
        let check: Arc<dyn IntegrityCheck> = self.0.clone();
        let file = Arc::clone(&self.0.file);
        let len = (end - offset) as usize;
        Ok(BodyChunk::File(FileRange { file, offset, len, check: Some(check) }))
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

    pub(super) fn downgrade(&self) -> WeakBlob {
        WeakBlob(Arc::downgrade(&self.0))
    }

    /// As [`Blob::read`], in memory, at most to the end of a chunk.
    async fn copy(&self, offset: u64, end: u64) -> Result<Bytes, Error> {
        if offset >= end {
            return Ok(Bytes::new());
        }
        let OpenFile { digest, file, checksums, .. } = &*self.0;
        let chunk = offset / CHUNK as u64;
        let (start, len) = checksums.range_of(chunk);
        let bytes = read_exact_at(file, start, len).await.map_err(|e| self.0.unreadable(start, &e))?;
        if !checksums.matches(chunk, &bytes) {
            return Err(wrong_chunk(digest, start));
        }
        let to = (end - start).min(len as u64) as usize;
        Ok(bytes.slice((offset - start) as usize..to))
    }

    /// Checks every chunk that has bytes from `offset` up to `end`: in place as long as they are in the page cache, and
    /// the rest on a blocking thread.
    async fn check(&self, offset: u64, end: u64) -> Result<(), Error> {
        let mut chunks = offset / CHUNK as u64..end.div_ceil(CHUNK as u64);
        let mut buffer = Buffer::new(CHUNK);
        while let Some(chunk) = chunks.next() {
            let (start, len) = self.0.checksums.range_of(chunk);
            let content = &mut buffer.bytes()[..len];
            let cached = read_cached(&self.0.file, start, content);
            if cached.map_err(|e| self.0.unreadable(start, &e))? < len {
                let open = Arc::clone(&self.0);
                let rest =
                    move || (chunk..chunks.end).try_for_each(|chunk| open.check_chunk(chunk, &mut buffer));
                return blocking::run(rest).await;
            }
            if !self.0.checksums.matches(chunk, content) {
                return Err(wrong_chunk(&self.0.digest, start));
            }
        }
        Ok(())
    }
}

impl WeakBlob {
    /// The blob, if it still has a reader.
    pub(super) fn upgrade(&self) -> Option<Blob> {
        self.0.upgrade().map(Blob)
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Whether this is the same open file, and not one of the same digest that was opened at another time.
    pub(super) fn is_same(&self, blob: &Blob) -> bool {
        self.0.as_ptr() == Arc::as_ptr(&blob.0)
    }
}

impl OpenFile {
    /// Reads and checks one chunk. Blocks.
    fn check_chunk(&self, chunk: u64, buffer: &mut Buffer) -> Result<(), Error> {
        let (start, len) = self.checksums.range_of(chunk);
        let content = &mut buffer.bytes()[..len];
        self.file.read_exact_at(content, start).map_err(|e| self.unreadable(start, &e))?;
        if self.checksums.matches(chunk, content) { Ok(()) } else { Err(wrong_chunk(&self.digest, start)) }
    }

    fn unreadable(&self, start: u64, error: &std::io::Error) -> Error {
        damaged(&self.digest, &format!("reading at {start}: {error}"))
    }
}

impl IntegrityCheck for OpenFile {
    fn is_intact(&self, offset: u64, end: u64) -> bool {
        let mut buffer = Buffer::new(CHUNK);
        (offset / CHUNK as u64..end.div_ceil(CHUNK as u64))
            .all(|chunk| self.check_chunk(chunk, &mut buffer).is_ok())
    }
}

fn wrong_chunk(digest: &Digest, start: u64) -> Error {
    damaged(digest, &format!("wrong checksum of the chunk at {start}"))
}

fn damaged(digest: &Digest, reason: &str) -> Error {
    Error::Damaged { digest: *digest, reason: reason.to_owned() }
}

fn read_checksums(path: &Path) -> Option<Checksums> {
    let file = layout::open_regular(path).ok().flatten()?;
    let mut content = Vec::new();
    file.take(CHECKSUMS_BYTES_MAX).read_to_end(&mut content).ok()?;
    Checksums::decode(&content)
}

/// The checksums of a blob that has lost them: only if its digest is right.
fn hash_again(mut file: &File, path: &Path, digest: &Digest) -> Result<Checksums, Error> {
    let mut hasher = Hasher::default();
    let mut checksums = ChecksumsBuilder::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                checksums.update(&buffer[..count]);
            }
        }
    }
    match hasher.finish() {
        actual if actual == *digest => Ok(checksums.finish()),
        actual => Err(damaged(digest, &format!("its content has digest {actual}"))),
    }
}
