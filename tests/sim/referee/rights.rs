//! Rights.

use super::{Judge, Violation, is_outage, violation};
use crate::catalog::catalog;
use crate::client::Ask;
use crate::plan::{FaultKind, Host, What, Who};

pub(crate) const SENTENCE: &str = "No caller is given content, names, sizes, tags or referrers that the registry would not give \
    to a credential that the caller may use, counting what revocation, outage and grace promise; a right that the \
    registry ended is not used after the documented time.";

/// `grant_ttl`, and a little.
const GRANT_MS: u64 = 300_000 + 5_000;
/// `outage_grace`, and a little.
const OUTAGE_MS: u64 = 30 * 86_400_000 + 5_000;
/// How much a 429 stretches it.
const LIMIT_MS: u64 = 900_000;

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    judge.history.asks.iter().filter_map(|ask| look_at(judge, ask)).collect()
}

fn look_at(judge: &Judge<'_>, ask: &Ask) -> Option<Violation> {
    let truth = &judge.history.truth;
    let (begun, ended) = (ask.begun, ask.reply.ended_at);
    if !ask.reply.is_success() {
        return None;
    }
    // What another repository has is not this one's, for any caller.
    if let Some(digest) = ask.digest.filter(|digest| !catalog().has(ask.repo, *digest)) {
        let what =
            format!("{}: {}, and {digest} is not in that repository", judge.shown(ask), ask.reply.status);
        return (ask.what != What::Referrers).then(|| violation("rights/of-another-repository", ended, what));
    }
    if ask.repo.is_public() {
        return None;
    }
    let principals = judge.principals(ask.who);
    let may = |at| principals.iter().any(|who| truth.may(*who, ask.repo, at));
    if may(begun) || may(ended) || may(begun.saturating_sub(5_000)) {
        return None;
    }
    let shown = judge.shown(ask);
    let Some(end) = principals.iter().filter_map(|who| truth.ended_at(*who, ask.repo, begun)).max() else {
        return Some(violation(
            "rights/never",
            ended,
            format!("{shown}: {}, and never had a right", ask.reply.status),
        ));
    };
    let revoked = truth
        .revoked
        .iter()
        .any(|(at, repo)| *at > end && *at + 5_000 < begun && repo.is_none_or(|repo| repo == ask.repo));
    let age = begun - end;
    // A clock that was set back before a restart makes a right as young as it then says.
    let set_back =
        truth.set_back.iter().any(|at| truth.stops.iter().any(|(from, ..)| at <= from && *from <= begun));
    if (age <= GRANT_MS || set_back) && !revoked {
        return None;
    }
    let now = truth.faults.iter().filter(|span| span.overlaps(begun.saturating_sub(30_000), ended));
    let met: Vec<FaultKind> =
        now.filter(|span| judge.meets(ask, &span.what)).map(|span| span.what.kind).collect();
    if met.iter().any(|kind| matches!(kind, FaultKind::TooMany(_))) && age <= GRANT_MS + LIMIT_MS {
        return None;
    }
    let refused = was_refused(judge, ask, end);
    if met.iter().any(|kind| is_outage(*kind)) && !revoked && refused.is_none() {
        let jumps = truth.jumps.iter().filter(|(at, _)| (end..=begun).contains(at));
        let old = age + jumps.map(|(_, seconds)| seconds * 1_000).sum::<u64>();
        let what = || format!("{shown}: {}, {} h after the right ended", ask.reply.status, old / 3_600_000);
        let over = old > OUTAGE_MS && truth.set_back.is_empty();
        return over.then(|| violation("rights/outage-without-end", ended, what()));
    }
    let kind = match (revoked, refused) {
        (true, _) => "rights/revoked-by-hand",
        (_, Some(_)) => "rights/refused-and-served",
        _ if !met.is_empty() => "rights/held-without-outage",
        _ if truth.faults.iter().any(|span| span.overlaps(begun.saturating_sub(310_000), ended)) => {
            "rights/outage-of-another"
        }
        _ => "rights/after-its-time",
    };
    let what = format!("{shown}: {} {} s after the right ended ({refused:?})", ask.reply.status, age / 1_000);
    Some(violation(kind, ended, what))
}

/// When the registry refused this caller, after the right had ended and before this was asked.
fn was_refused(judge: &Judge<'_>, ask: &Ask, end: u64) -> Option<u64> {
    let history = judge.history;
    let is_his = |shown: &Option<String>| {
        let token = shown.as_deref().and_then(|shown| shown.strip_prefix("Bearer "));
        // An anonymous caller has tokens too: what those are refused ends no right of a caller with a login. A token that was
        // damaged on its way has no owner.
        token.is_some_and(|token| {
            ask.who != Who::Nobody && history.token_owners.get(token).is_none_or(|owner| *owner == ask.who)
        })
    };
    let others = history.asks.iter().any(|other| {
        other.repo == ask.repo && other.who != ask.who && other.begun >= end && other.begun <= ask.begun
    });
    if others {
        return None;
    }
    history
        .seen
        .iter()
        .find(|seen| {
            seen.host == Host::Reg
                && seen.repo == Some(ask.repo)
                && seen.fault.is_none()
                && seen.part != crate::plan::Part::Tags
                && (end..ask.begun).contains(&seen.at)
                && matches!(seen.status, 401 | 403)
                && is_his(&seen.shown)
        })
        .map(|seen| seen.at)
}
