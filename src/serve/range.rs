//! Byte ranges (RFC 9110 §14): one range or none, as a pure function of the header and the size.

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
/// What is not exactly one well-formed `bytes` range is ignored, as the RFC permits; several ranges would only serve
/// to multiply work. Of empty content the whole is sent: clients that put `bytes=0-` on every request expect it.
pub fn answer(header: Option<&str>, size: u64) -> RangeAnswer {
    let Some(range) = header.and_then(parse) else {
        return RangeAnswer::Whole;
    };
    if size == 0 {
        return RangeAnswer::Whole;
    }
    match range {
        Parsed::From(start) | Parsed::Between(start, _) if start >= size => RangeAnswer::Unsatisfiable,
        Parsed::From(start) => RangeAnswer::Range { start, end: size },
        Parsed::Between(start, last) => RangeAnswer::Range { start, end: last.saturating_add(1).min(size) },
        Parsed::Last(0) => RangeAnswer::Unsatisfiable,
        Parsed::Last(count) => RangeAnswer::Range { start: size.saturating_sub(count), end: size },
    }
}

/// The bytes of a header that gives both ends, from the first up to, not including, the last one plus one: such a range is
/// known before the size is.
pub fn bounded(header: &str) -> Option<(u64, u64)> {
    match parse(header)? {
        Parsed::Between(start, last) => Some((start, last.saturating_add(1))),
        Parsed::From(_) | Parsed::Last(_) => None,
    }
}

enum Parsed {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

fn parse(header: &str) -> Option<Parsed> {
    let (unit, range) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
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

    proptest! {
        #[test]
        fn no_range_reaches_beyond_the_content(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in 0..u64::MAX) {
            if let RangeAnswer::Range { start, end } = answer(Some(&header), size) {
                prop_assert!(start < end && end <= size);
            }
        }
    }
}
