//! CRC-32C, the checksum of a chunk.
//!
//! Computed with the widest carry-less multiplication that the processor has: where that is AVX-512, several times as
//! fast as the processor's own instruction for this checksum (`cargo bench --bench micro`). Every processor gives the
//! same value.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of `bytes`.
pub(in crate::store) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The checksum of the bytes whose checksum is `before`, followed by `bytes`.
pub(in crate::store) fn crc32c_append(before: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_files_of_earlier_versions_hold() {
        // RFC 3720, appendix B.4, and the check value of the catalogue of parametrised CRC algorithms.
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, sum) in [
            (&b""[..], 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
        ] {
            assert_eq!((crc32c(bytes), crc32c_append(0, bytes)), (sum, sum), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_come_in_parts_have_the_checksum_of_the_whole(len in 0..20_000usize, cut in 0..20_000usize, skip in 0..64usize) {
            let bytes: Vec<u8> = (0..len + skip).map(|n| (n * 31 % 253) as u8).collect();
            // At any place in memory: the wide instructions begin at the first aligned byte.
            let bytes = &bytes[skip..];
            let (first, rest) = bytes.split_at(cut.min(len));
            let whole = bitwise(bytes);
            prop_assert_eq!(crc32c(bytes), whole);
            prop_assert_eq!(crc32c_append(crc32c(first), rest), whole);
        }
    }

    /// As the definition has it, bit by bit.
    fn bitwise(bytes: &[u8]) -> u32 {
        let step = |sum: u32| (sum >> 1) ^ (if sum & 1 == 1 { 0x82f6_3b78 } else { 0 });
        !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
    }
}
