//! The only place where commands write to the standard output and the standard error, and what they print alike.
//!
//! Promises: no command panics because its output cannot be written. A reader that has gone ends a command quietly, any
//! other error says why. (`println!` panics on both.)

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use serde::Serialize;

use super::failure::Failure;

/// Prints a text as it is, in one call of the kernel.
///
/// # Errors
/// [`Failure::ReaderGone`]; the output cannot be written, as to a full disk.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::failed(format!("cannot write the output: {error}")),
    })
}

/// Prints a line.
///
/// # Errors
/// As [`print`].
pub(super) fn print_line(line: &str) -> Result<(), Failure> {
    print(&format!("{line}\n"))
}

/// Prints lines, each with its title.
///
/// # Errors
/// As [`print`].
pub(super) fn print_titled(lines: &[(&str, String)]) -> Result<(), Failure> {
    print(&lines.iter().map(|(title, line)| format!("{title:<11} {line}\n")).collect::<String>())
}

/// Prints an answer as JSON.
///
/// # Errors
/// As [`print`]; the answer cannot be written as JSON: a defect of ours.
pub(super) fn print_json(answer: &impl Serialize) -> Result<(), Failure> {
    print_line(&serde_json::to_string_pretty(answer).map_err(Failure::caused)?)
}

/// Writes a text to the standard error, beside what is printed. That it cannot be written is no reason to do less.
pub(super) fn say(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Says what is wrong, as a line on the standard error.
pub(super) fn warn(what: &str) {
    say(&format!("larder: {what}\n"));
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
