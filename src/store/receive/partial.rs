//! Parts of a blob that is not being downloaded: kept for those who ask for them again, and for the download of the
//! whole, which takes them over.
//!
//! Promises: a part is compared with the checksum that it had when it was received before it leaves; its bytes are
//! reserved before they are written; the file is removed with the last handle. Nothing of it is verified: a part is
//! upstream's word, like every range of a blob that is not in the store. Deliberately not here: who may read it.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::store::disk::blocking;
use crate::store::disk::calls::Call;
use crate::store::error::Error;
use crate::store::integrity::crc32c;
use crate::store::receive::growing::GrowingBlob;
use crate::store::receive::ingest::Ingest;

/// Parts of one blob that are remembered: 16 bytes each. Further ones are fetched again.
const PARTS_MAX: usize = 32 * 1024;

/// Parts of one blob. Cheap to clone.
#[derive(Clone)]
pub struct PartialBlob(Arc<Inner>);

struct Inner {
    /// Taken by the download of the whole.
    ingest: Mutex<Option<Ingest>>,
    growing: GrowingBlob,
    parts: Mutex<Parts>,
}

/// By its first byte: one past the last byte, and the checksum. None overlaps another.
#[derive(Default)]
struct Parts {
    at: BTreeMap<u64, (u64, u32)>,
    bytes: u64,
}

impl Parts {
    /// The part that has the byte at `offset`: its first byte, one past its last, its checksum.
    fn with(&self, offset: u64) -> Option<(u64, u64, u32)> {
        let (start, (end, checksum)) = self.at.range(..=offset).next_back()?;
        (*end > offset).then_some((*start, *end, *checksum))
    }

    fn next_from(&self, offset: u64) -> Option<u64> {
        self.at.range(offset..).next().map(|(start, _)| *start)
    }

    /// Adds a part, unless it overlaps another or there are too many; returns whether its bytes are kept now.
    fn add(&mut self, start: u64, end: u64, checksum: u32) -> bool {
        let overlaps = self.with(start).is_some() || self.next_from(start).is_some_and(|next| next < end);
        if overlaps || start >= end || self.at.len() >= PARTS_MAX {
            return self.first_missing(start, end).is_none();
        }
        self.at.insert(start, (end, checksum));
        self.bytes += end - start;
        true
    }

    fn first_missing(&self, start: u64, end: u64) -> Option<u64> {
        let mut at = start;
        while at < end {
            match self.with(at) {
                Some((_, part_end, _)) => at = part_end,
                None => return Some(at),
            }
        }
        None
    }

    fn remove(&mut self, start: u64) {
        if let Some((end, _)) = self.at.remove(&start) {
            self.bytes -= end - start;
        }
    }
}

impl PartialBlob {
    pub(in crate::store) fn new(ingest: Ingest) -> Self {
        let growing = ingest.growing();
        Self(Arc::new(Inner { ingest: Mutex::new(Some(ingest)), growing, parts: Mutex::default() }))
    }

    /// Keeps the bytes at `offset`; returns whether they can be read from now on, which they cannot where too many
    /// parts are kept.
    ///
    /// # Errors
    /// No space; the disk. Then they are not kept.
    pub async fn keep(&self, offset: u64, bytes: Bytes) -> Result<bool, Error> {
        let (end, checksum) = (offset + bytes.len() as u64, crc32c::crc32c(&bytes));
        self.0.growing.write_out_of_order(offset, bytes).await?;
        Ok(self.0.parts.lock().add(offset, end, checksum))
    }

    /// The bytes at `offset`, up to `end` at most, if a part has them and the disk gives them. A part that is not what
    /// was received is forgotten.
    pub async fn read(&self, offset: u64, end: u64) -> Option<Bytes> {
        let (start, part_end, checksum) = self.0.parts.lock().with(offset)?;
        let file = Arc::clone(self.0.growing.file());
        let read = move |_: &mut Call<'_>| {
            let mut bytes = vec![0; (part_end - start) as usize];
            file.read_exact_at(&mut bytes, start).is_ok().then_some(bytes)
        };
        let bytes = match blocking::read(self.0.growing.calls(), read).await {
            // It is as it was.
            Err(Error::Hangs) => return None,
            bytes => bytes.ok().flatten(),
        };
        match bytes.filter(|bytes| crc32c::crc32c(bytes) == checksum) {
            Some(bytes) => {
                let until = end.min(part_end);
                Some(Bytes::from(bytes).slice((offset - start) as usize..(until - start) as usize))
            }
            None => {
                self.0.parts.lock().remove(start);
                None
            }
        }
    }

    /// The first byte from `start` up to, not including, `end` that no part has.
    pub fn first_missing(&self, start: u64, end: u64) -> Option<u64> {
        self.0.parts.lock().first_missing(start, end)
    }

    /// The first byte at or after `offset` that a part begins with.
    pub fn next_from(&self, offset: u64) -> Option<u64> {
        self.0.parts.lock().next_from(offset)
    }

    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.0.parts.lock().bytes
    }

    /// What receives the whole blob, with these parts in it; `None` if it was taken before. Parts can be read as
    /// before.
    pub fn take_ingest(&self) -> Option<Ingest> {
        self.0.ingest.lock().take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last handle may go on a thread that must not wait for the disk: the file is removed on another.
        let Some(ingest) = self.ingest.get_mut().take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(ingest));
        }
    }
}

impl std::fmt::Debug for PartialBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartialBlob").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
