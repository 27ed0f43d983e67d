//! Whether a download is fast enough to fill the line of a node, measured as often as it is asked: a pure decision.

use std::time::Duration;

use tokio::time::Instant;

/// Over each such time it is measured; one that has just begun counts as fast.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes a second. What is slower is slow by itself: all that is fetched ahead together may take 2.6 MB/s beside it.
const FILLS_THE_LINE: f64 = 1e6;

/// Measures one download.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: u64,
    is_fast: bool,
}

impl Pace {
    /// One that has begun at `now`.
    pub(super) fn from(now: Instant) -> Self {
        Self { since: now, bytes: 0, is_fast: true }
    }

    /// Takes in that `bytes` have come by `now`; returns whether it was fast when it was measured last.
    pub(super) fn measure(&mut self, now: Instant, bytes: u64) -> bool {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= PERIOD {
            self.is_fast = bytes.saturating_sub(self.bytes) as f64 / elapsed.as_secs_f64() >= FILLS_THE_LINE;
            (self.since, self.bytes) = (now, bytes);
        }
        self.is_fast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_as_fast_as_its_last_second() {
        let begun = Instant::now();
        let mut pace = Pace::from(begun);
        let mut at = |millis: u64, bytes| pace.measure(begun + Duration::from_millis(millis), bytes);
        assert!(at(999, 0), "it has just begun");
        assert!(!at(1_000, 900_000) && !at(1_500, 5_000_000), "it is measured over a second");
        assert!(at(2_000, 5_000_000) && at(2_900, 5_000_000));
        assert!(!at(4_000, 5_000_000), "nothing has come since");
    }
}
