//! The checksums of a committed blob: in memory where they are few, else read from their file as chunks are.
//!
//! Promises: what is read of the file and what is in memory of it does not grow with the blob: of one of up to 1 GiB
//! all of it, 64 KiB; of a larger one the slices that are needed, of 4 KiB for each 64 MiB of the blob. A slice cannot
//! be checked by itself: where a chunk does not match one, [`StoredChecksums::are_sound`] says whether the fault may be
//! the file's.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::integrity::crc32c;
use crate::store::integrity::{self, CHUNK, Checksums, ChunkChecksums, HEADER};
use crate::store::layout;
use crate::store::read::limits::ReadLimits;
use crate::support::bounded_map::BoundedMap;

/// Slices of a blob in memory: its readers are in a few places at a time.
const SLICES_MAX: usize = 4;

/// The checksums of one blob.
#[derive(Debug)]
pub(super) enum StoredChecksums {
    /// All of them.
    Whole(Checksums),
    /// Some of them.
    Sliced(Slices),
}

/// The checksums of a large blob.
#[derive(Debug)]
pub(super) struct Slices {
    file: File,
    /// Bytes of the blob.
    size: u64,
    /// Checksums of a slice but the last.
    slice_chunks: u64,
    slices: Mutex<BoundedMap<u64, Arc<[u32]>>>,
}

impl StoredChecksums {
    /// Opens the file at `path`; `None` if there is none, or it is damaged as far as that is seen. Blocks.
    pub(in crate::store) fn open(path: &Path, limits: ReadLimits) -> Option<Self> {
        let (file, len) = layout::open_sized(path).ok()??;
        if len <= limits.whole_checksum_bytes {
            return Checksums::decode(&layout::read_whole(&file, len, len).ok()?).map(Self::Whole);
        }
        let mut header = [0; HEADER];
        read_at(&file, &mut header, 0).ok()?;
        let size = integrity::blob_size(&header)?;
        let slices = Mutex::new(BoundedMap::new(SLICES_MAX));
        let slice_chunks = limits.slice_chunks;
        let is_whole = integrity::file_bytes(size) == Some(len);
        is_whole.then(|| Self::Sliced(Slices { file, size, slice_chunks, slices }))
    }

    /// Bytes of the blob.
    pub(in crate::store) fn size(&self) -> u64 {
        match self {
            Self::Whole(checksums) => checksums.size(),
            Self::Sliced(slices) => slices.size,
        }
    }

    /// Bytes that they take in memory at most.
    pub(in crate::store) fn bytes(&self) -> u64 {
        match self {
            Self::Whole(checksums) => checksums.bytes(),
            Self::Sliced(slices) => SLICES_MAX as u64 * slices.slice_chunks * 4,
        }
    }

    /// Whether they are those that were written: of slices the whole file is read and compared with its own checksum.
    /// Blocks.
    pub(super) fn are_sound(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Sliced(slices) => slices.are_sound().unwrap_or(false),
        }
    }
}

impl ChunkChecksums for StoredChecksums {
    fn expected(&self, chunk: u64) -> Option<(usize, u32)> {
        match self {
            Self::Whole(checksums) => checksums.expected(chunk),
            Self::Sliced(slices) => slices.expected(chunk),
        }
    }

    fn are_at_hand(&self, chunks: &Range<u64>) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Sliced(slices) => slices.numbers(chunks).all(|number| slices.known(number).is_some()),
        }
    }

    fn fetch(&self, chunks: &Range<u64>) {
        if let Self::Sliced(slices) = self {
            slices.numbers(chunks).for_each(|number| drop(slices.read_slice(number)));
        }
    }
}

impl Slices {
    fn expected(&self, chunk: u64) -> Option<(usize, u32)> {
        if chunk >= self.chunks() {
            return None;
        }
        let checksum =
            *self.read_slice(chunk / self.slice_chunks)?.get((chunk % self.slice_chunks) as usize)?;
        let len = (self.size - chunk * CHUNK as u64).min(CHUNK as u64);
        Some((len as usize, checksum))
    }

    fn chunks(&self) -> u64 {
        self.size.div_ceil(CHUNK as u64)
    }

    /// The slices that have these chunks.
    fn numbers(&self, chunks: &Range<u64>) -> Range<u64> {
        chunks.start / self.slice_chunks..chunks.end.min(self.chunks()).div_ceil(self.slice_chunks)
    }

    fn known(&self, number: u64) -> Option<Arc<[u32]>> {
        self.slices.lock().get(&number).cloned()
    }

    /// A slice, read if it is not in memory; `None` if the disk does not give it.
    fn read_slice(&self, number: u64) -> Option<Arc<[u32]>> {
        if let Some(known) = self.known(number) {
            return Some(known);
        }
        let first = number * self.slice_chunks;
        let count = self.slice_chunks.min(self.chunks().checked_sub(first)?);
        let mut bytes = vec![0; count as usize * 4];
        read_at(&self.file, &mut bytes, HEADER as u64 + first * 4).ok()?;
        let slice: Arc<[u32]> =
            bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        self.slices.lock().insert(number, Arc::clone(&slice));
        Some(slice)
    }

    fn are_sound(&self) -> io::Result<bool> {
        let mut left = self.file.metadata()?.len();
        let (mut at, mut running, mut buffer) = (0, 0, vec![0; CHUNK]);
        while left > 4 {
            let part = &mut buffer[..(left - 4).min(CHUNK as u64) as usize];
            read_at(&self.file, part, at)?;
            running = crc32c::crc32c_append(running, part);
            at += part.len() as u64;
            left -= part.len() as u64;
        }
        let mut own = [0; 4];
        read_at(&self.file, &mut own, at)?;
        Ok(running == u32::from_le_bytes(own))
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    tests::READ.set(tests::READ.get() + buffer.len() as u64);
    file.read_exact_at(buffer, offset)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::store::for_tests::SMALL;
    use crate::store::integrity::ChecksumsBuilder;

    thread_local! {
        /// Bytes of files of checksums that this thread has read.
        pub(super) static READ: Cell<u64> = const { Cell::new(0) };
    }

    /// The checksums of a blob of `chunks` chunks and a bit, in memory and as a file.
    fn of(chunks: u64) -> (Checksums, StoredChecksums, tempfile::NamedTempFile) {
        let mut builder = ChecksumsBuilder::default();
        for chunk in 0..chunks {
            builder.update(&vec![chunk as u8; CHUNK]);
        }
        builder.update(b"a bit");
        let checksums = builder.finish();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), checksums.encode()).unwrap();
        (checksums, StoredChecksums::open(file.path(), SMALL).unwrap(), file)
    }

    #[test]
    fn a_range_of_a_blob_reads_no_more_of_its_checksums_the_larger_the_blob_is() {
        for chunks in [600, 2_000] {
            READ.set(0);
            let (checksums, stored, _file) = of(chunks);
            assert!(matches!(stored, StoredChecksums::Sliced(_)));
            assert_eq!(stored.size(), checksums.size());
            let in_the_middle = chunks / 2;
            for chunk in [in_the_middle, in_the_middle, in_the_middle + 1] {
                assert_eq!(stored.expected(chunk), checksums.expected(chunk));
            }
            let slices = 1 + u64::from(in_the_middle % SMALL.slice_chunks == SMALL.slice_chunks - 1);
            assert_eq!(READ.get(), HEADER as u64 + slices * SMALL.slice_chunks * 4, "{chunks} chunks");
        }
    }

    #[test]
    fn slices_say_of_every_chunk_what_the_whole_says() {
        for chunks in [300, 319, 320, 321] {
            let (checksums, stored, _file) = of(chunks);
            for chunk in (0..chunks + 3).chain([u64::MAX / CHUNK as u64]) {
                assert_eq!(stored.expected(chunk), checksums.expected(chunk), "{chunk} of {chunks}");
            }
            let StoredChecksums::Sliced(slices) = &stored else { panic!("a whole file was read") };
            assert!(slices.slices.lock().len() <= SLICES_MAX);
            assert!(
                stored.are_sound()
                    && !stored.are_at_hand(&(0..1))
                    && stored.are_at_hand(&(chunks..chunks + 9))
            );
            stored.fetch(&(0..2));
            assert!(stored.are_at_hand(&(0..2)));
        }
    }

    #[test]
    fn a_flipped_bit_of_the_file_of_a_large_blob_is_found_once_it_is_looked_for() {
        let (checksums, _, file) = of(400);
        let right = checksums.encode();
        for at in [HEADER + 7, right.len() - 5, right.len() - 1] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            std::fs::write(file.path(), wrong).unwrap();
            assert!(!StoredChecksums::open(file.path(), SMALL).unwrap().are_sound(), "{at}");
        }
        for cut in [right.len() - 1, HEADER] {
            std::fs::write(file.path(), &right[..cut]).unwrap();
            assert!(StoredChecksums::open(file.path(), SMALL).is_none(), "cut off at {cut}");
        }
        let mut other = right;
        other[0] ^= 1;
        std::fs::write(file.path(), other).unwrap();
        assert!(StoredChecksums::open(file.path(), SMALL).is_none(), "another format");
    }
}
