//! Reading file content from async code without holding up the runtime.
//!
//! What the page cache holds is read in place (`preadv2` with `RWF_NOWAIT`: no hop to another thread, which would
//! cost 40 % of the throughput); what it does not is read on a blocking thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::store::buffers::Buffer;
use crate::store::integrity::CHUNK;
use crate::support::body_chunk::{BodyChunk, FileRange};

/// No more bytes than this are copied through our memory.
const COPIED_MAX: usize = 16 * 1024;

/// Reads exactly `len` bytes at `offset`, at most a chunk.
///
/// # Errors
/// The disk, or the file ending early (`UnexpectedEof`).
pub(crate) async fn read_exact_at(file: &Arc<File>, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = Buffer::new(len);
    let have = read_cached(file, offset, buffer.bytes())?;
    if have == len {
        return Ok(buffer.freeze());
    }
    let file = Arc::clone(file);
    let read = move || {
        file.read_exact_at(&mut buffer.bytes()[have..], offset + have as u64)?;
        Ok(buffer.freeze())
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

/// Fills as much of `buffer` as can be had at once.
pub(crate) fn read_cached(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        let into = &mut [IoSliceMut::new(&mut buffer[have..])];
        match preadv2(file, into, offset + have as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(Errno::INTR) => {}
            // Not in memory, or a filesystem that cannot tell: a blocking thread will do.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(have)
}

/// The content of an ingest while it grows. What it returns is upstream's word until the ingest is verified.
#[derive(Debug, Clone)]
pub struct GrowingBlob {
    file: Arc<File>,
    kept: Arc<Kept>,
}

/// Parts beyond the watermark that somebody fetched by himself.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// What is before this has been hashed or will be written by the fill: nobody else writes there any more.
    taken: u64,
    /// From where to where, apart from each other.
    all: BTreeMap<u64, u64>,
}

impl Kept {
    /// The fill has, or is about to have, everything before `until`.
    pub(crate) fn take(&self, until: u64) {
        self.lock().taken = until;
    }

    fn until(&self, at: u64) -> Option<u64> {
        self.lock().until(at)
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    fn add(&mut self, mut start: u64, mut end: u64) {
        // What it touches becomes one with it.
        while let Some((from, to)) = self.all.range(..=end).next_back().map(|(from, to)| (*from, *to))
            && to >= start
        {
            self.all.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.all.insert(start, end);
    }

    fn until(&self, at: u64) -> Option<u64> {
        self.all.range(..=at).next_back().map(|(_, end)| *end).filter(|end| *end > at)
    }
}

impl GrowingBlob {
    pub(crate) fn new(file: Arc<File>, kept: Arc<Kept>) -> Self {
        Self { file, kept }
    }

    /// Keeps bytes that were fetched ahead of the watermark, for the fill to take over when it gets there.
    ///
    /// # Errors
    /// The disk; then they are not kept, and nothing else has happened.
    pub async fn write_out_of_order(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let this = self.clone();
        let write = move || {
            // Locked while it is written: the fill must not get here meanwhile.
            let mut parts = this.kept.lock();
            if offset >= parts.taken {
                this.file.write_all_at(&bytes, offset)?;
                parts.add(offset, offset + bytes.len() as u64);
            }
            Ok(())
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// Up to where the bytes from `at` on have been kept.
    pub fn out_of_order_until(&self, at: u64) -> Option<u64> {
        self.kept.until(at)
    }

    /// Up to `len` bytes at `offset`, which must have been written. What memory does not hold any more is
    /// read on a blocking thread, so that sending it waits for no disk.
    ///
    /// # Errors
    /// The disk.
    pub async fn read(&self, offset: u64, len: usize) -> io::Result<BodyChunk> {
        if len <= COPIED_MAX {
            return read_exact_at(&self.file, offset, len).await.map(BodyChunk::Memory);
        }
        // A look at both ends: what leaves memory leaves it in runs.
        let mut probe = [0];
        for at in [offset, offset + len as u64 - 1] {
            if read_cached(&self.file, at, &mut probe)? == 0 {
                let first = len.min(CHUNK);
                return read_exact_at(&self.file, offset, first).await.map(BodyChunk::Memory);
            }
        }
        Ok(BodyChunk::File(FileRange { file: Arc::clone(&self.file), offset, len, check: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_parts_that_touch_become_one() {
        let mut kept = Parts::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60), (0, 5)] {
            kept.add(start, end);
        }
        let found = [10, 19, 20, 9, 0].map(|at| kept.until(at));
        assert_eq!(found, [Some(20), Some(20), None, None, Some(5)]);
        kept.add(20, 30);
        assert_eq!([10, 39, 40].map(|at| kept.until(at)), [Some(40), Some(40), None]);
        kept.add(3, 55);
        assert_eq!((kept.until(0), kept.all.len()), (Some(60), 1));
        kept.add(5, 6);
        assert_eq!(kept.until(7), Some(60));
    }

    #[tokio::test]
    async fn what_the_fill_has_is_not_written_by_anybody_else() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let growing = GrowingBlob::new(Arc::clone(&file), Arc::default());
        file.write_all_at(b"rightright", 0).unwrap();
        growing.kept.take(5);
        for offset in [0, 4, 5] {
            growing.write_out_of_order(offset, Bytes::from_static(b"wrong")).await.unwrap();
        }
        let mut content = [0; 10];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(
            (&content, growing.out_of_order_until(5), growing.out_of_order_until(4)),
            (b"rightwrong", Some(10), None)
        );
        growing.kept.take(u64::MAX);
        growing.write_out_of_order(7, Bytes::from_static(b"x")).await.unwrap();
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"rightwrong", "a finished blob is nobody's to write");
    }
}
