//! How fast registries deliver, and when the tier is too slow beside the registry of a blob.
//!
//! A registry's pace is the median of the rates of its last large bodies: the time in which the node itself was slow
//! does not count. A tier that has cost a blob some seconds more than its registry would have taken for the same bytes
//! is left for that blob, and is not asked for blobs of that registry for some minutes.
//!
//! Deliberately not here: a tier that is slow whatever the registry is, or that fails (`reading`, `health`).

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::Registry;
use crate::support::bounded_map::BoundedMap;

/// How much longer than its registry the tier may take for a blob, before the registry delivers the rest.
pub(super) const LOST_MAX: Duration = Duration::from_secs(5);
/// A rest that comes within this time is waited for: another request would take as long.
const REST_MAX: Duration = Duration::from_secs(1);
/// How long a tier that was slower than a registry is not asked for blobs of that registry. Each blob that tries it
/// again may cost [`LOST_MAX`]: less than 2 % of this time.
pub(super) const PASSED_BY_FOR: Duration = Duration::from_secs(300);
/// Bytes of a body from which on its rate counts: a smaller one is mostly the wait for its first byte.
const BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Rates of a registry that are remembered: a few images.
const RATES_MAX: usize = 8;
/// How long a rate counts.
const RATE_LASTS: Duration = Duration::from_secs(3_600);
/// Registries whose rates are remembered at most; of one that is forgotten the tier is used however slow it is.
const REGISTRIES_MAX: usize = 1_024;

/// The rates at which registries delivered.
pub(super) struct Paces(Mutex<BoundedMap<Registry, VecDeque<Rate>>>);

#[derive(Debug, Clone, Copy)]
struct Rate {
    bytes_a_second: u64,
    at: Instant,
}

impl Default for Paces {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(REGISTRIES_MAX)))
    }
}

impl Paces {
    /// Records that a registry delivered a body of `bytes` bytes, which was waited for as long as `waited`.
    pub(super) fn record(&self, registry: &Registry, bytes: u64, waited: Duration, at: Instant) {
        if bytes < BYTES_MIN {
            return;
        }
        let rate = Rate { bytes_a_second: (bytes as f64 / waited.as_secs_f64().max(1e-3)) as u64, at };
        let mut paces = self.0.lock();
        let mut rates = paces.remove(registry).unwrap_or_default();
        rates.push_back(rate);
        if rates.len() > RATES_MAX {
            rates.pop_front();
        }
        paces.insert(registry.clone(), rates);
    }

    /// The pace of a registry in bytes a second, as far as it is known.
    pub(super) fn of(&self, registry: &Registry, now: Instant) -> Option<u64> {
        let paces = self.0.lock();
        let is_recent = |rate: &&Rate| now.saturating_duration_since(rate.at) < RATE_LASTS;
        let recent = paces.peek(registry)?.iter().filter(is_recent);
        let mut rates = Vec::from_iter(recent.map(|rate| rate.bytes_a_second));
        rates.sort_unstable();
        // The lower one of two in the middle: the registry is not made faster than it is.
        rates.get(rates.len().checked_sub(1)? / 2).copied()
    }
}

/// Whether a body of the tier is left, of which `bytes` came in the time for which it was `waited` for and `rest` are
/// to come, since its registry delivers `pace` bytes a second.
pub(super) fn is_left(bytes: u64, waited: Duration, rest: u64, pace: Option<u64>) -> bool {
    let Some(pace) = pace.filter(|pace| *pace > 0) else { return false };
    let of_registry = bytes as f64 / pace as f64;
    let of_rest = rest as f64 * waited.as_secs_f64() / bytes.max(1) as f64;
    waited.as_secs_f64() - of_registry >= LOST_MAX.as_secs_f64() && of_rest > REST_MAX.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    #[test]
    fn no_blob_takes_much_longer_from_the_tier_than_from_its_registry() {
        let size = 1_000 * MB;
        // Bytes a second of the tier and of the registry; after how many seconds the tier is left.
        for (tier, pace, left_after) in [
            (2, Some(100), Some(6)),
            (50, Some(100), Some(10)),
            (80, None, None),
            (200, Some(100), None),
            (100, Some(100), None),
            // The whole takes 1.1 s longer.
            (90, Some(100), None),
            (2, Some(0), None),
            // Of the last bytes none are asked for anew.
            (65, Some(100), None),
        ] {
            let left = (1..=size / (tier * MB)).find(|&second| {
                let bytes = second * tier * MB;
                is_left(bytes, Duration::from_secs(second), size - bytes, pace.map(|pace| pace * MB))
            });
            assert_eq!(left, left_after, "{tier} {pace:?}");
            let seconds = left.unwrap_or(size / (tier * MB));
            let lost = seconds as f64 - (seconds * tier) as f64 / pace.unwrap_or(tier).max(1) as f64;
            assert!(
                pace == Some(0) || lost <= (LOST_MAX + REST_MAX).as_secs_f64(),
                "{tier} {pace:?}: {lost}"
            );
        }
        assert!(is_left(0, LOST_MAX, size, Some(MB)), "not a single byte came");
    }

    #[test]
    fn one_body_that_was_fast_or_slow_does_not_set_the_pace_of_a_registry() {
        let (paces, now) = (Paces::default(), Instant::now());
        let [registry, other]: [Registry; 2] = ["reg.test", "other.test"].map(|name| name.parse().unwrap());
        let record = |rate: u64| paces.record(&registry, rate * 10 * MB, Duration::from_secs(10), now);
        paces.record(&registry, BYTES_MIN - 1, Duration::from_millis(1), now);
        assert_eq!(paces.of(&registry, now), None, "too small to say anything");
        for (rate, pace) in [(100, 100), (20, 20), (900, 100), (1, 20), (30, 30)] {
            record(rate);
            assert_eq!(paces.of(&registry, now), Some(pace * MB), "after {rate}");
        }
        (0..RATES_MAX).for_each(|_| record(7));
        assert_eq!(paces.of(&registry, now), Some(7 * MB), "what was long ago is forgotten");
        assert_eq!(paces.of(&registry, now + RATE_LASTS), None);
        assert_eq!(paces.of(&other, now), None);
    }
}
