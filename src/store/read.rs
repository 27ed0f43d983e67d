//! Reading file content from async code without holding up the runtime.
//!
//! What the page cache holds is read in place (`preadv2` with `RWF_NOWAIT`: no hop to another thread, which would
//! cost 40 % of the throughput); what it does not is read on a blocking thread.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::buffers::Buffer;
use super::checks::CHUNK;
use crate::piece::{Extent, Piece};

/// No more bytes than this are copied through our memory.
const COPIED_MAX: usize = 16 * 1024;

/// Reads exactly `len` bytes at `offset`, at most a chunk.
///
/// # Errors
/// The disk, or the file ending early (`UnexpectedEof`).
pub(super) async fn read_exact_at(file: &Arc<File>, offset: u64, len: usize) -> io::Result<Bytes> {
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
pub(super) fn read_cached(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
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
pub struct Growing {
    file: Arc<File>,
}

impl Growing {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file }
    }

    /// Up to `len` bytes at `offset`, which must have been written. What memory does not hold any more is
    /// read on a blocking thread, so that sending it waits for no disk.
    ///
    /// # Errors
    /// The disk.
    pub async fn read(&self, offset: u64, len: usize) -> io::Result<Piece> {
        if len <= COPIED_MAX {
            return read_exact_at(&self.file, offset, len).await.map(Piece::Memory);
        }
        // A look at both ends: what leaves memory leaves it in runs.
        let mut probe = [0];
        for at in [offset, offset + len as u64 - 1] {
            if read_cached(&self.file, at, &mut probe)? == 0 {
                let first = len.min(CHUNK);
                return read_exact_at(&self.file, offset, first).await.map(Piece::Memory);
            }
        }
        Ok(Piece::File(Extent { file: Arc::clone(&self.file), offset, len, witness: None }))
    }
}
