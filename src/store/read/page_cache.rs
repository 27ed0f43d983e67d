//! Reading files from async code without holding up the runtime.
//!
//! Bytes in the page cache are read in place (`preadv2` with `RWF_NOWAIT`: a hop to another thread would cost 40 % of
//! the throughput); other bytes are read on a blocking thread.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::store::disk::blocking;
use crate::store::disk::calls::{Call, DiskCalls};
use crate::store::error::Error;
use crate::store::read::buffers::Buffer;

/// Reads exactly `len` bytes at `offset`, at most a chunk.
///
/// # Errors
/// The disk, also that it hangs (`TimedOut`), or the file ending early (`UnexpectedEof`).
pub(in crate::store) async fn read_exact_at(
    calls: &DiskCalls,
    file: &Arc<File>,
    offset: u64,
    len: usize,
) -> io::Result<Bytes> {
    let mut buffer = Buffer::new(len);
    #[cfg(test)]
    let is_held = calls.reads_are_held();
    #[cfg(not(test))]
    let is_held = false;
    let filled = if is_held { 0 } else { read_cached(file, offset, buffer.bytes())? };
    if filled == len {
        return Ok(buffer.freeze());
    }
    let file = Arc::clone(file);
    let read = move |_: &mut Call<'_>| {
        file.read_exact_at(&mut buffer.bytes()[filled..], offset + filled as u64)?;
        Ok(buffer.freeze())
    };
    match blocking::read(calls, read).await {
        Ok(read) => read,
        Err(Error::Hangs) => Err(io::ErrorKind::TimedOut.into()),
        Err(panic) => Err(io::Error::other(panic)),
    }
}

/// Fills `buffer` from `offset` on with the bytes that are in the page cache; returns how many there are before the
/// first that is not.
///
/// # Errors
/// The disk, or the file ending early (`UnexpectedEof`).
pub(super) fn read_cached(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let into = &mut [IoSliceMut::new(&mut buffer[filled..])];
        match preadv2(file, into, offset + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Not cached, or a filesystem without NOWAIT: the caller goes on with a blocking thread.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(filled)
}

/// Fills `buffer` from `offset` on if all of it is in the page cache; `false` if it is not. Of a filesystem that does
/// not say, it is read.
///
/// # Errors
/// As [`read_cached`].
pub(super) fn read_in_memory(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
    let filled = read_cached(file, offset, buffer)?;
    if filled == buffer.len() {
        return Ok(true);
    }
    let into = &mut [IoSliceMut::new(&mut buffer[filled..])];
    match preadv2(file, into, offset + filled as u64, ReadWriteFlags::NOWAIT) {
        Err(Errno::OPNOTSUPP | Errno::INVAL) => {
            file.read_exact_at(&mut buffer[filled..], offset + filled as u64)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_read_exactly_or_not_at_all() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(b"0123456789", 0).unwrap();
        let calls = DiskCalls::default();
        assert_eq!(read_exact_at(&calls, &file, 2, 5).await.unwrap(), &b"23456"[..]);
        let error = read_exact_at(&calls, &file, 5, 6).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
