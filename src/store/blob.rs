//! The way out: a committed blob, every chunk of it checked before it leaves.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::checks::{Builder, CHUNK, Checks};
use super::error::Error;
use super::layout::{self, Layout};
use super::read::read_exact_at;
use super::space::{InUse, Space};
use crate::reference::{Digest, Hasher};

/// A committed blob, open for reading. It stays readable even if it is removed meanwhile.
#[derive(Debug, Clone)]
pub struct Blob {
    digest: Digest,
    file: Arc<File>,
    checks: Arc<Checks>,
    _in_use: Arc<InUse>,
}

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
        let (file, checks, in_use) = (Arc::new(file), Arc::new(checks), Arc::new(in_use));
        Ok(Some(Self { digest: *digest, file, checks, _in_use: in_use }))
    }

    /// What it is.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.checks.size()
    }

    /// The next checked bytes at `offset`, at most one chunk and none at or beyond `end`. Empty only at `end`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the chunk fails its check: its bytes are not returned.
    pub async fn read(&self, offset: u64, end: u64) -> Result<Bytes, Error> {
        let end = end.min(self.size());
        if offset >= end {
            return Ok(Bytes::new());
        }
        let chunk = offset / CHUNK as u64;
        let start = chunk * CHUNK as u64;
        let len = (self.size() - start).min(CHUNK as u64) as usize;
        let bytes = read_exact_at(&self.file, start, len)
            .await
            .map_err(|e| damaged(&self.digest, &format!("reading at {start}: {e}")))?;
        if !self.checks.hold(chunk, &bytes) {
            return Err(damaged(&self.digest, &format!("wrong checksum of the chunk at {start}")));
        }
        let to = (end - start).min(len as u64) as usize;
        Ok(bytes.slice((offset - start) as usize..to))
    }

    /// All of a blob that is known to be small, such as a manifest.
    ///
    /// # Errors
    /// As [`Blob::read`], and [`Error::TooLong`] beyond `limit` bytes.
    pub async fn read_all(&self, limit: usize) -> Result<Bytes, Error> {
        if self.size() > limit as u64 {
            return Err(Error::TooLong { digest: self.digest, limit: limit as u64 });
        }
        let first = self.read(0, self.size()).await?;
        if first.len() as u64 == self.size() {
            return Ok(first);
        }
        let mut all = first.to_vec();
        while (all.len() as u64) < self.size() {
            all.extend_from_slice(&self.read(all.len() as u64, self.size()).await?);
        }
        Ok(all.into())
    }
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
