//! What is withheld from readers until the digest is verified: the tail of every blob, and more of what a mirror
//! delivers.
//!
//! So no client ever receives a complete body that is wrong. A blob no larger than the tail is withheld whole: a wrong
//! one is an error before any header, and not a broken body.
//!
//! Bytes that were sent cannot be unsent, and a runtime that was sent wrong ones fails its pull, whatever follows. A
//! mirror is not the registry, which could still deliver the right content. So what a mirror delivers is withheld whole
//! until it is verified, up to [`MIRRORED_STORED`] bytes on the way into the store and [`MIRRORED_PASSED`] past the
//! disk, where it has to be in memory. A client that got nothing for six seconds is then given a little each second, so
//! that it does not take the download for dead: only that little may be wrong. A larger blob goes out as it comes, but
//! for its tail. The same holds for what the shared tier delivers, although the registry has confirmed its digest and
//! size: its bytes are as unverified, and a wrong object must cost a download and not the pulls of its readers. The six
//! seconds begin with the first byte: a node may have waited long for another one to write the object.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::source::delivery::Trail;

/// Bytes withheld.
pub(crate) const TAIL: u64 = 64 * 1024;

/// Bytes of a blob that is withheld whole while a mirror delivers it into the store: nearly every layer. Its clients
/// take it from the page cache afterwards, at a gigabyte a second; for a larger one that wait would be felt.
const MIRRORED_STORED: u64 = 256 * 1024 * 1024;
/// The same past the disk, as far as there is memory (`past_the_disk/memory`).
pub(crate) const MIRRORED_PASSED: u64 = 8 * 1024 * 1024;
/// How long clients of such a blob get nothing at all: CRI-O 1.29 to 1.31 ends a pull in which nothing came for ten
/// seconds, and asks nowhere else.
const MIRRORED_SILENCE: Duration = Duration::from_secs(6);
/// Bytes for each second after that.
const MIRRORED_RATE: u64 = 64 * 1024;

/// What is withheld of a blob while it arrives. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Withheld {
    size: Option<u64>,
    /// When the first byte was there.
    begun: Arc<OnceLock<Instant>>,
    /// Tells whether a mirror delivers some of it.
    trail: Trail,
    mirrored_max: u64,
    /// There is no memory to withhold more than the tail.
    is_tail_alone: bool,
}

impl Withheld {
    /// Of a blob of `size` bytes that begins to arrive for the store; `trail` records who delivers it.
    pub(crate) fn of(size: Option<u64>, trail: &Trail) -> Self {
        let (begun, trail, is_tail_alone) = (Arc::default(), trail.clone(), false);
        Self { size, begun, trail, mirrored_max: MIRRORED_STORED, is_tail_alone }
    }

    /// Of the same blob, which begins to arrive anew.
    pub(crate) fn anew(&self, trail: &Trail) -> Self {
        Self { begun: Arc::default(), trail: trail.clone(), ..self.clone() }
    }

    /// Of the same blob past the disk.
    pub(crate) fn past_the_disk(self) -> Self {
        Self { mirrored_max: MIRRORED_PASSED, ..self }
    }

    /// Bytes of the blob, where upstream said so.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether a mirror delivers some of it, so that its size is not the registry's word.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.trail.has_mirror()
    }

    /// How many bytes may be served when so many are there and the digest is not verified.
    pub(crate) fn readable(&self, written: u64) -> u64 {
        let readable = self.all_but_the_tail(written);
        if written == 0 || self.is_tail_alone {
            return readable;
        }
        let begun = self.begun.get_or_init(Instant::now);
        if !self.trail.has_unproved_bytes() || self.size.unwrap_or(written) > self.mirrored_max {
            return readable;
        }
        let given_out_for = begun.elapsed().saturating_sub(MIRRORED_SILENCE);
        readable.min(given_out_for.as_secs() * MIRRORED_RATE)
    }

    /// From now on the tail alone is withheld: there is no memory for more.
    pub(crate) fn withhold_tail_alone(&mut self) {
        self.is_tail_alone = true;
    }

    /// The same where nothing but the tail is withheld.
    pub(crate) fn all_but_the_tail(&self, written: u64) -> u64 {
        readable(written, self.size)
    }
}

/// How many bytes may be served when `written` of `size` are there and the digest is not verified.
fn readable(written: u64, size: Option<u64>) -> u64 {
    match size {
        Some(size) => written.min(size.saturating_sub(TAIL)),
        // Any of the last bytes may be the last one of the blob.
        None => written.saturating_sub(TAIL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::EndpointId;

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

    #[tokio::test(start_paused = true)]
    async fn what_a_mirror_delivers_is_withheld_whole_and_later_all_but_a_little() {
        let repository = "reg.test/app".parse().unwrap();
        for (size, is_withheld) in
            [(Some(MIRRORED_STORED), true), (Some(MIRRORED_STORED + 1), false), (None, true)]
        {
            let trail = Trail::default();
            let withheld = Withheld::of(size, &trail);
            // As long as another node writes the blob, and nothing comes.
            assert_eq!(withheld.readable(0), 0);
            tokio::time::advance(Duration::from_secs(600)).await;
            let (written, all) = (100 * TAIL, if size.is_some() { 100 * TAIL } else { 99 * TAIL });
            assert_eq!(withheld.readable(written), all, "the registry delivers it");
            // A mirror goes on with it.
            trail.record(&EndpointId::for_test("mirror"), &repository);
            let after = |given_out: u64| if is_withheld { given_out } else { all };
            assert_eq!(withheld.readable(written), after(0));
            tokio::time::advance(Duration::from_secs(6)).await;
            assert_eq!(withheld.readable(written), after(0));
            // CRI-O gives up after ten seconds without a byte, some of which are over when the first one comes.
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(withheld.readable(written), after(2 * MIRRORED_RATE));
            tokio::time::advance(Duration::from_secs(3_000)).await;
            assert_eq!(withheld.readable(written), all, "never the tail");
            let passed = withheld.past_the_disk();
            assert_eq!(passed.readable(written), all);
        }
    }
}
