//! Numbers of bytes as people read and write them: powers of 1,024, as `df -h` has them.

/// Units, largest first, with their power of two.
const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];

/// With one digit after the point: `1.4 GiB`.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn shown(bytes: u64) -> String {
    match UNITS.iter().find(|(shift, _)| bytes >= 1 << shift) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// Exactly, in the largest unit that does: `50GiB`, `5000B`.
pub fn exact(bytes: u64) -> String {
    let fits = UNITS.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    fits.map_or(format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_for_people_and_written_exactly() {
        for (bytes, people, written) in [
            (0, "0 B", "0B"),
            (1_023, "1023 B", "1023B"),
            (1_536, "1.5 KiB", "1536B"),
            (5 << 20, "5.0 MiB", "5MiB"),
            (1 << 40, "1.0 TiB", "1TiB"),
        ] {
            assert_eq!((shown(bytes).as_str(), exact(bytes).as_str()), (people, written));
        }
    }
}
