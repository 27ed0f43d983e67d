//! Memory of it.

use super::{Judge, Violation, violation};

pub(crate) const SENTENCE: &str = "After a restart all of the above still holds.";

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    let quiet = &judge.history.quiet;
    let (Some(before), Some(after)) = (quiet.first(), quiet.get(1)) else { return Vec::new() };
    let lost = before.files.keys().filter(|name| {
        let kept = ["blobs/", "checks/", "refs/"].iter().any(|kept| name.starts_with(kept));
        kept && !name.contains("_outage") && !after.files.contains_key(*name)
    });
    lost.take(1)
        .map(|name| violation("memory/lost", after.at, format!("{name} is gone after a restart")))
        .collect()
}
