//! When bytes come too slowly: of a body that is being waited for, and of a download that holds a place which others
//! want. Pure decisions from what has arrived.

use std::time::Duration;

use tokio::time::Instant;

/// How fast bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    Enough,
    TooSlow,
}

/// The least that a body must bring while it is being waited for. The time for which its reader is slow does not count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateFloor {
    /// Over each such time of waiting so many bytes a second have to come.
    pub(crate) period: Duration,
    pub(crate) bytes_a_second: u64,
}

/// Bytes that came, and the time for which they were waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Throughput {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

impl Throughput {
    /// Adds a chunk.
    pub(crate) fn add(&mut self, bytes: u64, time: Duration) {
        self.bytes += bytes;
        self.time += time;
    }

    /// Judges what came in the period of `floor`. Where it was enough, another period begins.
    pub(crate) fn judge(&mut self, floor: &RateFloor) -> Speed {
        if self.time < floor.period {
            return Speed::Enough;
        }
        if self.bytes < floor.bytes_a_second * self.time.as_secs() {
            return Speed::TooSlow;
        }
        *self = Self::default();
        Speed::Enough
    }
}

/// Over each such time a download that holds a place must bring [`LEAST_RATE`], unless something excuses it.
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
    /// to others, or no other wants its place.
    pub(crate) fn judge(&mut self, now: Instant, bytes: u64, is_excused: bool) -> Speed {
        let brings_enough = bytes.saturating_sub(self.bytes) >= LEAST_RATE * PERIOD.as_secs();
        if is_excused || brings_enough {
            (self.since, self.bytes) = (now, bytes);
        }
        if now.duration_since(self.since) >= PERIOD { Speed::TooSlow } else { Speed::Enough }
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
            let (now, bytes) = (begun + Duration::from_secs(second), rate * second);
            watch.judge(now, bytes, is_excused(second)) == Speed::TooSlow
        })
    }

    #[test]
    fn a_body_that_crawls_is_told_from_one_that_is_slow_for_a_moment() {
        let floor = RateFloor { period: Duration::from_secs(5), bytes_a_second: 100 };
        let mut waited = Throughput::default();
        let mut is_below = |bytes, millis| {
            waited.add(bytes, Duration::from_millis(millis));
            waited.judge(&floor) == Speed::TooSlow
        };
        assert!(!is_below(0, 4_999), "the period is not over");
        assert!(!is_below(500, 1), "it was enough for the whole of it");
        assert!(!is_below(10_000, 0), "what is there already was not waited for");
        assert!(!is_below(0, 5_000), "and counts for the next period");
        assert!(is_below(499, 5_000), "no period counts for another");
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
