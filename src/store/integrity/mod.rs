//! Checksums of a blob, one per chunk, so that every byte is checked when it is served without hashing the whole blob.
//!
//! File format, little endian: `LDRCHK1\n`, chunk size (u32), blob size (u64), one CRC-32C per chunk (u32 each), and
//! the CRC-32C of everything before (u32). The checksums are computed in the same pass as the SHA-256. A checksum file
//! that is missing or fails its own check is made again, after the blob has been hashed again.
//!
//! A blob that is still being received has checksums too ([`ChecksumsBuilder`]): of each whole chunk, and of the part
//! of the last one that is there.

pub(super) mod crc32c;

use std::ops::Range;

use parking_lot::Mutex;

/// Bytes of a chunk, and of one read: a chunk is checked in the memory that is then sent.
pub(super) const CHUNK: usize = 64 * 1024;
const MAGIC: &[u8; 8] = b"LDRCHK1\n";
/// Bytes before the first checksum of the file.
pub(super) const HEADER: usize = MAGIC.len() + 4 + 8;

/// What the bytes of a file must be, chunk by chunk.
pub(super) trait ChunkChecksums: Send + Sync {
    /// How many bytes of chunk number `chunk` are there, and their CRC-32C; `None` if there are none.
    fn expected(&self, chunk: u64) -> Option<(usize, u32)>;

    /// Whether [`Self::expected`] asks no disk about these chunks.
    fn are_at_hand(&self, _chunks: &Range<u64>) -> bool {
        true
    }

    /// Brings the checksums of these chunks into memory, as far as the disk gives them. Blocks.
    fn fetch(&self, _chunks: &Range<u64>) {}
}

/// Bytes of the blob whose checksum file begins so; `None` if it is of another format.
pub(super) fn blob_size(header: &[u8; HEADER]) -> Option<u64> {
    let (chunk, size) = header.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let size = u64::from_le_bytes(size.try_into().ok()?);
    (u32::from_le_bytes(*chunk) as usize == CHUNK).then_some(size)
}

/// Bytes of the checksum file of a blob of `size` bytes; `None` if there is no such file.
pub(super) fn file_bytes(size: u64) -> Option<u64> {
    size.div_ceil(CHUNK as u64).checked_mul(4)?.checked_add(HEADER as u64 + 4)
}

/// The checksums of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksums {
    size: u64,
    chunks: Vec<u32>,
}

impl Checksums {
    /// Bytes of the blob.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that they take in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.chunks.len() as u64 * 4
    }

    /// The content of the checksum file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.chunks.len() * 4 + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(CHUNK as u32).to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        for chunk in &self.chunks {
            out.extend_from_slice(&chunk.to_le_bytes());
        }
        let own = crc32c::crc32c(&out);
        out.extend_from_slice(&own.to_le_bytes());
        out
    }

    /// Reads the content of a checksum file; `None` if it is damaged or of another format.
    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let (body, own) = content.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*own) {
            return None;
        }
        let (header, rest) = body.split_first_chunk::<HEADER>()?;
        let size = blob_size(header)?;
        if file_bytes(size)? != content.len() as u64 {
            return None;
        }
        let chunks = rest.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        Some(Self { size, chunks })
    }
}

impl ChunkChecksums for Checksums {
    fn expected(&self, chunk: u64) -> Option<(usize, u32)> {
        let checksum = *self.chunks.get(usize::try_from(chunk).ok()?)?;
        let len = self.size.saturating_sub(chunk * CHUNK as u64).min(CHUNK as u64);
        Some((len as usize, checksum))
    }
}

/// Computes the checksums of content as it arrives.
#[derive(Debug, Clone, Default)]
pub(super) struct ChecksumsBuilder {
    end: End,
    chunks: Vec<u32>,
}

/// Where content ends so far, and the checksum of what there is of its last chunk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct End {
    size: u64,
    running: u32,
}

/// The next bytes of content, as far as its checksums are concerned.
#[derive(Debug)]
pub(super) struct NextBytes {
    chunks: Vec<u32>,
    end: End,
}

impl End {
    /// The next bytes after it, in order and of any length.
    pub(super) fn followed_by(mut self, mut bytes: &[u8]) -> NextBytes {
        let mut chunks = Vec::with_capacity(bytes.len() / CHUNK + 1);
        while !bytes.is_empty() {
            let filled = (self.size % CHUNK as u64) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - filled));
            self.running = crc32c::crc32c_append(self.running, now);
            self.size += now.len() as u64;
            if filled + now.len() == CHUNK {
                chunks.push(std::mem::take(&mut self.running));
            }
            bytes = later;
        }
        NextBytes { chunks, end: self }
    }
}

impl ChecksumsBuilder {
    /// The next bytes, in order and of any length.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.add(self.end.followed_by(bytes));
    }

    /// Where the content ends so far.
    pub(super) fn end(&self) -> End {
        self.end
    }

    /// Adds what follows that end.
    pub(super) fn add(&mut self, next: NextBytes) {
        self.chunks.extend(next.chunks);
        self.end = next.end;
    }

    /// Bytes so far.
    pub(super) fn size(&self) -> u64 {
        self.end.size
    }

    pub(super) fn finish(mut self) -> Checksums {
        if !self.end.size.is_multiple_of(CHUNK as u64) {
            self.chunks.push(self.end.running);
        }
        Checksums { size: self.end.size, chunks: self.chunks }
    }
}

impl ChunkChecksums for Mutex<ChecksumsBuilder> {
    fn expected(&self, chunk: u64) -> Option<(usize, u32)> {
        let builder = self.lock();
        if let Some(whole) = builder.chunks.get(usize::try_from(chunk).ok()?) {
            return Some((CHUNK, *whole));
        }
        let End { size, running } = builder.end;
        let len = (size % CHUNK as u64) as usize;
        (chunk == builder.chunks.len() as u64 && len > 0).then_some((len, running))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Checksums {
        let mut builder = ChecksumsBuilder::default();
        builder.update(bytes);
        builder.finish()
    }

    proptest! {
        #[test]
        fn however_the_bytes_arrive_each_chunk_has_its_own_checksum(len in 0..4 * CHUNK, step in 1..100_000usize) {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 7 % 251) as u8).collect();
            let mut builder = ChecksumsBuilder::default();
            bytes.chunks(step).for_each(|slice| builder.update(slice));
            let checksums = builder.finish();
            prop_assert_eq!(&checksums, &of(&bytes));
            for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
                let expected = Some((chunk.len(), crc32c::crc32c(chunk)));
                prop_assert_eq!(checksums.expected(number as u64), expected);
            }
            prop_assert_eq!(checksums.expected(bytes.len().div_ceil(CHUNK) as u64), None);
            prop_assert_eq!(Checksums::decode(&checksums.encode()), Some(checksums));
        }

        #[test]
        fn no_flipped_bit_of_the_file_goes_unnoticed(bit in 0..(HEADER + 3 * 4 + 4) * 8) {
            let mut content = of(&vec![5; 3 * CHUNK - 1]).encode();
            content[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Checksums::decode(&content), None);
        }
    }

    #[test]
    fn what_has_arrived_of_a_chunk_has_a_checksum_before_the_rest_is_there() {
        let bytes: Vec<u8> = (0..2 * CHUNK).map(|n| (n % 251) as u8).collect();
        let growing = Mutex::new(ChecksumsBuilder::default());
        assert_eq!(growing.expected(0), None);
        for len in [1, 100, CHUNK - 1, CHUNK, CHUNK + 7, 2 * CHUNK] {
            let arrived = growing.lock().size() as usize;
            growing.lock().update(&bytes[arrived..len]);
            let (last, start) = ((len - 1) / CHUNK, (len - 1) / CHUNK * CHUNK);
            let expected = Some((len - start, crc32c::crc32c(&bytes[start..len])));
            assert_eq!(growing.expected(last as u64), expected, "{len}");
            assert_eq!(growing.expected(last as u64 + 1), None, "{len}");
        }
        assert_eq!(growing.expected(0), Some((CHUNK, crc32c::crc32c(&bytes[..CHUNK]))));
    }
}
