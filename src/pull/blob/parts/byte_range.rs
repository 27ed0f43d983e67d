//! What a request wants of a blob, and whether that is fetched alone: pure decisions.
//!
//! A small part of a blob that is clearly larger costs that part and no more, as long as only a small part of the blob
//! has been read like that: who reads more of it reads all of it. What covers the whole blob is the whole: it is
//! shared, verified and stored like any other. Without room in the store every part is fetched alone.

/// Bytes of a part that may be fetched alone where there is room for the blob.
const PART_MAX: u64 = 1024 * 1024;
/// One of so many parts of a blob may be read before it is downloaded as a whole.
const PARTS_OF_BLOB: u64 = 4;

/// How much of a blob a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobRange {
    /// All of it.
    Whole,
    /// The bytes from this one on.
    From(u64),
    /// So many bytes at the end.
    Last(u64),
    /// The bytes from `start` up to, not including, `end`, as far as there are any.
    Bytes {
        /// The first byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
}

/// What upstream is asked for to get a part of a blob alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The bytes from `from` up to, not including, `until`, or to the end.
    Bytes { from: u64, until: Option<u64> },
    /// Nothing before its size is known: without that it cannot be said which bytes are the last ones.
    NeedsSize,
}

impl BlobRange {
    /// Whether it is all of a blob that has `size` bytes, as far as that is known.
    pub(crate) fn is_whole(self, size: Option<u64>) -> bool {
        match self {
            Self::Whole | Self::From(0) => true,
            Self::From(_) => false,
            Self::Last(count) => size.is_some_and(|size| count >= size),
            Self::Bytes { start, end } => start == 0 && size.is_some_and(|size| end >= size),
        }
    }

    /// The same as bytes of a blob of `size` bytes, as far as there are any.
    pub(crate) fn of(self, size: u64) -> Self {
        let start = match self {
            Self::From(start) => start,
            Self::Last(count) => size.saturating_sub(count),
            Self::Whole | Self::Bytes { .. } => return self,
        };
        if start < size { Self::Bytes { start, end: size } } else { self }
    }

    /// How many bytes it has of a blob of `size` bytes; `None` if that cannot be said.
    fn len(self, size: Option<u64>) -> Option<u64> {
        let wanted = match self {
            Self::Whole => return size,
            Self::From(start) => return size.map(|size| size.saturating_sub(start)),
            Self::Last(count) => count,
            Self::Bytes { start, end } => end.saturating_sub(start),
        };
        Some(size.map_or(wanted, |size| wanted.min(size)))
    }

    /// What upstream is asked for if it is fetched alone; `None` if it is not. `size` is what the manifest says, `read`
    /// how many bytes of the blob were fetched alone before.
    pub(crate) fn alone(self, size: Option<u64>, read: u64, has_room: bool) -> Option<Part> {
        if self.is_whole(size) || has_room && !self.is_small(size, read) {
            return None;
        }
        match (self, size) {
            (Self::Whole, _) => None,
            (Self::From(from), _) => Some(Part::Bytes { from, until: None }),
            (Self::Bytes { start, end }, _) => Some(Part::Bytes { from: start, until: Some(end) }),
            (Self::Last(count), Some(size)) => {
                Some(Part::Bytes { from: size.saturating_sub(count), until: Some(size) })
            }
            (Self::Last(_), None) => Some(Part::NeedsSize),
        }
    }

    /// Whether it is a small part of a blob, together with what was read before. Of a blob of unknown size it may be:
    /// the answer tells.
    pub(crate) fn is_small(self, size: Option<u64>, read: u64) -> bool {
        let Some(len) = self.len(size) else { return false };
        len <= PART_MAX && size.is_none_or(|size| len.saturating_add(read) <= size / PARTS_OF_BLOB)
    }
}

/// Whether so much of a blob of `size` bytes is kept of parts that a small part more makes it the whole.
pub(crate) fn is_much(kept: u64, size: u64) -> bool {
    kept.saturating_add(PART_MAX) > size / PARTS_OF_BLOB
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn bytes(start: u64, end: u64) -> BlobRange {
        BlobRange::Bytes { start, end }
    }

    #[test]
    fn a_range_that_covers_the_blob_is_the_whole_and_shares_its_download() {
        for (wanted, size) in [
            (BlobRange::Whole, None),
            (BlobRange::From(0), None),
            (BlobRange::From(0), Some(10)),
            (bytes(0, 10), Some(10)),
            (bytes(0, 99), Some(10)),
            (BlobRange::Last(10), Some(10)),
            (BlobRange::Last(99), Some(10)),
        ] {
            for has_room in [false, true] {
                assert_eq!(wanted.alone(size, 0, has_room), None, "{wanted:?}");
            }
        }
        for wanted in [BlobRange::From(1), bytes(0, 9), bytes(1, 10), BlobRange::Last(9)] {
            assert!(!wanted.is_whole(Some(10)) && wanted.alone(Some(10), 0, false).is_some(), "{wanted:?}");
        }
        assert!(!bytes(0, 10).is_whole(None));
    }

    #[test]
    fn a_small_part_of_any_clearly_larger_blob_comes_alone_until_much_of_it_was_read() {
        let part = |from, until| Some(Part::Bytes { from, until });
        let small = bytes(100, 4_196);
        assert_eq!(small.alone(Some(300_000), 0, true), part(100, Some(4_196)));
        assert_eq!(small.alone(Some(16_384), 0, true), part(100, Some(4_196)));
        assert_eq!(small.alone(Some(16_383), 0, true), None, "not clearly larger");
        assert_eq!(small.alone(None, 0, true), part(100, Some(4_196)), "the answer tells the size");
        assert_eq!(small.alone(Some(MIB), MIB / 4 - 4_096, true), part(100, Some(4_196)));
        assert_eq!(small.alone(Some(MIB), MIB / 4, true), None, "much of it was read");
        assert_eq!(bytes(0, MIB + 1).alone(Some(1_000 * MIB), 0, true), None, "not small");
        assert_eq!(bytes(0, MIB).alone(Some(1_000 * MIB), 0, true), part(0, Some(MIB)));
    }

    #[test]
    fn a_blob_of_which_much_is_kept_is_one_whose_next_small_part_may_be_fetched_as_the_whole() {
        let size = 100 * MIB;
        assert!(!is_much(0, size) && !is_much(4_096, size) && !is_much(24 * MIB, size));
        assert!(is_much(24 * MIB + 1, size) && is_much(u64::MAX, size));
        assert!(bytes(0, MIB).alone(Some(size), 24 * MIB, true).is_some(), "no whole before that");
    }

    #[test]
    fn suffixes_and_open_ranges_are_those_of_the_declared_size() {
        let part = |from, until| Some(Part::Bytes { from, until });
        assert_eq!(BlobRange::Last(100).alone(Some(1_000), 0, true), part(900, Some(1_000)));
        assert_eq!(BlobRange::From(900).alone(Some(1_000), 0, true), part(900, None));
        assert_eq!(BlobRange::From(100).alone(Some(1_000), 0, true), None);
        assert_eq!(BlobRange::From(900).alone(None, 0, true), None, "it may be long");
        assert_eq!(BlobRange::Last(MIB + 1).alone(None, 0, true), None, "not small");
        for has_room in [false, true] {
            assert_eq!(
                BlobRange::Last(100).alone(None, 0, has_room),
                Some(Part::NeedsSize),
                "the last of how many?"
            );
        }
        assert_eq!(BlobRange::Last(100).of(1_000), bytes(900, 1_000));
        assert_eq!(BlobRange::Last(2_000).of(1_000), bytes(0, 1_000));
        assert_eq!(BlobRange::From(900).of(1_000), bytes(900, 1_000));
        for other in [BlobRange::From(1_000), BlobRange::Last(0), BlobRange::Whole, bytes(1, 9_999)] {
            assert_eq!(other.of(1_000), other);
        }
    }

    #[test]
    fn without_room_every_part_is_asked_for_alone_in_one_request_where_it_can_be() {
        let part = |from, until| Some(Part::Bytes { from, until });
        assert_eq!(BlobRange::From(1).alone(None, 0, false), part(1, None));
        assert_eq!(bytes(0, 900).alone(Some(1_000), 5_000, false), part(0, Some(900)));
        assert_eq!(BlobRange::Last(5).alone(Some(1_000), 0, false), part(995, Some(1_000)));
        assert_eq!(BlobRange::Last(2 * MIB).alone(None, 0, false), Some(Part::NeedsSize));
    }
}
