//! Buffers for reading blobs: page-aligned, and used again.
//!
//! A buffer that begins 16 bytes off a page boundary, as the allocator's do, halves the throughput of copies out of
//! the page cache; a fresh one has to be zeroed and its pages faulted in each time. `make bench` shows
//! what it comes to.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use super::integrity::CHUNK;

const PAGE: usize = 4096;
/// Buffers kept for the next reader: 1 MiB, as a buffer is held only while a chunk is checked; what is more
/// than this is given back to the allocator.
const KEPT_MAX: usize = 16;

type Pool = Arc<Mutex<Vec<Vec<u8>>>>;

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(Pool::default)
}

/// Room for one chunk.
pub(super) struct Buffer {
    memory: Vec<u8>,
    /// Where the first page of it begins.
    begin: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes, at most a chunk; what is in it is whatever was read last.
    pub(super) fn new(len: usize) -> Self {
        let kept = pool().lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = kept.unwrap_or_else(|| vec![0; CHUNK + PAGE]);
        // The allocator may not say; then it is only slower.
        let begin = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Self { memory, begin, len: len.min(CHUNK) }
    }

    /// The bytes, to read into.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.len]
    }

    /// The bytes, to hand out; the buffer is used again when the last reader drops them.
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
        let mut kept = pool().lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_nobodys_bytes_change_under_him() {
        let mut first = Buffer::new(CHUNK);
        first.bytes().fill(1);
        assert_eq!(first.as_ref().as_ptr().align_offset(PAGE), 0);
        let frozen = first.freeze();
        let part = frozen.slice(10..20);
        drop(frozen);
        let mut second = Buffer::new(100);
        second.bytes().fill(2);
        assert_eq!(second.as_ref().len(), 100);
        assert!(part.iter().all(|byte| *byte == 1));
    }
}
