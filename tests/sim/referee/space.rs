//! Space.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Judge, Violation, violation};
use crate::catalog::catalog;
use crate::plan::{Act, DamageKind};
use crate::registry::Seen;
use crate::world::Quiet;

pub(crate) const SENTENCE: &str = "What is on disk is what is counted; the budget holds; what is pinned or read is there; \
    nothing is evicted that did not need to be; nothing is left behind when all is quiet.";

/// Blobs that may be kept open while no client reads them.
const KEPT_OPEN_MAX: usize = 64;
/// For how long a part of a blob that a client read is kept for the next one, a look after it included.
const PART_KEPT_MS: u64 = 31 * 60 * 1_000;
/// After so long without anything else the budget has been enforced: it is every 2 s.
const ENFORCED_MS: u64 = 10_000;

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    let mut all: Vec<Violation> =
        judge.history.quiet.iter().flat_map(|quiet| look_at(judge, quiet)).collect();
    all.extend(evictions(judge));
    all.extend(floor(judge));
    all
}

fn look_at(judge: &Judge<'_>, quiet: &Quiet) -> Vec<Violation> {
    let history = judge.history;
    let mut all = Vec::new();
    let mut found = |kind: &str, what: String| {
        all.push(violation(format!("space/{kind}"), quiet.at, format!("{}: {what}", quiet.when)));
    };
    let blobs: Vec<(&str, u64)> = quiet.under("blobs/sha256/").collect();
    let (count, bytes) = (blobs.len() as f64, blobs.iter().map(|(_, size)| *size).sum::<u64>());
    let (counted, counted_bytes) = (quiet.number("larder_store_blobs"), quiet.number("larder_store_bytes"));
    let touched =
        history.truth.damage.iter().any(|(_, damage)| {
            matches!(damage.how, DamageKind::Cut | DamageKind::Remove | DamageKind::Replace)
        });
    if !touched && (count, bytes as f64) != (counted, counted_bytes) {
        let which =
            if count > counted || bytes as f64 > counted_bytes { "uncounted" } else { "counted-gone" };
        found(which, format!("{count} blobs of {bytes} bytes, counted {counted} of {counted_bytes}"));
    }
    if let Some(budget) = history.plan.setup.budget_mib
        && bytes > budget << 20
    {
        found("over-budget", format!("{bytes} bytes of {} MiB", budget));
    }
    for (name, size) in quiet.under("ingest/").filter(|(name, _)| !is_kept_part(judge, quiet, name)) {
        found("left-in-ingest", format!("{name}, {size} bytes"));
    }
    // A stored blob that was read a moment ago is kept open, within bounds.
    let kept = |path: &&String| {
        quiet.files.contains_key(path.trim_start_matches('/')) && path.starts_with("/blobs/")
            || is_kept_part(judge, quiet, path.trim_start_matches('/'))
    };
    let left: Vec<&str> = quiet.open.iter().filter(|path| !kept(path)).map(String::as_str).collect();
    if !left.is_empty() {
        found("left-open", left.join(", "));
    }
    if quiet.open.len() > KEPT_OPEN_MAX {
        found("left-open", format!("{} files", quiet.open.len()));
    }
    for gauge in ["larder_flights", "larder_connections"] {
        if quiet.number(gauge) != 0.0 {
            found("left-under-way", format!("{gauge} {}", quiet.number(gauge)));
        }
    }
    if quiet.under("quarantine/").count() > 64 {
        found("quarantine", "more than 32 blobs in quarantine".to_owned());
    }
    let removed: Vec<_> = history.truth.removed.iter().map(|(_, repo)| *repo).collect();
    for repo in pinned(judge).into_iter().filter(|repo| !removed.contains(repo)) {
        let image = catalog().image(repo, 0);
        let gone = image
            .layers
            .iter()
            .find(|layer| !quiet.files.contains_key(&format!("blobs/sha256/{}", layer.hex())));
        if let (Some(layer), false) = (gone, touched || !history.truth.damage.is_empty()) {
            found("pinned-gone", format!("{layer} of {}", repo.name()));
        }
    }
    all
}

/// Whether a file is what is kept of a blob of which a client read a part lately.
fn is_kept_part(judge: &Judge<'_>, quiet: &Quiet, file: &str) -> bool {
    let Some(name) = file.strip_prefix("ingest/") else { return false };
    judge.history.asks.iter().any(|ask| {
        ask.range.is_some()
            && ask.digest.is_some_and(|digest| name.starts_with(&digest.hex().to_string()))
            && quiet.at < ask.reply.ended_at + PART_KEPT_MS
    })
}

/// What was pinned well, while its tag had not moved.
fn pinned(judge: &Judge<'_>) -> Vec<crate::plan::Repo> {
    let acts = judge.history.plan.steps.iter();
    let wanted = acts.filter_map(|step| match step.act {
        Act::Prefetch { repo, pin: true } => Some(repo),
        _ => None,
    });
    let done = |repo: &crate::plan::Repo| {
        let name = format!("larder pull {}: Ok(Ok(()))", repo.name());
        judge.history.notes.iter().any(|(_, note)| note.starts_with(&name) && note.contains("failed: 0"))
            && judge.history.truth.moved_at(*repo, u64::MAX).is_none()
    };
    wanted.filter(done).collect()
}

/// What is to stay free on a filesystem that others fill does, as long as there is a blob that is not needed.
fn floor(judge: &Judge<'_>) -> Option<Violation> {
    let (history, truth) = (judge.history, &judge.history.truth);
    let floor = history.plan.setup.floor_mib? << 20;
    let pins = history.plan.steps.iter().any(|step| matches!(step.act, Act::Prefetch { .. }));
    let is_quiet = |since: u64, at: u64| {
        history.asks.iter().all(|ask| ask.begun > at || ask.reply.ended_at < since)
            && truth.disk.iter().all(|span| !span.overlaps(since, at))
            && truth.stops.iter().all(|(from, until, _)| *from > at || *until < since)
    };
    let kept = truth.full.iter().find(|full| {
        let Some(until) = full.until else { return false };
        full.from + ENFORCED_MS < until
            && is_quiet(until - ENFORCED_MS, until)
            && full.free < floor
            && full.blobs > 0
    })?;
    (!pins).then(|| {
        let what =
            format!("{} bytes free of {floor} that should be, and {} bytes of blobs", kept.free, kept.blobs);
        violation("space/floor-not-kept", kept.until.unwrap_or(kept.from), what)
    })
}

/// Whatever has arrived fits: then nothing need have gone.
fn evictions(judge: &Judge<'_>) -> Option<Violation> {
    let history = judge.history;
    let quiet = history.quiet.first()?;
    let budget = history.plan.setup.budget_mib? << 20;
    let sent = |seen: &Seen| seen.sent.load(Ordering::Relaxed);
    let arrived: u64 = if history.truth.faults.is_empty() {
        // What arrives again because it was evicted in vain is no reason to evict it.
        let mut contents = BTreeMap::new();
        for seen in history.seen.iter().filter(|seen| seen.digest.is_some()) {
            let size = contents.entry(seen.digest).or_default();
            *size = sent(seen).max(*size);
        }
        contents.values().sum()
    } else {
        history.seen.iter().map(sent).sum()
    };
    if !history.truth.full.is_empty() {
        return None;
    }
    let evicted = quiet.number("larder_store_evicted_total");
    let made = history.plan.steps.iter().any(|step| matches!(step.act, Act::MakeRoom | Act::Remove(_)));
    (evicted > 0.0 && arrived * 10 < budget * 9 && !made).then(|| {
        let what =
            format!("{evicted} blobs evicted, though {arrived} bytes in all have arrived for {budget}");
        violation("space/evicted-in-vain", quiet.at, what)
    })
}
