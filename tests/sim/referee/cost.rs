//! Cost.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use larder::reference::Digest;

use super::{Judge, Violation, violation};
use crate::catalog::catalog;
use crate::client::Ask;
use crate::plan::{Act, Host, Part, What};
use crate::registry::Seen;

pub(crate) const SENTENCE: &str = "Upstream is asked at most as often, and sends at most as many bytes, as the clients would \
    have cost it without Larder; and for content that fits, once.";

/// What may be under way when a caller has had enough.
const SLACK_BYTES: u64 = 128 * 1024;

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    let history = judge.history;
    let acts = &history.plan.steps;
    let plain = acts.iter().all(|step| match &step.act {
        Act::Pull(pull) => pull.manner.leaves_after.is_none(),
        Act::Get(get) => get.manner.leaves_after.is_none(),
        Act::Right { .. } | Act::Move { .. } | Act::Wait { .. } => true,
        Act::Room { .. } | Act::MakeRoom | Act::HealAll => true,
        _ => false,
    });
    if !plain || !judge.is_calm() || history.plan.setup.budget_mib.is_some() {
        return Vec::new();
    }
    let until = history.truth.stops.first().map_or(history.ended_at, |(from, ..)| *from);
    let seen: Vec<&Seen> = history.seen.iter().filter(|seen| seen.at < until && seen.status < 300).collect();
    let asks: Vec<&Ask> = history.asks.iter().filter(|ask| ask.begun < until).collect();
    let mut all = blobs(judge, &seen, &asks, until);
    all.extend(manifests(&seen, &asks, until));
    all
}

/// By registry and digest: requests and bytes that came, and what the clients asked for.
#[derive(Default)]
struct Cost {
    requests: u64,
    bytes: u64,
    asked: u64,
    asked_bytes: u64,
    parts: u64,
}

fn blobs(judge: &Judge<'_>, seen: &[&Seen], asks: &[&Ask], until: u64) -> Vec<Violation> {
    let mut costs: BTreeMap<(Host, String), (Digest, Cost)> = BTreeMap::new();
    let mut cost = |host: Host, digest: Digest, add: &dyn Fn(&mut Cost)| {
        add(&mut costs.entry((host, digest.to_string())).or_insert_with(|| (digest, Cost::default())).1);
    };
    for seen in seen.iter().filter(|seen| seen.part == Part::Blob && !seen.head) {
        let Some(digest) = seen.digest else { continue };
        let home = match seen.host {
            Host::Mirror => Host::Reg,
            Host::Objects if judge.history.plan.setup.redirects => continue,
            Host::Objects => Host::Store,
            host => host,
        };
        let bytes = seen.sent.load(Ordering::Relaxed);
        cost(home, digest, &|cost| (cost.requests, cost.bytes) = (cost.requests + 1, cost.bytes + bytes));
    }
    for ask in asks.iter().filter(|ask| ask.is_blob() && !ask.head) {
        let Some(digest) = ask.digest else { continue };
        let (bytes, part) = (ask.reply.got, u64::from(ask.range.is_some()));
        cost(ask.repo.host(), digest, &|cost| {
            (cost.asked, cost.asked_bytes) = (cost.asked + 1, cost.asked_bytes + bytes);
            cost.parts += part;
        });
    }
    let mut all = Vec::new();
    for ((host, name), (digest, cost)) in costs {
        let Some(size) = catalog().bytes(digest).map(|bytes| bytes.len() as u64) else { continue };
        let fits = !judge.history.plan.setup.no_room && judge.history.truth.full.is_empty();
        let (requests_max, bytes_max) = if fits && cost.asked > 0 {
            (1 + cost.parts, size + cost.asked_bytes.min(cost.parts * size))
        } else {
            (cost.asked, cost.asked_bytes)
        };
        let what = format!(
            "{} of {}: {} requests and {} bytes for {} requests and {} bytes of clients",
            name,
            host.name(),
            cost.requests,
            cost.bytes,
            cost.asked,
            cost.asked_bytes
        );
        let place = match (fits, cost.asked == 0) {
            (_, true) => "ahead",
            (true, _) => "stored",
            (false, _) => "no-room",
        };
        if cost.requests > requests_max {
            all.push(violation(format!("cost/requests-{place}"), until, what));
        } else if cost.bytes > bytes_max + SLACK_BYTES {
            all.push(violation(format!("cost/bytes-{place}"), until, what));
        }
    }
    all
}

fn manifests(seen: &[&Seen], asks: &[&Ask], until: u64) -> Vec<Violation> {
    let mut all = Vec::new();
    for repo in crate::catalog::REPOS {
        let came = seen.iter().filter(|seen| seen.part == Part::Manifest && seen.repo == Some(repo)).count();
        let of = |ask: &&&Ask| ask.repo == repo && matches!(ask.what, What::Tag | What::Manifest);
        let asked = asks.iter().filter(of).count();
        // To answer a HEAD exactly the document is fetched, which who asks by HEAD would do next.
        let heads = asks.iter().filter(of).filter(|ask| ask.head).count();
        if came > asked + heads {
            let what = format!("{}: {came} manifest requests for {asked} of clients", repo.name());
            all.push(violation("cost/manifests", until, what));
        }
    }
    all
}
