//! What is found of a file that cannot be read: it is not known, and says nothing of where a runtime leads.

use super::finding::{Findings, Level};
use crate::cli::runtimes::machine::Unreadable;

/// Adds that a file cannot be read: as a warning where another user may read it.
pub(super) fn add(findings: &mut Findings, about: &'static str, what: &Unreadable) {
    let (level, remedy) = match what.is_denied() {
        true => (Level::Warning, "run this as root"),
        false => (Level::Problem, "correct it"),
    };
    findings.add(level, about, what.to_string(), remedy);
}
