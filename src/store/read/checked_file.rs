//! Reading a file whose chunks have checksums: every byte is compared before it leaves.
//!
//! Used for a committed blob and for one that is still being received alike. A chunk of which only a part has arrived
//! is compared up to where it has. Chunks in the page cache are compared in place, others on a blocking thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::reference::{Digest, Hasher};
use crate::store::disk::blocking;
use crate::store::disk::calls::{Call, DiskCalls};
use crate::store::error::Error;
use crate::store::integrity::crc32c;
use crate::store::integrity::{CHUNK, ChunkChecksums};
use crate::store::read::buffers::Buffer;
use crate::store::read::page_cache::{read_cached, read_exact_at, read_in_memory};
use crate::store::read::recent_comparisons::{ComparedBytes, RecentComparisons};
use crate::support::body_chunk::{
    BodyChunk, Compared, FileRange, Integrity, IntegrityCheck, Known, KnownBytes, Taken,
};

/// Longest range that is returned in memory; of longer ones the kernel sends the very pages that were compared. Of a
/// file whose readers share their comparisons only its first bytes are: for others a copy would be compared by each.
const COPIED_BYTES_MAX: u64 = 16 * 1024;
/// Chunks that are compared and returned together.
const CHUNKS_AT_ONCE: u64 = 8;

/// An open file with the checksums of its chunks.
#[derive(Debug)]
pub(in crate::store) struct CheckedFile<C> {
    file: Arc<File>,
    checksums: Arc<C>,
    calls: DiskCalls,
}

/// Why bytes do not leave: the chunk that has the byte at an offset cannot be read, or is not what was received.
#[derive(Debug)]
pub(in crate::store) struct Damage {
    reason: String,
    found: Integrity,
    /// The disk hangs: nothing is known of the bytes.
    hangs: bool,
}

impl Damage {
    /// The error of a blob `digest`, without the name of the file.
    pub(in crate::store) fn into_error(self, digest: Digest) -> Error {
        if self.hangs { Error::Hangs } else { Error::Damaged { digest, reason: self.reason } }
    }

    fn unreadable(start: u64, error: &std::io::Error) -> Self {
        // The end of a file that was cut off is in memory as zeroes.
        let is_cut_off = error.kind() == std::io::ErrorKind::UnexpectedEof;
        let found = if is_cut_off { Integrity::Wrong } else { Integrity::Unreadable };
        let hangs = error.kind() == std::io::ErrorKind::TimedOut;
        Self { reason: format!("reading at {start}: {error}"), found, hangs }
    }

    fn wrong(start: u64) -> Self {
        Self::of(format!("wrong checksum of the chunk at {start}"))
    }

    fn of(reason: String) -> Self {
        Self { reason, found: Integrity::Wrong, hangs: false }
    }
}

impl<C: ChunkChecksums + 'static> CheckedFile<C> {
    /// `calls` are those to the disk that has the file.
    pub(in crate::store) fn new(file: Arc<File>, checksums: C, calls: DiskCalls) -> Self {
        Self { file, checksums: Arc::new(checksums), calls }
    }

    pub(in crate::store) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(in crate::store) fn checksums(&self) -> &C {
        &self.checksums
    }

    /// The next bytes at `offset` up to `end` at most, compared: by this reader, or, where others tell theirs in
    /// `recent`, a moment ago by one of them. Empty only at `end`.
    ///
    /// # Errors
    /// A chunk that is damaged: its bytes are not returned.
    pub(in crate::store) async fn read(
        self: &Arc<Self>,
        offset: u64,
        end: u64,
        recent: Option<&RecentComparisons>,
    ) -> Result<BodyChunk, Damage> {
        let is_short = end.saturating_sub(offset) <= COPIED_BYTES_MAX;
        if offset >= end || is_short && (recent.is_none() || offset == 0) {
            return self.copy(offset, end).await.map(BodyChunk::Memory);
        }
        let end = end.min((offset / CHUNK as u64 + CHUNKS_AT_ONCE) * CHUNK as u64);
        self.fetch_checksums(offset, end).await?;
        let compared_at = self.compare(offset, end, recent).await?;
        let check: Arc<dyn IntegrityCheck> = self.clone();
        let file = Arc::clone(&self.file);
        let len = (end - offset) as usize;
        Ok(BodyChunk::File(FileRange { file, offset, len, compared_at, check: Some(check), refetch: None }))
    }

    /// As [`CheckedFile::read`], in memory, at most to the end of a chunk.
    ///
    /// # Errors
    /// As [`CheckedFile::read`].
    pub(in crate::store) async fn copy(&self, offset: u64, end: u64) -> Result<Bytes, Damage> {
        if offset >= end {
            return Ok(Bytes::new());
        }
        let chunk = offset / CHUNK as u64;
        let start = chunk * CHUNK as u64;
        self.fetch_checksums(offset, offset + 1).await?;
        let (len, checksum) = self.expected(chunk, offset + 1)?;
        let bytes = read_exact_at(&self.calls, &self.file, start, len).await;
        let bytes = bytes.map_err(|e| Damage::unreadable(start, &e))?;
        if crc32c::crc32c(&bytes) != checksum {
            return Err(Damage::wrong(start));
        }
        let to = (end - start).min(len as u64) as usize;
        Ok(bytes.slice((offset - start) as usize..to))
    }

    /// The bytes from `offset` up to `end`, each compared, in memory that is given for it.
    ///
    /// # Errors
    /// A chunk that is damaged; a panic.
    pub(in crate::store) async fn copy_all(
        self: &Arc<Self>,
        offset: u64,
        end: u64,
        mut memory: Vec<u8>,
    ) -> Result<Vec<u8>, Damage> {
        let this = Arc::clone(self);
        let copy = move |call: &mut Call<'_>| {
            let mut buffer = Buffer::new(CHUNK);
            memory.clear();
            memory.reserve_exact((end - offset) as usize);
            for chunk in offset / CHUNK as u64..end.div_ceil(CHUNK as u64) {
                let start = chunk * CHUNK as u64;
                let content = this.compare_chunk(chunk, end, &mut buffer)?;
                let from = offset.saturating_sub(start) as usize;
                memory.extend_from_slice(&content[from..(end - start).min(CHUNK as u64) as usize]);
                call.goes_on();
            }
            Ok(memory)
        };
        flatten(blocking::read(&self.calls, copy).await)
    }

    /// `hasher`, which has seen nothing, after the bytes from the first one up to `end`, each compared.
    ///
    /// # Errors
    /// A chunk that is damaged; a panic.
    pub(in crate::store) async fn hash_until(
        self: &Arc<Self>,
        end: u64,
        mut hasher: Hasher,
    ) -> Result<Hasher, Damage> {
        let this = Arc::clone(self);
        let hash = move |call: &mut Call<'_>| {
            let mut buffer = Buffer::new(CHUNK);
            for chunk in 0..end.div_ceil(CHUNK as u64) {
                let wanted = (end - chunk * CHUNK as u64).min(CHUNK as u64);
                let content = this.compare_chunk(chunk, end, &mut buffer)?;
                hasher.update(&content[..wanted as usize]);
                call.goes_on();
            }
            Ok(hasher)
        };
        flatten(blocking::read(&self.calls, hash).await)
    }

    /// Brings the checksums of the chunks that have bytes from `offset` up to `end` into memory: on a blocking thread,
    /// where they are not there.
    async fn fetch_checksums(&self, offset: u64, end: u64) -> Result<(), Damage> {
        let chunks = offset / CHUNK as u64..end.div_ceil(CHUNK as u64);
        if self.checksums.are_at_hand(&chunks) {
            return Ok(());
        }
        let checksums = Arc::clone(&self.checksums);
        let fetch = move |_: &mut Call<'_>| {
            checksums.fetch(&chunks);
            Ok(())
        };
        flatten(blocking::read(&self.calls, fetch).await)
    }

    /// Compares every chunk that has bytes from `offset` up to `end`: in place as long as they are in the page cache,
    /// and the rest on a blocking thread. What is in `recent` is left out; of a chunk that has grown since, what has
    /// come to it is compared. Returns when the oldest of the comparisons began.
    async fn compare(
        self: &Arc<Self>,
        offset: u64,
        end: u64,
        recent: Option<&RecentComparisons>,
    ) -> Result<Instant, Damage> {
        let mut chunks = offset / CHUNK as u64..end.div_ceil(CHUNK as u64);
        let now = Instant::now();
        let mut oldest = now;
        let mut buffer = Buffer::new(CHUNK);
        while let Some(chunk) = chunks.next() {
            let start = chunk * CHUNK as u64;
            let needed = (end - start).min(CHUNK as u64) as usize;
            let nothing = ComparedBytes { len: 0, checksum: 0, at: now };
            let before = recent.and_then(|recent| recent.of(chunk)).unwrap_or(nothing);
            oldest = oldest.min(before.at);
            if before.len >= needed {
                continue;
            }
            let (len, checksum) = self.expected(chunk, end)?;
            let content = &mut buffer.bytes()[before.len..len];
            #[cfg(test)]
            let is_held = self.calls.reads_are_held();
            #[cfg(not(test))]
            let is_held = false;
            let cached =
                if is_held { Ok(0) } else { read_cached(&self.file, start + before.len as u64, content) };
            if cached.map_err(|e| Damage::unreadable(start, &e))? < content.len() {
                let this = Arc::clone(self);
                let rest = move |call: &mut Call<'_>| {
                    (chunk..chunks.end).try_for_each(|chunk| {
                        call.goes_on();
                        this.compare_chunk(chunk, end, &mut buffer).map(drop)
                    })
                };
                return flatten(blocking::read(&self.calls, rest).await).map(|()| oldest);
            }
            if crc32c::crc32c_append(before.checksum, content) != checksum {
                return Err(Damage::wrong(start));
            }
            let compared = ComparedBytes { len, checksum, at: before.at };
            recent.iter().for_each(|recent| recent.note(chunk, compared));
        }
        Ok(oldest)
    }

    /// Reads and compares one chunk, which must reach up to `end` if `end` is in it. Blocks.
    fn compare_chunk<'a>(&self, chunk: u64, end: u64, buffer: &'a mut Buffer) -> Result<&'a [u8], Damage> {
        let start = chunk * CHUNK as u64;
        let (len, checksum) = self.expected(chunk, end)?;
        let content = &mut buffer.bytes()[..len];
        self.file.read_exact_at(content, start).map_err(|e| Damage::unreadable(start, &e))?;
        if crc32c::crc32c(content) == checksum { Ok(content) } else { Err(Damage::wrong(start)) }
    }

    /// How many bytes of a chunk there are and their checksum; they must reach up to `end` if `end` is in the chunk.
    fn expected(&self, chunk: u64, end: u64) -> Result<(usize, u32), Damage> {
        let start = chunk * CHUNK as u64;
        let needed = end.saturating_sub(start).min(CHUNK as u64);
        let expected = self.checksums.expected(chunk).filter(|(len, _)| *len as u64 >= needed);
        expected.ok_or_else(|| Damage::of(format!("no checksum of the bytes up to {end}")))
    }
}

impl<C: ChunkChecksums + 'static> IntegrityCheck for CheckedFile<C> {
    fn compare_again(self: Arc<Self>, offset: u64, end: u64) -> Compared {
        Box::pin(async move {
            let this = Arc::clone(&self);
            let compare = move |call: &mut Call<'_>| {
                let mut buffer = Buffer::new(CHUNK);
                let mut found = Integrity::Intact;
                for chunk in offset / CHUNK as u64..end.div_ceil(CHUNK as u64) {
                    call.goes_on();
                    match this.compare_chunk(chunk, end, &mut buffer) {
                        Ok(_) => {}
                        Err(Damage { found: Integrity::Wrong, .. }) => return Integrity::Wrong,
                        Err(damage) => found = damage.found,
                    }
                }
                found
            };
            match blocking::read(&self.calls, compare).await {
                Ok(found) => found,
                Err(Error::Hangs) => Integrity::Unreadable,
                Err(_) => Integrity::Wrong,
            }
        })
    }

    fn known(self: Arc<Self>, offset: u64, end: u64) -> Known {
        Box::pin(async move {
            let chunks = offset / CHUNK as u64..end.div_ceil(CHUNK as u64);
            if self.checksums.are_at_hand(&chunks) {
                return self.known_now(offset, end);
            }
            let this = Arc::clone(&self);
            let known = move |_: &mut Call<'_>| this.known_now(offset, end);
            blocking::read(&self.calls, known).await.ok().flatten()
        })
    }

    fn with_intact(&self, offset: u64, end: u64, take: &mut dyn FnMut(&[u8])) -> Taken {
        let mut buffer = Buffer::new(CHUNK);
        let chunk = offset / CHUNK as u64;
        let start = chunk * CHUNK as u64;
        let end = end.min(start + CHUNK as u64);
        let Ok((len, checksum)) = self.expected(chunk, end) else { return Taken::Lost };
        let content = &mut buffer.bytes()[..len];
        match read_in_memory(&self.file, start, content) {
            Ok(true) if crc32c::crc32c(content) == checksum => {
                take(&content[(offset - start) as usize..(end - start) as usize]);
                Taken::Intact
            }
            Ok(false) => Taken::NotInMemory,
            Ok(true) | Err(_) => Taken::Lost,
        }
    }
}

impl<C: ChunkChecksums + 'static> CheckedFile<C> {
    /// Blocks where the checksums are on disk.
    fn known_now(&self, offset: u64, end: u64) -> Option<KnownBytes> {
        let numbers = offset / CHUNK as u64..end.div_ceil(CHUNK as u64);
        let chunks: Vec<_> =
            numbers.clone().map(|chunk| self.expected(chunk, end).ok()).collect::<Option<_>>()?;
        let start = numbers.start * CHUNK as u64;
        let len: usize = chunks.iter().map(|(len, _)| *len).sum();
        let is_equal = move |bytes: &[u8]| {
            let mut rest = bytes;
            let mut is_next = |len: usize, checksum: u32| {
                let Some((chunk, after)) = rest.split_at_checked(len) else { return false };
                rest = after;
                crc32c::crc32c(chunk) == checksum
            };
            chunks.iter().all(|(len, checksum)| is_next(*len, *checksum)) && bytes.len() == len
        };
        Some(KnownBytes { range: start..start + len as u64, is_equal: Box::new(is_equal) })
    }
}

fn flatten<T>(done: Result<Result<T, Damage>, Error>) -> Result<T, Damage> {
    done.unwrap_or_else(|error| {
        let damage = Damage::of(format!("{error} {}", error.cause()));
        Err(match error {
            Error::Hangs => Damage { found: Integrity::Unreadable, hangs: true, ..damage },
            _ => damage,
        })
    })
}
