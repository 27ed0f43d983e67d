//! Bytes.

use super::{Judge, Violation, violation};
use crate::catalog::catalog;
use crate::client::Ask;
use crate::plan::{FaultKind, What};

pub(crate) const SENTENCE: &str = "Every complete body is what its digest says; a body that ends early is visible as such to \
    that client's protocol version; a range is the right bytes of the right blob.";

/// What was compared is compared again after so long a wait for its client.
const COMPARED_AGAIN_MS: u64 = 1_000;
/// Bytes that may be on the way between the comparison and a client that reads at a pace, and the time between two of its
/// reads.
const IN_BUFFERS: u64 = 64 * 1024;
const PACE_MS: u64 = 100;

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    judge.history.asks.iter().filter(|ask| !ask.head).filter_map(|ask| look_at(judge, ask)).collect()
}

fn look_at(judge: &Judge<'_>, ask: &Ask) -> Option<Violation> {
    let (reply, shown) = (&ask.reply, judge.shown(ask));
    if !reply.is_success() || !reply.complete || matches!(ask.what, What::Tags | What::Referrers) {
        return None;
    }
    let at = reply.ended_at;
    if ask.what == What::Tag {
        let known = catalog().versions(ask.repo).iter().any(|image| Some(image.top) == reply.digest);
        let said = reply.header("docker-content-digest").map(str::to_owned);
        let same = said == reply.digest.map(|digest| digest.to_string());
        return (!known || !same).then(|| {
            violation("bytes/wrong-manifest", at, format!("{shown}: {:?}, said {said:?}", reply.digest))
        });
    }
    if reply.status == 206 {
        return range(judge, ask, &shown);
    }
    if reply.digest == ask.digest || just_damaged(judge, ask) {
        return None;
    }
    if reply.wrong_at.is_none() && reply.header("content-length").is_none() {
        let what =
            format!("{shown}: {} bytes and then the end, without a sign that more was to come", reply.got);
        return Some(violation("bytes/short-unseen", at, what));
    }
    let wrong = reply.wrong_at.map_or(String::new(), |at| format!(", the first at {at}"));
    let source = match (lied(judge), judge.history.truth.damage.is_empty()) {
        (true, true) => "-lied",
        (true, false) => "-damaged-and-lied",
        (false, false) => "-damaged",
        (false, true) => "",
    };
    let what = format!("{shown}: complete, {} bytes, and wrong{wrong}", reply.got);
    Some(violation(format!("bytes/wrong-whole{source}"), at, what))
}

fn range(judge: &Judge<'_>, ask: &Ask, shown: &str) -> Option<Violation> {
    let (start, end) = ask.range?;
    let size = catalog().bytes(ask.digest?)?.len() as u64;
    let reply = &ask.reply;
    let expected = format!("bytes {start}-{}/{size}", end.min(size - 1));
    let said = reply.header("content-range").unwrap_or_default();
    // A range of what is not here whole is upstream's word.
    if lied(judge) {
        return None;
    }
    if said != expected {
        return Some(violation(
            "bytes/range-head",
            reply.ended_at,
            format!("{shown}: {said}, not {expected}"),
        ));
    }
    reply.wrong_at.map(|at| violation("bytes/wrong-range", reply.ended_at, format!("{shown}: wrong at {at}")))
}

/// Whether the wrong bytes were changed on disk a moment before they arrived: between their comparison and the kernel's
/// sending them there is up to a second (docs/failure-modes.md), and then what lies in buffers on the way.
fn just_damaged(judge: &Judge<'_>, ask: &Ask) -> bool {
    let pace = ask.manner.pace.max(1) as u64;
    let in_buffers = if ask.manner.pace > 0 { IN_BUFFERS / pace * PACE_MS } else { 0 };
    let window = COMPARED_AGAIN_MS + in_buffers;
    ask.reply.wrong_since.is_some_and(|since| {
        judge.history.truth.damage.iter().any(|(at, _)| (since.saturating_sub(window)..=since).contains(at))
    })
}

/// Whether any registry sent other bytes than it should have.
fn lied(judge: &Judge<'_>) -> bool {
    judge.history.truth.faults.iter().any(|span| {
        use FaultKind::{Corrupt, LengthOff, Nothing, Page, WrongRange};
        span.hit.is_some() && matches!(span.what.kind, Corrupt | WrongRange | Page | Nothing | LengthOff(_))
    })
}
