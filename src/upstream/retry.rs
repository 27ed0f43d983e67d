//! How long to pause before a request is repeated: pure decisions.
//!
//! Pauses are random within bounds, so that the nodes of a cluster do not come back to a registry all at once.

use std::time::Duration;

/// The first pause at least; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause at least: a registry that is back is noticed within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause before repetition `n`, which counts from 0: between the least one and twice that, as `random` between 0
/// and 1 says.
pub(super) fn pause(n: u32, random: f64) -> Duration {
    let least = PAUSE.saturating_mul(2_u32.saturating_pow(n)).min(PAUSE_MAX);
    least + least.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        let least: Vec<u128> = (0..8).map(|n| pause(n, 0.0).as_millis()).collect();
        assert_eq!(least, [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000]);
        assert_eq!(pause(u32::MAX, 0.0), PAUSE_MAX);
        for n in 0..8 {
            assert_eq!(pause(n, 1.0), 2 * pause(n, 0.0), "all nodes come back at once");
        }
        assert_eq!(pause(0, f64::NAN.max(2.0)), 2 * PAUSE);
    }
}
