//! Reading a committed blob: every chunk is checked before it leaves.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::reference::{Digest, Hasher};
use crate::store::disk::calls::Call;
use crate::store::disk::file_identity::FileIdentity;
use crate::store::error::Error;
use crate::store::integrity::{CHUNK, Checksums, ChecksumsBuilder};
use crate::store::layout::{self, Layout};
use crate::store::read::checked_file::{CheckedFile, Damage};
use crate::store::read::in_use::InUseMark;
use crate::store::read::limits::ReadLimits;
use crate::store::read::recent_comparisons::RecentComparisons;
use crate::store::read::stored_checksums::StoredChecksums;
use crate::support::body_chunk::BodyChunk;

/// A committed blob, open for reading. It stays readable even if it is removed meanwhile. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blob {
    file: SharedFile,
    _reader: Arc<Reader>,
}

/// What a reader holds: it is dropped with the last clone of its blob.
#[derive(Debug)]
struct Reader {
    _in_use: InUseMark,
    _counted: Arc<()>,
}

/// A blob's file, open for any number of readers. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct SharedFile(Arc<OpenFile>);

/// A blob's file that is open as long as it is kept or one of its readers lives.
#[derive(Debug, Clone)]
pub(in crate::store) struct WeakFile(Weak<OpenFile>);

/// A blob's file, whose size is right.
#[derive(Debug)]
pub(in crate::store) struct OpenFile {
    digest: Digest,
    content: Arc<CheckedFile<StoredChecksums>>,
    identity: FileIdentity,
    /// Its checksums were made anew and are in memory alone.
    has_unwritten_checksums: bool,
    /// Cloned by each reader, so that its owners are the readers and this file.
    readers: Arc<()>,
    /// What several readers have compared.
    compared: RecentComparisons,
}

/// What lies under the name of a blob.
#[derive(Debug)]
pub(in crate::store) enum Opened {
    /// The blob.
    File(OpenFile),
    /// Nothing, or a file that was refused.
    Absent,
    /// A file of so many bytes whose checksums are missing or damaged, and that was not to be hashed.
    WithoutChecksums(u64),
    /// A file that cannot be the blob.
    Damaged {
        /// Which one.
        file: FileIdentity,
        /// The check that failed.
        reason: String,
    },
}

impl OpenFile {
    /// Opens a blob, unless it is a file that `is_refused`. Blocks; if its checksums are missing or damaged, it hashes
    /// the whole blob, by calls that go on in `hashing`, if it may. A blob whose checksums cannot be written is served
    /// all the same.
    ///
    /// # Errors
    /// The disk.
    pub(in crate::store) fn open(
        layout: &Layout,
        digest: &Digest,
        limits: ReadLimits,
        is_refused: impl Fn(FileIdentity) -> bool,
        hashing: Option<&mut Call<'_>>,
    ) -> Result<Opened, Error> {
        let path = layout.blob(digest);
        let file = match layout::open_regular(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Opened::Absent),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Ok(match FileIdentity::at(&path).filter(|file| !is_refused(*file)) {
                    Some(file) => Opened::Damaged { file, reason: e.to_string() },
                    None => Opened::Absent,
                });
            }
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let identity = FileIdentity::of(&file).map_err(Error::io("inspect", &path))?;
        if is_refused(identity) {
            return Ok(Opened::Absent);
        }
        let damaged = |reason| Ok(Opened::Damaged { file: identity, reason });
        let checks = layout.checks_of(digest);
        let (checksums, has_unwritten_checksums) = match StoredChecksums::open(&checks, limits) {
            Some(checksums) => (checksums, false),
            None => {
                let Some(call) = hashing else { return Ok(Opened::WithoutChecksums(identity.size())) };
                match hash_again(&file, digest, call) {
                    Ok(checksums) => {
                        write_checksums(layout, digest, &checksums);
                        match StoredChecksums::open(&checks, limits) {
                            Some(written) => (written, false),
                            None => (StoredChecksums::Whole(checksums), true),
                        }
                    }
                    Err(reason) => return damaged(reason),
                }
            }
        };
        let size = identity.size();
        if size != checksums.size() {
            return damaged(format!("{size} bytes instead of {}", checksums.size()));
        }
        let content = Arc::new(CheckedFile::new(Arc::new(file), checksums, layout.calls().clone()));
        let (readers, compared) = (Arc::default(), RecentComparisons::default());
        Ok(Opened::File(Self {
            digest: *digest,
            content,
            identity,
            has_unwritten_checksums,
            readers,
            compared,
        }))
    }

    pub(in crate::store) fn digest(&self) -> Digest {
        self.digest
    }

    /// What readers tell each other; `None` while there is one alone, for whom there is nothing to remember.
    fn shared_comparisons(&self) -> Option<&RecentComparisons> {
        (Arc::strong_count(&self.readers) > 2).then_some(&self.compared)
    }

    /// Brings all of a small blob into the page cache, so that its reader needs no blocking thread again. Blocks.
    pub(in crate::store) fn read_ahead_if_small(&self) {
        let size = self.identity.size();
        if size <= CHUNK as u64 {
            // Its reader compares what it reads, and finds an error of the disk itself.
            let _ = self.content.file().read_at(&mut vec![0; size as usize], 0);
        }
    }
}

impl SharedFile {
    pub(in crate::store) fn new(file: OpenFile) -> Self {
        Self(Arc::new(file))
    }

    pub(in crate::store) fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Whether its checksums are those that were written: if not, what does not match them may be right. Blocks.
    pub(in crate::store) fn has_sound_checksums(&self) -> bool {
        self.0.content.checksums().are_sound()
    }

    /// Whether its checksums are in memory alone.
    pub(super) fn has_unwritten_checksums(&self) -> bool {
        self.0.has_unwritten_checksums
    }

    /// Bytes that its checksums take in memory.
    pub(super) fn checksum_bytes(&self) -> u64 {
        self.0.content.checksums().bytes()
    }

    /// Whether the file still has a name, and is as it was when it was opened. Asks the kernel and no disk: the file is
    /// open.
    pub(super) fn is_unchanged(&self) -> bool {
        self.0.identity.is_that_of(self.0.content.file())
    }

    pub(in crate::store) fn downgrade(&self) -> WeakFile {
        WeakFile(Arc::downgrade(&self.0))
    }
}

impl WeakFile {
    /// The file, if it is still open.
    pub(in crate::store) fn upgrade(&self) -> Option<SharedFile> {
        self.0.upgrade().map(SharedFile)
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Whether this is the same open file, and not one of the same digest that was opened at another time.
    pub(super) fn is_same(&self, file: &SharedFile) -> bool {
        self.0.as_ptr() == Arc::as_ptr(&file.0)
    }
}

impl Blob {
    /// A reader of an open file, which is not evicted while the mark lives.
    pub(in crate::store) fn new(file: SharedFile, in_use: InUseMark) -> Self {
        let reader = Reader { _in_use: in_use, _counted: Arc::clone(&file.0.readers) };
        Self { file, _reader: Arc::new(reader) }
    }

    /// The digest of the content.
    pub fn digest(&self) -> Digest {
        self.file.0.digest
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.file.0.content.checksums().size()
    }

    /// The next checked bytes at `offset`, none at or beyond `end`: compared by this reader, or a moment ago by another
    /// one that reads the blob now. Empty only at `end`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a chunk fails its check: its bytes are not returned; [`Error::Hangs`].
    pub async fn read(&self, offset: u64, end: u64) -> Result<BodyChunk, Error> {
        let end = end.min(self.size());
        let recent = self.file.0.shared_comparisons();
        self.file.0.content.read(offset, end, recent).await.map_err(|damage| self.damaged(damage))
    }

    /// The hash of the bytes before `end`.
    ///
    /// # Errors
    /// As [`Blob::read`].
    pub async fn hash_until(&self, end: u64) -> Result<Hasher, Error> {
        let hashed = self.file.0.content.hash_until(end.min(self.size()), self.digest().hasher()).await;
        hashed.map_err(|damage| self.damaged(damage))
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

    /// Which file it is read from.
    pub(in crate::store) fn file_identity(&self) -> FileIdentity {
        self.file.0.identity
    }

    pub(in crate::store) fn file(&self) -> &SharedFile {
        &self.file
    }

    async fn copy(&self, offset: u64, end: u64) -> Result<Bytes, Error> {
        self.file.0.content.copy(offset, end).await.map_err(|damage| self.damaged(damage))
    }

    fn damaged(&self, damage: Damage) -> Error {
        damage.into_error(self.file.0.digest)
    }
}

/// Blobs that tests have seen hashed again.
#[cfg(test)]
pub(in crate::store) static HASHED_AGAIN: parking_lot::Mutex<Vec<Digest>> =
    parking_lot::Mutex::new(Vec::new());

fn write_checksums(layout: &Layout, digest: &Digest, checksums: &Checksums) {
    if let Err(error) = layout.write_small(&layout.checks_of(digest), &checksums.encode()) {
        tracing::warn!(%digest, %error, cause = error.cause(), "the checksums of a blob cannot be written; it is hashed again when it is opened next");
    }
}

/// The checksums of a blob that has lost them: only if its digest is right.
///
/// # Errors
/// Why the file is not the blob.
fn hash_again(mut file: &File, digest: &Digest, call: &mut Call<'_>) -> Result<Checksums, String> {
    #[cfg(test)]
    HASHED_AGAIN.lock().push(*digest);
    let mut hasher = digest.hasher();
    let mut checksums = ChecksumsBuilder::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(|e| format!("reading at {}: {e}", checksums.size()))? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                checksums.update(&buffer[..count]);
                call.goes_on();
            }
        }
    }
    match hasher.finish() {
        actual if actual == *digest => Ok(checksums.finish()),
        actual => Err(format!("its content has digest {actual}")),
    }
}
