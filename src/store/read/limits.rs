//! What reading a blob may keep in memory, and for how long it may hash. A value and no constants, so that tests have
//! slices, large blobs and full memory with little content.

const MIB: u64 = 1024 * 1024;

/// What reading a blob may keep in memory, and for how long it may hash.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct ReadLimits {
    /// Bytes of a file of checksums that is read as a whole. As many are kept in memory of a blob that is kept open.
    pub(in crate::store) whole_checksum_bytes: u64,
    /// Checksums of a slice, of a file that is larger.
    pub(in crate::store) slice_chunks: u64,
    /// Bytes of a blob without checksums that is hashed while its reader waits.
    pub(in crate::store) waited_for_bytes: u64,
    /// Bytes in memory of the checksums that could not be written, of all blobs that are kept open.
    pub(in crate::store) unwritten_checksum_bytes: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            // Those of a blob of 1 GiB.
            whole_checksum_bytes: 64 * 1024 + 64,
            // A page of the file, and 64 MiB of the blob.
            slice_chunks: 1_024,
            // About a second.
            waited_for_bytes: 256 * MIB,
            // Those of 256 GiB.
            unwritten_checksum_bytes: 16 * MIB,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::integrity::{CHUNK, file_bytes};

    #[test]
    fn checksums_take_no_more_memory_and_no_more_reads_than_is_promised() {
        let limits = ReadLimits::default();
        let gib = 1_024 * MIB;
        assert!(file_bytes(gib).unwrap() <= limits.whole_checksum_bytes, "a blob of 1 GiB has no slices");
        assert!(file_bytes(gib + MIB).unwrap() > limits.whole_checksum_bytes, "a larger one has");
        assert_eq!(limits.slice_chunks * 4, 4_096, "a page");
        assert_eq!(limits.slice_chunks * CHUNK as u64, 64 * MIB);
        assert_eq!(limits.unwritten_checksum_bytes / 4 * CHUNK as u64, 256 * gib);
    }
}
