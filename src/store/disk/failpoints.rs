//! Named points of every write, at which a test stops the process to prove that a crash there loses nothing.
//!
//! Outside of tests a failpoint is empty. In a test process, `STOP_AT` is the number of the failpoint at which the
//! process aborts, counted from its start, and `DIRECTORY` holds the log of the failpoints reached so far.

/// A write has come this far.
#[cfg(not(test))]
pub(in crate::store) const fn reached(_name: &'static str) {}

/// Number of the failpoint at which the process aborts.
#[cfg(test)]
pub(in crate::store) const STOP_AT: &str = "LARDER_TEST_STOP_AT";
/// Directory of the log.
#[cfg(test)]
pub(in crate::store) const DIRECTORY: &str = "LARDER_TEST_DIRECTORY";

/// A write has come this far: logs the name, and aborts the process if this is where it has to stop.
#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "the process of a test, whose environment names the failpoint at which it aborts"
)]
pub(in crate::store) fn reached(name: &'static str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let Ok(stop_at) = std::env::var(STOP_AT) else { return };
    let number = REACHED.fetch_add(1, Ordering::SeqCst);
    let path = std::path::Path::new(&std::env::var(DIRECTORY).unwrap()).join("failpoints");
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    // In one piece: two threads write to this file.
    log.write_all(format!("{name}\n").as_bytes()).unwrap();
    if number.to_string() == stop_at {
        std::process::abort();
    }
}
