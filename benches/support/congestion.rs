//! The congestion control of connections that choose none: another one for as long as something is measured.
//!
//! A connection gets the one that is set when it is accepted, unless its server chooses one, as Larder does for loopback.
//! It is a setting of the machine and needs root. What it was is kept in a file below `target/`, so that a run after one that
//! was killed sets it back.

use std::fs;
use std::path::Path;

const SETTING: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// What the setting was before a run changed it.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-congestion-control");

/// Another congestion control until it is dropped.
pub(crate) struct Congestion {
    before: String,
}

impl Congestion {
    /// Sets it, and reads it back: a row must not name one that it did not have.
    pub(crate) fn set(name: &str) -> Self {
        let before = current();
        if before != name {
            fs::write(KEPT, &before).unwrap();
            change(name);
        }
        Self { before }
    }
}

impl Drop for Congestion {
    fn drop(&mut self) {
        if current() != self.before {
            change(&self.before);
        }
        let _ = fs::remove_file(KEPT);
    }
}

/// The one that is set now.
pub(crate) fn current() -> String {
    fs::read_to_string(SETTING).unwrap_or_default().trim().to_owned()
}

/// Sets back what a run that was killed has left. Every benchmark begins with it.
pub(crate) fn restore() {
    if let Ok(before) = fs::read_to_string(KEPT) {
        println!("an earlier run has left {}: {before} again", current());
        change(&before);
        fs::remove_file(KEPT).unwrap();
    }
}

fn change(name: &str) {
    let refused = |error| panic!("cannot set the congestion control to {name}: {error}; run as root");
    fs::write(SETTING, name).unwrap_or_else(refused);
    assert_eq!(current(), name, "{} does not keep {name}", Path::new(SETTING).display());
}
