//! Times that were measured, as people read them.

use std::time::Duration;

/// A measured time without the digits that say nothing: `15s`, `2.5s`, `120ms`.
pub fn rounded(time: Duration) -> Duration {
    match time.as_secs() {
        10.. => Duration::from_secs(time.as_secs()),
        1.. => Duration::from_millis(u64::from(time.subsec_millis() / 100) * 100 + time.as_secs() * 1_000),
        0 => Duration::from_millis(u64::from(time.subsec_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_one_has_to_read_nanoseconds() {
        for (nanos, shown) in [
            (130_211_439_534, "130s"),
            (15_000_715_843, "15s"),
            (2_561_000_001, "2.5s"),
            (120_000_999, "120ms"),
            (999, "0ns"),
        ] {
            assert_eq!(format!("{:?}", rounded(Duration::from_nanos(nanos))), shown);
        }
    }
}
