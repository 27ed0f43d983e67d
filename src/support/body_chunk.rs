//! Bytes on their way to a client: in memory, or still in a file.
//!
//! Bytes in a file need not pass through our memory: the kernel can be told to send them (`listener`). The store says
//! which bytes, and checks them; nothing between the two looks inside.
//!
//! Deliberately not here: reading and sending.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

/// Some bytes of an answer.
#[derive(Debug, Clone)]
pub enum BodyChunk {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(FileRange),
}

impl BodyChunk {
    /// Bytes of the chunk.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(range) => range.len,
        }
    }

    /// Whether the chunk has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, read if they are in a file: without a check, for tests alone. Blocks for a read.
    ///
    /// # Errors
    /// The disk.
    #[cfg(test)]
    pub(crate) fn read(self) -> std::io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes),
            Self::File(range) => {
                let mut bytes = vec![0; range.len];
                std::os::unix::fs::FileExt::read_exact_at(&*range.file, &mut bytes, range.offset)?;
                Ok(bytes.into())
            }
        }
    }

    /// Cuts off the bytes beyond `len`.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::Memory(bytes) => bytes.truncate(len),
            Self::File(range) => range.len = range.len.min(len),
        }
    }
}

impl From<Bytes> for BodyChunk {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

/// What bytes of a file are found to be when they are compared again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// What they were.
    Intact,
    /// Others, or fewer.
    Wrong,
    /// The file does not give them. What left it before is as it was: a page that cannot be read is not in the page
    /// cache, and is changed by no writer any more.
    Unreadable,
}

/// What became of bytes that were to be taken from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// They were taken.
    Intact,
    /// They are not intact, or cannot be read.
    Lost,
    /// They are not in memory any more: [`IntegrityCheck::compare_again`] brings them back.
    NotInMemory,
}

/// What can tell whether bytes of a file are still what they were when they were verified.
pub trait IntegrityCheck: Send + Sync {
    /// What the bytes from `offset` up to, not including, `end` are now. Does not block, nor wait for a disk that
    /// hangs.
    fn compare_again(self: Arc<Self>, offset: u64, end: u64) -> Compared;

    /// What is known of the bytes from `offset` up to `end`, and as many around them as it takes to compare them with
    /// others; `None` where too little is. Does not block, nor wait for a disk that hangs.
    fn known(self: Arc<Self>, offset: u64, end: u64) -> Known;

    /// Reads the bytes at `offset`, at least one and none at or beyond `end`, compares them, and hands them to `take`
    /// if they are intact. Does not block, but on a filesystem that does not say what is in memory.
    fn with_intact(&self, offset: u64, end: u64, take: &mut dyn FnMut(&[u8])) -> Taken;
}

/// What bytes are found to be, once they have been read.
pub type Compared = Pin<Box<dyn Future<Output = Integrity> + Send>>;

/// What is known of bytes, once it has been read.
pub type Known = Pin<Box<dyn Future<Output = Option<KnownBytes>> + Send>>;

/// Says of bytes whether they are others' equal.
pub type IsEqual = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Bytes that are known and not there.
pub struct KnownBytes {
    /// Where in the file they are.
    pub range: Range<u64>,
    /// Whether other bytes, as many, are equal to them.
    pub is_equal: IsEqual,
}

/// Bytes on their way from where a [`Refetch`] gets them; `None` if they cannot be had.
pub type Refetched = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// Where bytes come from that their file gives no more when they are sent.
pub trait Refetch: Send + Sync {
    /// Exactly `len` bytes at `offset`, proved to be those of the blob.
    fn refetch(self: Arc<Self>, offset: u64, len: usize) -> Refetched;
}

/// A range of an open file, whose bytes were intact when this was made.
#[derive(Clone)]
pub struct FileRange {
    /// The file.
    pub file: Arc<File>,
    /// The first byte of the range.
    pub offset: u64,
    /// Bytes of the range.
    pub len: usize,
    /// When they were compared last.
    pub compared_at: Instant,
    /// What checks the bytes again when some time has passed; `None` for a file that no disk has.
    pub check: Option<Arc<dyn IntegrityCheck>>,
    /// What is asked for the bytes if the file does not give them any more.
    pub refetch: Option<Arc<dyn Refetch>>,
}

impl FileRange {
    /// `len` bytes of the range, after the first `skip`.
    pub fn part(&self, skip: usize, len: usize) -> Self {
        Self { offset: self.offset + skip as u64, len, ..self.clone() }
    }

    /// Whether `next` begins where this ends, in the same file.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.file, &next.file) && self.offset + self.len as u64 == next.offset
    }

    /// What the bytes are now; without a check they count as intact.
    pub async fn compare_again(&self) -> Integrity {
        let end = self.offset + self.len as u64;
        match &self.check {
            Some(check) => Arc::clone(check).compare_again(self.offset, end).await,
            None => Integrity::Intact,
        }
    }
}

impl fmt::Debug for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.len, self.offset)
    }
}
