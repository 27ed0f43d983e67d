//! The tail: the last bytes of a blob, withheld from readers until the digest is verified.
//!
//! So no client ever receives a complete body that is wrong. Of what a mirror delivers more is withheld: a blob of at most
//! 8 MiB whole, for at most ten seconds, because a runtime fails a pull for good if it was sent wrong bytes. A blob no larger than the tail is withheld whole: a wrong
//! one is an error before any header, and not a broken body.

use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::EndpointId;

/// Bytes withheld.
pub(crate) const TAIL: u64 = 64 * 1024;

/// Bytes of a blob that is withheld whole while a mirror delivers it: a runtime does not ask again for what it was sent
/// wrong, and a mirror is near.
const MIRRORED_WITHHELD: u64 = 8 * 1024 * 1024;
/// For how long; after that a runtime may take the download for dead.
const MIRRORED_WITHHELD_FOR: Duration = Duration::from_secs(10);

/// What is withheld of a blob while it arrives.
#[derive(Debug)]
pub(crate) struct Withheld {
    size: Option<u64>,
    /// Since when a mirror delivers it.
    mirrored_since: Option<Instant>,
}

impl Withheld {
    /// Of a blob of `size` bytes that `endpoint` begins to deliver.
    pub(crate) fn of(size: Option<u64>, endpoint: Option<&EndpointId>) -> Self {
        let is_mirror = endpoint.is_some_and(|endpoint| !endpoint.is_authoritative());
        Self { size, mirrored_since: is_mirror.then(Instant::now) }
    }

    /// Bytes of the blob, where upstream said so.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// How many bytes may be served when so many are there and the digest is not verified.
    pub(crate) fn readable(&self, written: u64) -> u64 {
        match self.mirrored_since {
            None => readable(written, self.size),
            Some(since) => readable_of_mirrored(written, self.size, since.elapsed()),
        }
    }
}

fn readable_of_mirrored(written: u64, size: Option<u64>, elapsed: Duration) -> u64 {
    if size.unwrap_or(written) <= MIRRORED_WITHHELD && elapsed < MIRRORED_WITHHELD_FOR {
        return 0;
    }
    readable(written, size)
}

/// How many bytes may be served when `written` of `size` are there and the digest is not verified.
pub(super) fn readable(written: u64, size: Option<u64>) -> u64 {
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

    #[test]
    fn what_a_mirror_delivers_is_withheld_whole_if_it_is_small_and_not_for_ever() {
        let (soon, late) = (Duration::from_secs(1), MIRRORED_WITHHELD_FOR);
        let half = MIRRORED_WITHHELD / 2;
        for size in [Some(MIRRORED_WITHHELD), None] {
            assert_eq!(readable_of_mirrored(half, size, soon), 0, "{size:?}");
            assert_eq!(readable_of_mirrored(half, size, late), readable(half, size), "{size:?}");
        }
        let large = Some(MIRRORED_WITHHELD + 1);
        assert_eq!(readable_of_mirrored(half, large, soon), half);
        assert_eq!(readable_of_mirrored(2 * half + 1, None, soon), 2 * half + 1 - TAIL);
    }
}
