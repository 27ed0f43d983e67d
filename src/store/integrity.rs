//! Checksums of a blob, one per chunk, so that every byte can be checked on its way out without hashing it all.
//!
//! File format, little endian: `LDRCHK1\n`, chunk size (u32), blob size (u64), one CRC-32C per chunk (u32 each),
//! CRC-32C of everything before (u32). They are computed in the same pass as the SHA-256. A checksum file that is
//! missing or fails its own check is made anew, after the blob has been hashed again.

/// Bytes a chunk: also what one read takes, so a chunk is checked in the memory that is then sent.
pub(crate) const CHUNK: usize = 64 * 1024;
const MAGIC: &[u8; 8] = b"LDRCHK1\n";
const HEADER: usize = MAGIC.len() + 4 + 8;

/// The checksums of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checks {
    size: u64,
    chunks: Vec<u32>,
}

impl Checks {
    /// Bytes of the blob.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where chunk number `at` begins, and its bytes.
    pub(crate) fn place_of(&self, at: u64) -> (u64, usize) {
        let start = at * CHUNK as u64;
        (start, self.size.saturating_sub(start).min(CHUNK as u64) as usize)
    }

    /// Whether `bytes` are chunk number `at`.
    pub(crate) fn hold(&self, at: u64, bytes: &[u8]) -> bool {
        usize::try_from(at).ok().and_then(|at| self.chunks.get(at)) == Some(&crc32c::crc32c(bytes))
    }

    /// The file's content.
    pub(crate) fn encode(&self) -> Vec<u8> {
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

    /// Reads a file's content; `None` if it is not whole or of another kind.
    pub(crate) fn decode(content: &[u8]) -> Option<Self> {
        let (body, own) = content.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*own) {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let (chunk, rest) = rest.split_first_chunk::<4>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let size = u64::from_le_bytes(*size);
        let expected = usize::try_from(size.div_ceil(CHUNK as u64)).ok()?;
        if u32::from_le_bytes(*chunk) as usize != CHUNK || rest.len() != expected.checked_mul(4)? {
            return None;
        }
        let chunks = rest.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        Some(Self { size, chunks })
    }
}

/// Computes checksums as bytes go by.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    size: u64,
    chunks: Vec<u32>,
    running: u32,
}

impl Builder {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = (self.size % CHUNK as u64) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - filled));
            self.running = crc32c::crc32c_append(self.running, now);
            self.size += now.len() as u64;
            if filled + now.len() == CHUNK {
                self.chunks.push(std::mem::take(&mut self.running));
            }
            bytes = later;
        }
    }

    pub(crate) fn finish(mut self) -> Checks {
        if !self.size.is_multiple_of(CHUNK as u64) {
            self.chunks.push(self.running);
        }
        Checks { size: self.size, chunks: self.chunks }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Checks {
        let mut builder = Builder::default();
        builder.update(bytes);
        builder.finish()
    }

    proptest! {
        #[test]
        fn however_the_bytes_arrive_each_chunk_has_its_own_checksum(len in 0..4 * CHUNK, step in 1..100_000usize) {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 7 % 251) as u8).collect();
            let mut builder = Builder::default();
            bytes.chunks(step).for_each(|part| builder.update(part));
            let checks = builder.finish();
            prop_assert_eq!(&checks, &of(&bytes));
            for (at, chunk) in bytes.chunks(CHUNK).enumerate() {
                prop_assert!(checks.hold(at as u64, chunk));
            }
            prop_assert_eq!(Checks::decode(&checks.encode()), Some(checks));
        }

        #[test]
        fn no_flipped_bit_of_the_file_goes_unnoticed(bit in 0..(HEADER + 3 * 4 + 4) * 8) {
            let mut content = of(&vec![5; 3 * CHUNK - 1]).encode();
            content[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Checks::decode(&content), None);
        }
    }

    #[test]
    fn a_flipped_byte_fails_its_chunk_and_no_other() {
        let mut bytes = vec![1; 2 * CHUNK];
        let checks = of(&bytes);
        bytes[CHUNK + 5] ^= 1;
        assert!(checks.hold(0, &bytes[..CHUNK]));
        assert!(!checks.hold(1, &bytes[CHUNK..]));
        assert!(!checks.hold(2, b""));
    }
}
