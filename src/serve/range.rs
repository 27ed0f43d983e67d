//! Byte ranges (RFC 9110 §14): one range, several or none, as a pure function of the header and the size.

use std::ops::Range;

use http::HeaderMap;
use http::header::RANGE;

/// Ranges of one request at most. Lazy snapshotters ask for more in steps, after a 400 one by one.
const RANGES_MAX: usize = 64;

use crate::pull::BlobRange;

/// How a request for a range is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeAnswer {
    /// Everything, with 200.
    Whole,
    /// The bytes from `start` up to, not including, `end`, with 206.
    Range {
        /// The first byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// No bytes, with 416: none of the range exists.
    Unsatisfiable,
}

/// Decides for content of `size` bytes.
///
/// What is not exactly one well-formed `bytes` range is ignored, as the RFC permits; for several see [`several`]. Of
/// empty content the whole is sent: clients that put `bytes=0-` on every request expect it.
pub fn answer(header: Option<&str>, size: u64) -> RangeAnswer {
    let Some(range) = header.and_then(parse) else {
        return RangeAnswer::Whole;
    };
    if size == 0 {
        return RangeAnswer::Whole;
    }
    match range.within(size) {
        Some(Range { start, end }) => RangeAnswer::Range { start, end },
        None => RangeAnswer::Unsatisfiable,
    }
}

/// What a header asks for, before the size is known: what is ignored asks for the whole.
pub fn wanted(header: Option<&str>) -> BlobRange {
    match header.and_then(parse) {
        None => BlobRange::Whole,
        Some(Parsed::From(start)) => BlobRange::From(start),
        Some(Parsed::Last(count)) => BlobRange::Last(count),
        Some(Parsed::Between(start, last)) => BlobRange::Bytes { start, end: last.saturating_add(1) },
    }
}

/// Several ranges of one request.
#[derive(Debug, Clone)]
pub struct Several(Vec<Parsed>);

/// A request for several ranges that is not answered: a client then asks for single ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// Too many.
    #[error("at most {RANGES_MAX} ranges are answered at once")]
    TooMany,
    /// One of them is none. All of the content in their place would be a hundred times what was asked for.
    #[error("a malformed range")]
    Malformed,
}

/// The ranges of a header with several; `None` for any other.
///
/// # Errors
/// They are not answered.
pub fn several(header: &str) -> Result<Option<Several>, RangesError> {
    let Some(set) = set_of(header).filter(|set| set.contains(',')) else { return Ok(None) };
    let mut ranges = Vec::new();
    for range in set.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        if ranges.len() == RANGES_MAX {
            return Err(RangesError::TooMany);
        }
        ranges.push(parse_one(range).ok_or(RangesError::Malformed)?);
    }
    if ranges.is_empty() { Err(RangesError::Malformed) } else { Ok(Some(Several(ranges))) }
}

/// Whether the `Range` of a request for a blob is answered.
///
/// # Errors
/// It is not.
pub fn check(headers: &HeaderMap) -> Result<(), RangesError> {
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    range.map_or(Ok(()), |range| several(range).map(|_| ()))
}

impl Several {
    /// The first range by position, where it is known before the size is.
    pub fn first_bounded(&self) -> Option<Range<u64>> {
        let is_bounded = |range: &Parsed| matches!(range, Parsed::Between(..));
        let all_bounded = self.0.iter().all(is_bounded);
        all_bounded.then(|| self.parts(u64::MAX).into_iter().next())?
    }

    /// The parts of content of `size` bytes, in order, those that touch merged; none if no range has a byte of it.
    pub fn parts(&self, size: u64) -> Vec<Range<u64>> {
        let mut parts: Vec<Range<u64>> = self.0.iter().filter_map(|range| range.within(size)).collect();
        parts.sort_by_key(|part| (part.start, part.end));
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(parts.len());
        for part in parts {
            match merged.last_mut() {
                Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
                _ => merged.push(part),
            }
        }
        merged
    }
}

#[derive(Debug, Clone, Copy)]
enum Parsed {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

impl Parsed {
    /// The bytes that there are of it in content of `size` bytes.
    fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(start) => start..size,
            Self::Between(start, last) => start..last.saturating_add(1).min(size),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// What follows `bytes=`.
fn set_of(header: &str) -> Option<&str> {
    let (unit, set) = header.split_once('=')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(set)
}

fn parse(header: &str) -> Option<Parsed> {
    parse_one(set_of(header)?)
}

fn parse_one(range: &str) -> Option<Parsed> {
    let (start, last) = range.trim().split_once('-')?;
    match (start, last) {
        ("", last) => number(last).map(Parsed::Last),
        (start, "") => number(start).map(Parsed::From),
        (start, last) => {
            let (start, last) = (number(start)?, number(last)?);
            (start <= last).then_some(Parsed::Between(start, last))
        }
    }
}

/// A number too large for us is larger than any content.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_has_its_answer() {
        let range = |start, end| RangeAnswer::Range { start, end };
        for (header, expected) in [
            ("bytes=0-", range(0, 10)),
            ("bytes=0-0", range(0, 1)),
            ("bytes=3-5", range(3, 6)),
            ("bytes=3-99", range(3, 10)),
            ("bytes=9-", range(9, 10)),
            ("bytes=-1", range(9, 10)),
            ("bytes=-99", range(0, 10)),
            ("Bytes = 3-5", range(3, 6)),
            ("bytes=10-", RangeAnswer::Unsatisfiable),
            ("bytes=10-20", RangeAnswer::Unsatisfiable),
            ("bytes=-0", RangeAnswer::Unsatisfiable),
            ("bytes=99999999999999999999-", RangeAnswer::Unsatisfiable),
            ("bytes=0-99999999999999999999", range(0, 10)),
            ("bytes=5-2", RangeAnswer::Whole),
            ("bytes=0-1,3-4", RangeAnswer::Whole),
            ("bytes=", RangeAnswer::Whole),
            ("bytes=-", RangeAnswer::Whole),
            ("bytes=+1-2", RangeAnswer::Whole),
            ("bytes=1 - 2", RangeAnswer::Whole),
            ("bits=0-1", RangeAnswer::Whole),
            ("0-1", RangeAnswer::Whole),
        ] {
            assert_eq!(answer(Some(header), 10), expected, "{header}");
        }
        assert_eq!(answer(None, 10), RangeAnswer::Whole);
        assert_eq!(answer(Some("bytes=0-"), 0), RangeAnswer::Whole);
    }

    #[test]
    fn several_ranges_are_merged_where_they_touch_and_bounded_in_number() {
        let tuples = |parts: Vec<Range<u64>>| parts.into_iter().map(|part| (part.start, part.end)).collect();
        let parts = |header: &str| -> Result<Option<Vec<(u64, u64)>>, RangesError> {
            several(header).map(|ranges| ranges.map(|ranges| tuples(ranges.parts(100))))
        };
        for (header, expected) in [
            ("bytes=0-1,5-6", vec![(0, 2), (5, 7)]),
            ("bytes=5-6, 0-1", vec![(0, 2), (5, 7)]),
            ("bytes=0-1,2-3", vec![(0, 4)]),
            ("bytes=0-9,5-6,3-20", vec![(0, 21)]),
            ("bytes=0-1,200-300", vec![(0, 2)]),
            ("bytes=200-300,400-", vec![]),
            ("Bytes = 0-1 ,, 90-, -5", vec![(0, 2), (90, 100)]),
            ("bytes=0-0,-1", vec![(0, 1), (99, 100)]),
        ] {
            assert_eq!(parts(header), Ok(Some(expected)), "{header}");
        }
        for single in ["bytes=0-1", "bits=0-1,2-3", "bytes", ""] {
            assert_eq!(parts(single), Ok(None), "{single}");
        }
        for bad in ["bytes=0-1,5-2", "bytes=,", "bytes=0-1,x", "bytes=0-1,1-2-3"] {
            assert_eq!(parts(bad), Err(RangesError::Malformed), "{bad}");
        }
        let many = |count: usize| format!("bytes={}", vec!["0-1"; count].join(","));
        assert!(several(&many(RANGES_MAX)).unwrap().is_some());
        assert_eq!(parts(&many(RANGES_MAX + 1)), Err(RangesError::TooMany));
        let first = |header: &str| several(header).unwrap().unwrap().first_bounded();
        assert_eq!(first("bytes=50-60,0-1,2-3"), Some(0..4));
        assert_eq!(first("bytes=50-60,0-1,-3"), None, "which one is first depends on the size");
    }

    #[test]
    fn what_is_asked_for_is_known_before_the_size() {
        for (header, expected) in [
            (None, BlobRange::Whole),
            (Some("bytes=0-1,3-4"), BlobRange::Whole),
            (Some("bytes=0-"), BlobRange::From(0)),
            (Some("bytes=7-"), BlobRange::From(7)),
            (Some("bytes=-7"), BlobRange::Last(7)),
            (Some("bytes=3-7"), BlobRange::Bytes { start: 3, end: 8 }),
        ] {
            assert_eq!(wanted(header), expected, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_range_reaches_beyond_the_content(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in 0..u64::MAX) {
            if let RangeAnswer::Range { start, end } = answer(Some(&header), size) {
                prop_assert!(start < end && end <= size);
            }
        }
    }
}
