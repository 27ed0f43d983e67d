//! The tail: the last bytes of a blob, withheld from readers until the digest is verified.
//!
//! So no client ever receives a complete body that is wrong. A blob no larger than the tail is withheld whole: a wrong
//! one is an error before any header, and not a broken body.

/// Bytes withheld.
pub(crate) const TAIL: u64 = 64 * 1024;

/// How many bytes may be served when `written` of `size` are there and the digest is not verified.
pub(crate) fn readable(written: u64, size: Option<u64>) -> u64 {
    match size {
        Some(size) => written.min(size.saturating_sub(TAIL)),
        // Any of the last bytes may be the last one of the blob.
        None => written.saturating_sub(TAIL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_never_readable_before_the_digest_is_verified() {
        for size in [0, 1, TAIL - 1, TAIL, TAIL + 1, 10 * TAIL] {
            for written in [0, 1, TAIL, size] {
                let written = written.min(size);
                assert!(readable(written, Some(size)) <= size.saturating_sub(TAIL));
                assert!(readable(written, None) <= written.saturating_sub(TAIL));
            }
        }
        assert_eq!(readable(9 * TAIL, Some(10 * TAIL)), 9 * TAIL);
    }
}
