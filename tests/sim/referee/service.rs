//! Service.

use super::{Judge, Violation, is_whole_outage, violation};
use crate::catalog::catalog;
use crate::client::Ask;
use crate::plan::{
    Act, BucketAct, DamageKind, DiskError, DiskFault, FaultKind, Host, NameKind, Part, Repo, What, Who,
};
use crate::truth::Span;

pub(crate) const SENTENCE: &str = "A caller who would have succeeded by asking the registry itself succeeds through Larder, \
    or gets the answer that sends its runtime there, within the time bound; one registry's, repository's or client's \
    trouble is not another's; after the last fault ends, everything works again within a stated time.";

/// 25 s are promised for the head of an answer; the world's clock moves in steps.
const HEAD_MS: u64 = 25_000 + 2_000;

/// While the disk hangs and upstream is well: once 5 s until that is known, and again for what was under way; the world's
/// connections have buffers of 16 KiB and its clock moves in steps.
const WITHOUT_DISK_MS: u64 = 20_000;

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    let history = judge.history;
    let asks = history.asks.iter().enumerate().filter(|(_, ask)| !judge.was_stopped(ask));
    let mut all: Vec<Violation> =
        asks.flat_map(|(at, ask)| look_at(judge, ask, at >= history.calm_from)).collect();
    for (at, note) in &history.notes {
        let disk = history.truth.disk.iter().any(|span| span.overlaps(at.saturating_sub(1_000), *at));
        if note.contains("not start") && !(disk && note.contains("did not start")) {
            all.push(violation("service/start", *at, note.clone()));
        }
        if note.contains("would have waited for a disk") {
            all.push(violation("service/blocked-on-disk", *at, note.clone()));
        }
        if note.contains("did not stop well") || note.contains("clients still wait") {
            all.push(violation("service/stop", *at, note.clone()));
        }
    }
    all
}

fn look_at(judge: &Judge<'_>, ask: &Ask, calm: bool) -> Vec<Violation> {
    let (reply, shown) = (&ask.reply, judge.shown(ask));
    let at = reply.ended_at;
    let mut all = Vec::new();
    let waited = reply.head_at.unwrap_or(reply.ended_at - ask.begun);
    if waited > HEAD_MS {
        let what = format!("{shown}: no head within {} s", waited / 1_000);
        all.push(violation("service/late", at, what));
    }
    if waited_for_a_disk(judge, ask) {
        let what = format!("{shown}: {} s while the disk hangs", (at - ask.begun) / 1_000);
        all.push(violation("service/waited-for-disk", at, what));
    }
    let well = reply.is_success() && (reply.complete || reply.left);
    if well || reply.left {
        return all;
    }
    let answer = format!("{} with {} bytes, complete: {}", reply.status, reply.got, reply.complete);
    if judge.is_entitled(ask) && judge.faults_met(ask).is_empty() && !was_cut_on_disk(judge, ask) {
        // A runtime that is refused before any content goes to the registry itself, and gets it there.
        let sent_away = ask.manner.mirror && !reply.is_success() && reply.complete && reply.status != 0;
        // A range at or beyond the end.
        let beyond = reply.status == 416;
        if !sent_away && !beyond {
            let how = if reply.is_success() { "cut" } else { "refused" };
            let around = if calm { "after-calm".to_owned() } else { judge.circumstances(ask) };
            all.push(violation(format!("service/{how}-{around}"), at, format!("{shown}: {answer}")));
        }
    }
    if let Some(before) = held(judge, ask) {
        let what = format!("{shown}: {answer}, in an outage, though it was served at {before} ms");
        let listed = judge.history.truth.faults.iter().any(|span| {
            span.what.part == Part::Tags
                && span.hit.is_some_and(|hit| (before..=at).contains(&hit))
                && matches!(span.what.kind, FaultKind::Status(300..500))
        });
        let kind = if listed { "service/held-refused-after-list" } else { "service/held-refused" };
        all.push(violation(kind, at, what));
    }
    if is_shared(judge, ask) && !(ask.manner.mirror && reply.complete && reply.status != 0) {
        let what = format!("{shown}: {answer}, in an outage, though another node shared all of it");
        all.push(violation("service/shared-refused", at, what));
    }
    all
}

/// Whether another node had shared all that there is to know of this public image while its registry, which this node has
/// had no answer from, cannot be reached.
fn is_shared(judge: &Judge<'_>, ask: &Ask) -> bool {
    let (history, truth, begun) = (judge.history, &judge.history.truth, ask.begun);
    let (repo, image) = (ask.repo, catalog().image(ask.repo, 0));
    let is_of_image = match ask.what {
        What::Tag => true,
        What::Manifest => ask.digest == Some(image.manifest),
        // How large a layer is, a manifest says.
        What::Layer(_) => history.asks.iter().any(|other| {
            other.digest == Some(image.manifest)
                && !other.head
                && other.reply.status == 200
                && other.reply.complete
                && other.reply.ended_at <= begun
        }),
        _ => false,
    };
    let is_plain = truth.damage.is_empty()
        && truth.disk.is_empty()
        && truth.full.is_empty()
        && truth.stops.is_empty()
        && truth.jumps.is_empty()
        && truth.set_back.is_empty()
        && truth.revoked.is_empty()
        && truth.faults.iter().all(|span| span.what.host != Host::Bucket);
    let bucket = history.plan.steps.iter().filter_map(|step| match &step.act {
        Act::Bucket(act) => Some(act),
        _ => None,
    });
    let mut has_bytes = false;
    let mut is_harmed = false;
    for act in bucket {
        match act {
            BucketAct::Shared(shared) => has_bytes |= *shared == repo,
            BucketAct::Names { .. } => {}
            _ => is_harmed = true,
        }
    }
    let mut names = truth.names.iter().filter(|(_, of, _)| *of == repo);
    let is_told = names.clone().any(|(at, _, how)| *how == NameKind::Right && *at + 1_000 < begun)
        && names.all(|(_, _, how)| *how == NameKind::Right);
    let is_away = truth.faults.iter().any(|span| {
        span.what.host == repo.host()
            && matches!(span.what.kind, FaultKind::Refuse | FaultKind::NoName)
            && is_whole_outage(&span.what)
            && span.from + 500 <= begun
            && span.until.is_none_or(|until| until >= ask.reply.ended_at)
    });
    let is_new = history.seen.iter().all(|seen| seen.repo != Some(repo) || seen.at > begun);
    let setup = &history.plan.setup;
    let stores = setup.budget_mib.is_none() && !setup.no_room && setup.floor_mib.is_none();
    let who = ask.who == Who::Nobody && repo.is_public() && !setup.mirror && ask.reply.status != 416;
    setup.names
        && who
        && stores
        && is_plain
        && is_of_image
        && has_bytes
        && !is_harmed
        && is_told
        && is_away
        && is_new
}

/// Whether a client that does not dawdle got its answer late because the disk hangs, though upstream is well.
fn waited_for_a_disk(judge: &Judge<'_>, ask: &Ask) -> bool {
    let hangs = |span: &Span<DiskFault>| {
        span.what.error == DiskError::Hangs && span.overlaps(ask.begun, ask.reply.ended_at)
    };
    let manner = &ask.manner;
    manner.pace == 0
        && manner.pause_ms == 0
        && ask.reply.ended_at - ask.begun > WITHOUT_DISK_MS
        && judge.history.truth.disk.iter().any(hangs)
        && judge.history.truth.faults.is_empty()
        // It sends a byte a second, and then nothing: no disk makes that any later.
        && ask.repo.host() != Host::Evil
}

/// Whether the blob's file was truncated while it was sent: then the body ends short (docs/failure-modes.md).
fn was_cut_on_disk(judge: &Judge<'_>, ask: &Ask) -> bool {
    judge.history.truth.damage.iter().any(|(at, damage)| {
        let layers = &crate::catalog::catalog().image(damage.repo, 0).layers;
        let digest = layers[usize::from(damage.layer) % layers.len()];
        damage.how == DamageKind::Cut
            && (ask.begun..=ask.reply.ended_at).contains(at)
            && ask.digest == Some(digest)
    })
}

/// When this very thing was given to this very caller, if that has to hold now that the registry is away.
fn held(judge: &Judge<'_>, ask: &Ask) -> Option<u64> {
    let (history, truth) = (judge.history, &judge.history.truth);
    let (begun, ended) = (ask.begun, ask.reply.ended_at);
    let setup = &history.plan.setup;
    let is_content = matches!(ask.what, What::Tag | What::Manifest | What::Layer(_));
    let beyond = ask.reply.status == 416;
    if setup.budget_mib.is_some() || setup.no_room || !is_content || beyond || ask.who == Who::Mallory {
        return None;
    }
    let outage = truth.faults.iter().find(|span| {
        span.what.host == ask.repo.host()
            && is_whole_outage(&span.what)
            && span.from + 500 <= begun
            && span.until.is_none_or(|until| until >= ended)
    })?;
    let before = history.asks.iter().find(|other| {
        let same = (other.who, other.repo, other.what) == (ask.who, ask.repo, ask.what)
            && other.digest == ask.digest;
        // Who was told by HEAD that it is there is told so again.
        let told = ask.head || other.reply.complete && !other.head;
        let whole = other.reply.status == 200 && told && other.range.is_none();
        // What it is written to, it has been written to by now.
        same && whole && other.reply.ended_at + 2_000 < outage.from
    })?;
    let since = before.begun;
    let untouched = truth.removed.iter().all(|(_, repo)| !shares(*repo, ask.repo))
        && truth.revoked.iter().all(|(at, _)| *at < since)
        && truth.damage.is_empty()
        && truth.disk.is_empty()
        && truth.full.is_empty()
        && truth.stops.iter().all(|(_, _, clean)| *clean)
        && truth.jumps.is_empty();
    // What it was given for its own login holds no longer than that may read, whatever is open to those without one.
    let entitled = judge
        .principals(ask.who)
        .iter()
        .filter(|who| **who != Who::Nobody || ask.who == Who::Nobody)
        .any(|who| truth.may_throughout(*who, ask.repo, since, ended));
    // What the registry refused of content in between, it refused.
    let refused = truth.faults.iter().any(|span| {
        span.overlaps(since, ended)
            && span.hit.is_some()
            && matches!(span.what.kind, FaultKind::Status(300..500) | FaultKind::TooMany(_))
            && matches!(span.what.part, Part::Any | Part::Manifest | Part::Blob | Part::Token)
    });
    (untouched && entitled && !refused).then_some(before.reply.ended_at)
}

fn shares(one: Repo, other: Repo) -> bool {
    one.host() == other.host()
}
