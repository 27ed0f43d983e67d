//! The shared tier.

use super::{Judge, Violation, violation};
use crate::plan::{Act, Host};

pub(crate) const SENTENCE: &str = "What the daemon writes to the shared tier is the content of its digest, and neither a name \
    nor a secret; when all is quiet nothing unfinished is left there.";

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    let history = judge.history;
    let at = history.ended_at;
    let mut all: Vec<Violation> = history
        .bucket
        .wrong
        .iter()
        .map(|key| violation("tier/wrong-object", at, format!("{key} is not the content of its digest")))
        .collect();
    all.extend(history.bucket.told.iter().map(|what| violation("tier/told", at, what.clone())));
    // What a process that was killed has begun, and what the bucket did not let it end, is for the store's own rule.
    let killed = history.truth.stops.iter().any(|(_, _, clean)| !clean);
    let troubled = history.truth.faults.iter().any(|span| span.what.host == Host::Bucket);
    let others = history.plan.steps.iter().any(|step| matches!(step.act, Act::Bucket(_)));
    if history.bucket.uploads > 0 && !killed && !troubled && !others {
        let what = format!("{} uploads are neither completed nor aborted", history.bucket.uploads);
        all.push(violation("tier/unfinished", at, what));
    }
    all
}
