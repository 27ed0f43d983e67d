//! The content of an ingest while it grows.
//!
//! The download writes from the start on, up to its watermark. A reader far ahead of the watermark may fetch a range from
//! upstream by itself and write it here, out of order; the download adopts that range when it arrives there. No byte is
//! verified before the ingest as a whole is: until then it is upstream's word.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::store::integrity::CHUNK;
use crate::store::page_cache::{read_cached, read_exact_at};
use crate::support::body_chunk::{BodyChunk, FileRange};

/// Longest read that is copied through memory; longer ones are left in the file for the kernel to send.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// A handle to the content of an ingest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GrowingBlob {
    file: Arc<File>,
    out_of_order: Arc<OutOfOrder>,
}

/// The ranges beyond the watermark that were written out of order.
#[derive(Debug, Default)]
pub(super) struct OutOfOrder(Mutex<Ranges>);

#[derive(Debug, Default)]
struct Ranges {
    /// Bytes before this offset belong to the download, which has hashed them or is about to write them.
    claimed_until: u64,
    /// Start to end, none adjacent to another.
    written: BTreeMap<u64, u64>,
}

impl OutOfOrder {
    /// The download has, or is about to have, every byte before `until`: no other writer may write there any more.
    pub(super) fn claim(&self, until: u64) {
        self.0.lock().claimed_until = until;
    }
}

impl Ranges {
    fn add(&mut self, mut start: u64, mut end: u64) {
        // A range that overlaps or is adjacent is merged.
        while let Some((from, to)) = self.written.range(..=end).next_back().map(|(from, to)| (*from, *to))
            && to >= start
        {
            self.written.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.written.insert(start, end);
    }

    fn end_of_range_at(&self, offset: u64) -> Option<u64> {
        self.written.range(..=offset).next_back().map(|(_, end)| *end).filter(|end| *end > offset)
    }
}

impl GrowingBlob {
    pub(super) fn new(file: Arc<File>, out_of_order: Arc<OutOfOrder>) -> Self {
        Self { file, out_of_order }
    }

    /// Writes bytes that were fetched ahead of the watermark, for the download to adopt. Bytes that the download has
    /// claimed meanwhile are dropped.
    ///
    /// # Errors
    /// The disk; then the range does not count as written.
    pub async fn write_out_of_order(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let this = self.clone();
        let write = move || {
            // Locked during the write: the download must not claim this range meanwhile.
            let mut ranges = this.out_of_order.0.lock();
            if offset >= ranges.claimed_until {
                this.file.write_all_at(&bytes, offset)?;
                ranges.add(offset, offset + bytes.len() as u64);
            }
            Ok(())
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// The end of the range at `offset` that was written out of order; `None` if there is none.
    pub fn out_of_order_until(&self, offset: u64) -> Option<u64> {
        self.out_of_order.0.lock().end_of_range_at(offset)
    }

    /// Up to `len` bytes at `offset`, which must have been written. Bytes that have left the page cache are read on a
    /// blocking thread, so that sending them waits for no disk.
    ///
    /// # Errors
    /// The disk.
    pub async fn read(&self, offset: u64, len: usize) -> io::Result<BodyChunk> {
        if len <= COPIED_BYTES_MAX {
            return read_exact_at(&self.file, offset, len).await.map(BodyChunk::Memory);
        }
        // Both ends are probed: pages leave the cache in runs.
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
    fn adjacent_ranges_are_merged() {
        let mut ranges = Ranges::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60), (0, 5)] {
            ranges.add(start, end);
        }
        let found = [10, 19, 20, 9, 0].map(|at| ranges.end_of_range_at(at));
        assert_eq!(found, [Some(20), Some(20), None, None, Some(5)]);
        ranges.add(20, 30);
        assert_eq!([10, 39, 40].map(|at| ranges.end_of_range_at(at)), [Some(40), Some(40), None]);
        ranges.add(3, 55);
        assert_eq!((ranges.end_of_range_at(0), ranges.written.len()), (Some(60), 1));
        ranges.add(5, 6);
        assert_eq!(ranges.end_of_range_at(7), Some(60));
    }

    #[tokio::test]
    async fn bytes_that_the_download_has_hashed_are_not_overwritten() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let growing = GrowingBlob::new(Arc::clone(&file), Arc::default());
        file.write_all_at(b"rightright", 0).unwrap();
        growing.out_of_order.claim(5);
        for offset in [0, 4, 5] {
            growing.write_out_of_order(offset, Bytes::from_static(b"wrong")).await.unwrap();
        }
        let mut content = [0; 10];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"rightwrong");
        assert_eq!((growing.out_of_order_until(5), growing.out_of_order_until(4)), (Some(10), None));
        growing.out_of_order.claim(u64::MAX);
        growing.write_out_of_order(7, Bytes::from_static(b"x")).await.unwrap();
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"rightwrong", "a finished blob takes no more writes");
    }
}
