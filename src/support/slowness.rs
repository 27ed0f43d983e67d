//! When a download is too slow to keep the place that it holds, which others want: it brings next to nothing, and
//! nothing excuses that. A pure decision from what has arrived.

use std::time::Duration;

use tokio::time::Instant;

/// Over each such time a download must bring [`LEAST_RATE`].
const PERIOD: Duration = Duration::from_secs(30);
/// Bytes a second. A slow line brings more; a registry that means to hold a place brings less.
pub(crate) const LEAST_RATE: u64 = 32 * 1024;
/// How often a download is looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Watches one download.
#[derive(Debug)]
pub(crate) struct SlownessWatch {
    since: Instant,
    bytes: u64,
}

impl SlownessWatch {
    /// A download that has brought nothing yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Takes in that `bytes` have come by `now`, and whether slowness is excused: a client waits, the download yields
    /// to others, or no other wants its place. Returns whether it is too slow.
    pub(crate) fn is_too_slow(&mut self, now: Instant, bytes: u64, is_excused: bool) -> bool {
        let brings_enough = bytes.saturating_sub(self.bytes) >= LEAST_RATE * PERIOD.as_secs();
        if is_excused || brings_enough {
            (self.since, self.bytes) = (now, bytes);
        }
        now.duration_since(self.since) >= PERIOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds a download that brings so much a second ends, watched each second for ten minutes.
    fn ends_after(rate: u64, is_excused: impl Fn(u64) -> bool) -> Option<u64> {
        let begun = Instant::now();
        let mut watch = SlownessWatch::new(begun);
        (1..600).find(|&second| {
            watch.is_too_slow(begun + Duration::from_secs(second), rate * second, is_excused(second))
        })
    }

    #[test]
    fn a_download_that_is_too_slow_and_not_excused_ends_within_a_minute_and_no_other_does() {
        assert_eq!(ends_after(1, |_| false), Some(30));
        assert_eq!(ends_after(LEAST_RATE / 2, |_| false), Some(30));
        assert_eq!(ends_after(LEAST_RATE, |_| false), None, "it brings enough");
        assert_eq!(ends_after(1, |_| true), None, "a client waits for it");
        assert_eq!(ends_after(1, |second| second <= 100), Some(130), "its client has left");
        assert_eq!(ends_after(1, |second| second % 20 == 0), None, "clients come and go");
    }
}
