//! What commands print alike.

use std::time::Duration;

use serde::Serialize;

use super::failure::Failure;

/// Prints an answer as JSON.
///
/// # Errors
/// The answer cannot be written as JSON: a defect of ours.
#[allow(clippy::print_stdout, reason = "what --json is for")]
pub(super) fn print_json(answer: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(answer).map_err(Failure::caused)?);
    Ok(())
}

/// A time for people: its two largest units.
pub(super) fn shown_duration(time: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_for_people_has_no_more_than_two_units() {
        for (seconds, shown) in [(0, "0s"), (59, "59s"), (3_723, "1h 2m"), (90_061, "1day 1h")] {
            assert_eq!(shown_duration(Duration::from_secs(seconds)), shown);
        }
    }
}
