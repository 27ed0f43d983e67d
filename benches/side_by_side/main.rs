//! Compares Larder with nginx, docker-registry, Varnish, Traffic Server and drayage: the same files, on loopback, in one run, in turns.
//!
//! `make bench` builds the program as the packages have it and measures that one (`BENCH_PROGRAM`). Needs nginx,
//! docker-registry, wrk, curl and root; other caches take part where they are installed (`tests/tools.sh --bench` installs all).
//! Writes `benches/RESULTS.md`, `benches/results.json` and `benches/results.svg`. Read the ratios: the figures are this
//! machine's.
//!
//! | Variable | What it chooses | Without it |
//! | --- | --- | --- |
//! | `BENCH_ONLY` | parts, as `cold,warm`: cold, crowd, first, head, shaped, warm, curl, manifest, slow, idle | all |
//! | `BENCH_PEERS` | peers by the beginnings of their names, as `nginx-proxy_cache,varnish`, or `none` | all |
//! | `BENCH_CONGESTION` | the congestion control of cold, crowd and warm rows, as `reno` | reno and the machine's own |
//! | `BENCH_ROUNDS` | how often each row is measured | 3 to 5 times, slow readers and idle once |
//! | `BENCH_MIB` | the size of the warm blob; cold ones have a quarter of it | 1024 |
//!
//! A run with one of the first three, or beside an earlier build (`BENCH_BEFORE`), prints its table and writes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

mod client;
mod cold;
mod compare;
mod content;
mod first;
mod heads;
mod kind;
mod nginx;
mod peers;
mod report;
mod rounds;
mod server;
mod servers;
mod shaped;
#[path = "../support/mod.rs"]
mod support;
mod warm;

use std::time::Instant;

use kind::Kind;
use report::{Row, Table};
use rounds::{in_turns, rounds};
use servers::Servers;
use support::congestion;

/// Small blobs of the store of the row of an idle daemon.
const IDLE_BLOBS: usize = 20_000;

/// What measures a part.
type Part = fn(&mut Servers, &mut Table);

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    congestion::restore();
    let set = |name: &str| std::env::var(name).is_ok_and(|text| !text.is_empty());
    let mib: usize = std::env::var("BENCH_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(1024);
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(65_536), maximum: Some(65_536) },
    );
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let parts: [(&str, Part); 10] = [
        ("cold", cold::one_client),
        ("crowd", cold::crowd),
        ("first", first::measure),
        ("head", heads::measure),
        ("shaped", shaped::measure),
        ("warm", warm::readers),
        ("curl", warm::curl),
        ("manifest", warm::manifests),
        ("slow", warm::slow_readers),
        ("idle", idle),
    ];
    let known = |name: &str| parts.iter().any(|(part, _)| *part == name);
    assert!(only.is_empty() || only.split(',').all(known), "BENCH_ONLY={only} names an unknown part");
    let mut servers = Servers::start(mib, heads::CONNECTIONS);
    let mut table = Table::new(mib);
    for (name, measure) in parts {
        if only.is_empty() || only.split(',').any(|one| one == name) {
            let begun = Instant::now();
            measure(&mut servers, &mut table);
            println!("# {name}: {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    let peak = servers.warm().into_iter().map(|kind| (kind, servers.of(kind).peak_mib())).collect();
    table.add(Row::once("peak memory over all of this", "", "MiB", peak));
    table.print_changes();
    // Parts of it, and comparisons with an earlier build, are for the developer's eyes and not committed.
    if ["BENCH_ONLY", "BENCH_PEERS", "BENCH_CONGESTION", "BENCH_BEFORE"].into_iter().any(set) {
        println!("\n{}", table.markdown());
    } else {
        table.write();
    }
}

/// The congestion controls that rows are measured under: reno, which every kernel has and which does not pace, and the machine's own.
pub(crate) fn congestion_controls() -> Vec<String> {
    let chosen = std::env::var("BENCH_CONGESTION").unwrap_or_default();
    let mut all = vec!["reno".to_owned(), congestion::current()];
    all.dedup();
    if !chosen.is_empty() {
        all = chosen.split(',').map(str::to_owned).collect();
    }
    all
}

fn idle(servers: &mut Servers, table: &mut Table) {
    let what = "anonymous memory, idle, before the first request";
    table.add(Row::once(what, "", "MiB", servers.idle.clone()));
    let larders = servers.running(&Kind::LARDERS);
    let [ready, memory] = in_turns("idle", rounds(1), &larders, |_, kind| {
        let (ready, memory) = servers::idle(kind, IDLE_BLOBS);
        Ok([ready, memory])
    });
    table.add(Row::less("ready, with 20,000 blobs and no index", "", "s", ready));
    table.add(Row::less("anonymous memory, idle, 20,000 blobs", "", "MiB", memory));
}
