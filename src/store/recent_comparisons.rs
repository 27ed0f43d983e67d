//! Which chunks of a file were compared a moment ago: those who read it at the same time share a comparison.
//!
//! A crowd of one blob reads the same chunks within milliseconds, and reading a chunk in order to compare it costs more
//! than sending it. A comparison counts for [`SHARED_FOR`]. When it was made goes with the bytes
//! (`FileRange::compared_at`), so that bytes which then wait for their client are compared again when they would be if
//! that reader had compared them itself: no byte leaves that was compared more than a second ago.
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
/// 24 KiB for each file that is read by several, less for a smaller one.
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
}

impl Default for RecentComparisons {
    fn default() -> Self {
        Self { begun: Instant::now(), places: Mutex::default() }
    }
}

impl RecentComparisons {
    /// When the first `len` bytes of a chunk were compared; `None` if that is longer ago than a comparison counts.
    pub(super) fn of(&self, chunk: u64, len: usize) -> Option<Instant> {
        let comparison = *self.places.lock().get(place(chunk))?;
        let at = self.begun + Duration::from_millis(comparison.at_ms.into());
        let is_of_chunk = u64::from(comparison.chunk) == chunk && comparison.len as usize >= len;
        (is_of_chunk && len > 0 && at.elapsed() <= SHARED_FOR).then_some(at)
    }

    /// The first `len` bytes of a chunk, at most all of it, were compared, and nothing of that began before `at`.
    pub(super) fn note(&self, chunk: u64, len: usize, at: Instant) {
        let at_ms = at.saturating_duration_since(self.begun).as_millis();
        // What does not fit in is not remembered: it is compared again.
        let (Ok(chunk), Ok(at_ms)) = (u32::try_from(chunk), u32::try_from(at_ms)) else { return };
        let (mut places, place) = (self.places.lock(), place(chunk.into()));
        if places.len() <= place {
            places.resize(place + 1, Comparison::default());
        }
        places[place] = Comparison { chunk, len: len.min(CHUNK) as u32, at_ms };
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
        assert_eq!(recent.of(0, 1), None);
        tokio::time::advance(Duration::from_millis(7)).await;
        let now = Instant::now();
        recent.note(3, 1_000, now);
        assert_eq!((recent.of(3, 1_000), recent.of(3, 1)), (Some(now), Some(now)));
        let others = [(3, 1_001), (3, CHUNK), (3, 0), (2, 1), (4, 1), (3 + REMEMBERED as u64, 1)];
        assert!(others.iter().all(|(chunk, len)| recent.of(*chunk, *len).is_none()));
        recent.note(3 + REMEMBERED as u64, CHUNK, now);
        assert_eq!((recent.of(3, 1), recent.of(3 + REMEMBERED as u64, CHUNK)), (None, Some(now)));
        tokio::time::advance(SHARED_FOR).await;
        assert_eq!(recent.of(3 + REMEMBERED as u64, CHUNK), Some(now));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(recent.of(3 + REMEMBERED as u64, CHUNK), None);
        recent.note(u64::MAX, 1, Instant::now());
        assert_eq!(recent.of(u64::MAX, 1), None);
    }
}
