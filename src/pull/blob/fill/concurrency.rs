//! How many upstream connections a blob is downloaded over: pure decisions from measured rates.

use std::time::Duration;

/// Bytes that one connection of a segmented download fetches at a time.
pub(crate) const SEGMENT: u64 = 4 * 1024 * 1024;
/// Connections for one blob at most.
pub(crate) const CONNECTIONS_MAX: usize = 6;
/// Rates are measured over this time.
pub(crate) const PERIOD: Duration = Duration::from_millis(500);
/// A blob with fewer bytes to come stays on one connection.
const REMAINING_MIN: u64 = 4 * SEGMENT;
/// Bytes a second from which on more connections bring nothing: what a gigabit link brings.
const NO_GAIN_ABOVE: f64 = 100e6;
/// Twice as many connections must bring this many times as much, or connections are not the bottleneck.
const GAIN: f64 = 1.4;

/// Whether one connection that brought `received` bytes in the time for which it was `waited` for is the bottleneck of
/// a blob with `remaining` bytes to come. The time that storing the bytes took does not count.
pub(crate) fn is_slow(received: u64, waited: Duration, remaining: u64) -> bool {
    let rate = received as f64 / waited.as_secs_f64();
    waited >= PERIOD
        && remaining >= REMAINING_MIN
        && rate < NO_GAIN_ABOVE
        && remaining as f64 / rate > 2.0 * PERIOD.as_secs_f64()
}

/// How many connections there are to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Concurrency {
    connections: usize,
    /// Bytes a second of half as many.
    rate: f64,
    settled: bool,
}

impl Concurrency {
    /// Two connections, after one that brought `rate` bytes a second.
    pub(crate) fn after_one(rate: f64) -> Self {
        Self { connections: 2, rate, settled: false }
    }

    /// How many connections there are to be now.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// Takes in what so many connections brought, in bytes a second: more of them if that was clearly more, fewer if
    /// not.
    pub(crate) fn measured(&mut self, rate: f64) {
        if self.settled {
            return;
        }
        if rate < self.rate * GAIN {
            self.connections /= 2;
            self.settled = true;
        } else {
            self.rate = rate;
            self.settled = self.connections == CONNECTIONS_MAX;
            self.connections = (self.connections * 2).min(CONNECTIONS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_is_slow_if_much_remains_for_long() {
        let (second, much) = (Duration::from_secs(1), 1 << 30);
        for (received, waited, remaining, slow) in [
            (20_000_000, second, much, true),
            (20_000_000, PERIOD / 2, much, false),
            (200_000_000, second, much, false),
            (20_000_000, second, REMAINING_MIN - 1, false),
            (90_000_000, second, 4 * REMAINING_MIN, false),
            (0, second, much, true),
        ] {
            assert_eq!(
                is_slow(received, waited, remaining),
                slow,
                "{received} in {waited:?}, {remaining} remain"
            );
        }
    }

    #[test]
    fn more_connections_are_kept_only_if_they_bring_more() {
        let after = |rates: &[f64]| {
            let mut concurrency = Concurrency::after_one(20.0);
            rates.iter().for_each(|rate| concurrency.measured(*rate));
            (concurrency.connections(), concurrency.settled)
        };
        assert_eq!(after(&[]), (2, false));
        assert_eq!(after(&[40.0]), (4, false));
        assert_eq!(after(&[21.0]), (1, true), "the network was the bottleneck");
        assert_eq!(after(&[40.0, 80.0, 120.0]), (CONNECTIONS_MAX, true));
        assert_eq!(after(&[40.0, 45.0]), (2, true));
        assert_eq!(after(&[40.0, 45.0, 400.0]), (2, true), "it is tried once");
    }
}
