//! Bytes on their way to a client: in memory, or still in a file.
//!
//! What is in a file need not pass through our memory: the kernel can be told to send it (`listener`). The store says
//! which bytes, and vouches for them; nothing between the two looks inside.
//!
//! Deliberately not here: reading and sending.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

/// Some bytes of an answer.
#[derive(Debug, Clone)]
pub enum BodyChunk {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(FileRange),
}

impl BodyChunk {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(extent) => extent.len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts off what is beyond `len`.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::Memory(bytes) => bytes.truncate(len),
            Self::File(extent) => extent.len = extent.len.min(len),
        }
    }
}

impl From<Bytes> for BodyChunk {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

/// Who knows whether bytes of a file are still what they were.
pub trait IntegrityCheck: Send + Sync {
    /// Whether the bytes from `offset` up to `end` are right. Blocks for as long as it takes to read them.
    fn vouches(&self, offset: u64, end: u64) -> bool;
}

/// A part of an open file that was right when this was made.
#[derive(Clone)]
pub struct FileRange {
    /// The file.
    pub file: Arc<File>,
    /// Where its part begins.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
    /// Whom to ask when some time has passed; nobody can tell while a file is still growing.
    pub witness: Option<Arc<dyn IntegrityCheck>>,
}

impl FileRange {
    /// Whether what is left from `offset` on is still right, as far as anybody knows. Blocks for a read.
    pub fn is_right_from(&self, offset: u64) -> bool {
        let end = self.offset + self.len as u64;
        self.witness.as_ref().is_none_or(|witness| witness.vouches(offset, end))
    }
}

impl fmt::Debug for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.len, self.offset)
    }
}
