//! Which chunks of a file were compared a moment ago: those who read it at the same time share a comparison.
//!
//! A crowd of one blob reads the same chunks within milliseconds, and reading a chunk in order to compare it costs more
//! than sending it. A comparison counts for [`SHARED_FOR`]. When it was made goes with the bytes
//! (`FileRange::compared_at`), so that bytes which then wait for their client are compared again when they would be if
//! that reader had compared them itself: no byte leaves that was compared more than a second ago.
//!
//! Of a chunk that grows between two readers, the later one compares what has come to it since: the checksum of what
//! was compared before is remembered with it.
//!
//! Deliberately not here: whether there is a crowd. The one reader of a stored blob compares all of it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::integrity::CHUNK;

/// How long a comparison counts for other readers. As long again passes before the bytes are compared again on their
/// way to a client that is slow.
const SHARED_FOR: Duration = Duration::from_millis(500);
/// Chunks whose last comparison is remembered, 128 MiB of content: what lies between the readers of a crowd. They take
/// 32 KiB for each file that is read by several, less for a smaller one.
const REMEMBERED: usize = 2_048;

/// The comparisons of one file. Empty, and without memory, until the first.
#[derive(Debug)]
pub struct RecentComparisons {
    begun: Instant,
    /// A chunk has one place, which chunks far from it have too.
    places: Mutex<Vec<Comparison>>,
}

/// The comparison of the first bytes of a chunk.
#[derive(Debug, Clone, Copy, Default)]
struct Comparison {
    chunk: u32,
    /// Bytes that were compared; 0 where there was no comparison.
    len: u32,
    /// Milliseconds after the beginning.
    at_ms: u32,
    /// Of those bytes.
    checksum: u32,
}

/// The first bytes of a chunk, as a reader has compared them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct ComparedBytes {
    pub(super) len: usize,
    pub(super) checksum: u32,
    /// When that began.
    pub(super) at: Instant,
}

impl Default for RecentComparisons {
    fn default() -> Self {
        Self { begun: Instant::now(), places: Mutex::default() }
    }
}

impl RecentComparisons {
    /// Which first bytes of a chunk were compared; `None` if that is longer ago than a comparison counts.
    pub(in crate::store) fn of(&self, chunk: u64) -> Option<ComparedBytes> {
        let Comparison { chunk: compared, len, at_ms, checksum } = *self.places.lock().get(place(chunk))?;
        let (at, len) = (self.begun + Duration::from_millis(at_ms.into()), len as usize);
        let counts = u64::from(compared) == chunk && len > 0 && at.elapsed() <= SHARED_FOR;
        counts.then_some(ComparedBytes { len, checksum, at })
    }

    /// The first bytes of a chunk, at most all of it, were compared, and nothing of that began before the time noted.
    pub(in crate::store) fn note(&self, chunk: u64, compared: ComparedBytes) {
        let ComparedBytes { len, checksum, at } = compared;
        let at_ms = at.saturating_duration_since(self.begun).as_millis();
        // What does not fit in is not remembered: it is compared again.
        let (Ok(chunk), Ok(at_ms)) = (u32::try_from(chunk), u32::try_from(at_ms)) else { return };
        let (mut places, place) = (self.places.lock(), place(chunk.into()));
        if places.len() <= place {
            places.resize(place + 1, Comparison::default());
        }
        places[place] = Comparison { chunk, len: len.min(CHUNK) as u32, at_ms, checksum };
    }
}

fn place(chunk: u64) -> usize {
    (chunk % REMEMBERED as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_comparison_counts_for_more_bytes_or_longer_than_it_may() {
        let recent = RecentComparisons::default();
        assert_eq!(recent.of(0), None);
        tokio::time::advance(Duration::from_millis(7)).await;
        let first = ComparedBytes { len: 1_000, checksum: 7, at: Instant::now() };
        recent.note(3, first);
        assert_eq!(recent.of(3), Some(first));
        let far = 3 + REMEMBERED as u64;
        assert!([2, 4, far].iter().all(|chunk| recent.of(*chunk).is_none()));
        let whole = ComparedBytes { len: CHUNK, ..first };
        recent.note(far, whole);
        assert_eq!((recent.of(3), recent.of(far)), (None, Some(whole)));
        tokio::time::advance(SHARED_FOR).await;
        assert_eq!(recent.of(far), Some(whole));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(recent.of(far), None);
        recent.note(u64::MAX, ComparedBytes { at: Instant::now(), ..first });
        assert_eq!(recent.of(u64::MAX), None);
    }
}
