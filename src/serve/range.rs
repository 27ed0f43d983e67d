//! Byte ranges (RFC 9110 §14): one range or none, as a pure function of the header and the size.

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything, with 200.
    Whole,
    /// The bytes from `start` up to, not including, `end`, with 206.
    Range {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// 416: nothing of it exists.
    Unsatisfiable,
}

/// Decides for content of `size` bytes.
///
/// What is not exactly one well-formed `bytes` range is ignored, as the RFC permits; several ranges would only serve
/// to multiply work. Of empty content the whole is sent: clients that put `bytes=0-` on every request expect it.
pub fn part(header: Option<&str>, size: u64) -> Part {
    let Some(range) = header.and_then(parse) else {
        return Part::Whole;
    };
    if size == 0 {
        return Part::Whole;
    }
    match range {
        Parsed::From(start) | Parsed::Between(start, _) if start >= size => Part::Unsatisfiable,
        Parsed::From(start) => Part::Range { start, end: size },
        Parsed::Between(start, last) => Part::Range { start, end: last.saturating_add(1).min(size) },
        Parsed::Last(0) => Part::Unsatisfiable,
        Parsed::Last(count) => Part::Range { start: size.saturating_sub(count), end: size },
    }
}

/// The bytes that a header asks for by both ends: known before the size is.
pub fn between(header: &str) -> Option<(u64, u64)> {
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
        let range = |start, end| Part::Range { start, end };
        for (header, expected) in [
            ("bytes=0-", range(0, 10)),
            ("bytes=0-0", range(0, 1)),
            ("bytes=3-5", range(3, 6)),
            ("bytes=3-99", range(3, 10)),
            ("bytes=9-", range(9, 10)),
            ("bytes=-1", range(9, 10)),
            ("bytes=-99", range(0, 10)),
            ("Bytes = 3-5", range(3, 6)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=10-20", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=99999999999999999999-", Part::Unsatisfiable),
            ("bytes=0-99999999999999999999", range(0, 10)),
            ("bytes=5-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=1 - 2", Part::Whole),
            ("bits=0-1", Part::Whole),
            ("0-1", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 10), expected, "{header}");
        }
        assert_eq!(part(None, 10), Part::Whole);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Whole);
    }

    proptest! {
        #[test]
        fn no_range_leaves_the_content(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in 0..u64::MAX) {
            if let Part::Range { start, end } = part(Some(&header), size) {
                prop_assert!(start < end && end <= size);
            }
        }
    }
}
