//! Buffers for reading blobs: page-aligned and pooled.
//!
//! A buffer that begins 16 bytes off a page boundary, as the allocator's do, halves the throughput of copies out of
//! the page cache; a new one has to be zeroed and its pages faulted in each time. `make bench` measures both.

use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::store::integrity::CHUNK;

const PAGE: usize = 4096;
/// Buffers in the pool, 1 MiB together: a buffer is held only while a chunk is checked. Further ones are returned to
/// the allocator.
const POOLED_MAX: usize = 16;

fn pool() -> &'static Mutex<Vec<Vec<u8>>> {
    static POOL: OnceLock<Mutex<Vec<Vec<u8>>>> = OnceLock::new();
    POOL.get_or_init(Mutex::default)
}

/// Memory for one chunk.
pub(super) struct Buffer {
    memory: Vec<u8>,
    /// Where the first whole page of `memory` begins.
    begin: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes, at most a chunk. It holds the bytes of an earlier read until it is overwritten.
    pub(in crate::store) fn new(len: usize) -> Self {
        let pooled = pool().lock().pop();
        let memory = pooled.unwrap_or_else(|| vec![0; CHUNK + PAGE]);
        // `align_offset` may give no answer; the buffer is then slower and otherwise right.
        let begin = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Self { memory, begin, len: len.min(CHUNK) }
    }

    /// The bytes, to read into.
    pub(in crate::store) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.len]
    }

    /// The bytes, to be shared; the buffer returns to the pool when the last reader drops them.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = pool().lock();
        if pool.len() < POOLED_MAX {
            pool.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_shared_bytes_do_not_change_under_their_reader() {
        let mut first = Buffer::new(CHUNK);
        first.bytes().fill(1);
        assert_eq!(first.as_ref().as_ptr().align_offset(PAGE), 0);
        let frozen = first.freeze();
        let slice = frozen.slice(10..20);
        drop(frozen);
        let mut second = Buffer::new(100);
        second.bytes().fill(2);
        assert_eq!(second.as_ref().len(), 100);
        assert!(slice.iter().all(|byte| *byte == 1));
    }
}
