//! Compares Larder with nginx, docker-registry, Varnish, Traffic Server and drayage: the same files, on loopback, in one run, in turns.
//!
//! `make bench`. Needs nginx, docker-registry and wrk; other caches take part where they are installed (`tests/tools.sh --bench`
//! installs all). Writes `benches/RESULTS.md`,
//! `benches/results.json` and `benches/results.svg`. Read the ratios: the figures are this machine's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

mod client;
mod compare;
mod content;
mod crowd;
mod heads;
mod peers;
mod report;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::{Reply, fetch};
use compare::median;
use report::{Row, Table};
use servers::{Congestion, Kind, Servers};
use support::shaper::Shaper;

/// docker-registry sends an OCI manifest only to clients that accept one.
const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json";
/// How often each row is measured; the median counts.
const ROUNDS: usize = 5;
/// The same for cold blobs, which vary more because of the disk.
const COLD_ROUNDS: usize = 9;

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let mib: usize = std::env::var("BENCH_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(1024);
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(65_536), maximum: Some(65_536) },
    );
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|one| one == name);
    let mut servers = Servers::start(mib);
    let mut table = Table::new(mib);
    if wanted("cold") {
        cold(&mut servers, &mut table);
    }
    if wanted("crowd") {
        crowd::measure(&mut servers, &mut table);
    }
    if wanted("first") {
        crowd::first_byte(&mut servers, &mut table);
    }
    if wanted("head") {
        heads::measure(&servers, &mut table);
    }
    if wanted("shaped") {
        gigabit(&mut servers, &mut table);
        throttled(&mut servers, &mut table);
        hundred(&mut servers, &mut table);
    }
    if wanted("warm") {
        for readers in [1, 4] {
            warm(&servers, &mut table, readers, None);
            warm(&servers, &mut table, readers, Some(Congestion::reno()));
        }
    }
    if wanted("manifest") {
        manifests(&servers, &mut table);
    }
    if wanted("slow") {
        slow_readers(&servers, &mut table);
    }
    if wanted("idle") {
        idle(&mut table);
    }
    let peak = servers.all.iter().map(|server| (server.kind, server.peak_mib())).collect();
    table.add(Row::once("peak memory over all of this".into(), "MiB", false, peak));
    table.print_changes();
    // Parts of it, and comparisons with an earlier build, are for the developer's eyes and not committed.
    if only.is_empty() && std::env::var_os("BENCH_BEFORE").is_none() {
        table.write();
    }
}

/// How often a row is measured: `BENCH_ROUNDS`, else `usual`.
fn rounds(usual: usize) -> usize {
    std::env::var("BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A large blob that is in the page cache, read by this many readers at once; every byte is compared.
fn warm(servers: &Servers, table: &mut Table, readers: usize, congestion: Option<Congestion>) {
    let mut rates: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
    let mut cpu: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
    for _ in 0..=rounds(ROUNDS) {
        for server in &servers.all {
            let before = server.cpu_seconds();
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..readers {
                    scope.spawn(|| fetch(server, &server.blob_path(&servers.large), &servers.large_bytes));
                }
            });
            let gigabytes = (servers.large_bytes.len() * readers) as f64 / 1e9;
            rates.entry(server.kind).or_default().push(gigabytes / begun.elapsed().as_secs_f64());
            cpu.entry(server.kind).or_default().push((server.cpu_seconds() - before) / gigabytes);
        }
    }
    // The first round fills caches and stores.
    for rounds in [&mut rates, &mut cpu] {
        rounds.values_mut().for_each(|values| *values = values.split_off(1));
    }
    let under = congestion.map_or("", |_| ", reno");
    table.add(Row::of(format!("warm blob, {readers} reader(s){under}"), "GB/s", true, rates));
    table.add(Row::of(format!("server CPU, {readers} reader(s){under}"), "s/GB", false, cpu));
}

/// A small manifest on 32 connections.
fn manifests(servers: &Servers, table: &mut Table) {
    let mut rates: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
    let mut cpu: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds(ROUNDS) {
        for server in &servers.all {
            let before = server.cpu_seconds();
            let url = format!("http://{}{}", server.address, server.manifest_path(&servers.manifest));
            let done = std::process::Command::new("wrk")
                .args(["-t2", "-c32", "-d2s", "-H", ACCEPT, &url])
                .output()
                .expect("wrk");
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(!text.contains("Non-2xx"), "{:?}: {text}", server.kind);
            let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("a rate");
            rates.entry(server.kind).or_default().push(rate.trim().parse().unwrap());
            let count =
                text.lines().find_map(|line| line.trim().split_once(" requests in")).expect("a count").0;
            let micros = (server.cpu_seconds() - before) * 1e6 / count.parse::<f64>().unwrap();
            cpu.entry(server.kind).or_default().push(micros);
        }
    }
    table.add(Row::of("warm manifest, 32 connections".into(), "req/s", true, rates));
    table.add(Row::of("server CPU, warm manifest".into(), "µs", false, cpu));
}

/// A blob that no cache has stored, from docker-registry; compared with docker-registry itself.
fn cold(servers: &mut Servers, table: &mut Table) {
    type Measured = BTreeMap<Kind, Vec<f64>>;
    let (mut rates, mut firsts, mut cpu): (Measured, Measured, Measured) = Default::default();
    // A sender that paces, as BBR does, settles on one of two rates on loopback, so that results with it vary by chance.
    let _reno = Congestion::reno();
    for _ in 0..rounds(COLD_ROUNDS) {
        let (digest, bytes) = servers.push_fresh(256);
        for kind in std::iter::once(Kind::Registry).chain(servers.caches()) {
            let server = servers.of(kind);
            // Waits until the disk has written what earlier runs left.
            rustix::fs::sync();
            let before = server.cpu_seconds();
            let Reply { first_byte, total } = fetch(server, &server.blob_path(&digest), &bytes);
            let gigabytes = bytes.len() as f64 / 1e9;
            cpu.entry(kind).or_default().push((server.cpu_seconds() - before) / gigabytes);
            rates.entry(kind).or_default().push(gigabytes / total.as_secs_f64());
            firsts.entry(kind).or_default().push(first_byte.as_secs_f64() * 1e3);
        }
    }
    table.add(Row::of("cold blob (docker-registry: direct)".into(), "GB/s", true, rates));
    table.add(Row::of("server CPU, cold blob (docker-registry: direct)".into(), "s/GB", false, cpu));
    table.add(Row::of("cold blob, first byte (docker-registry: direct)".into(), "ms", false, firsts));
}

/// A new blob through a shaped proxy to the registry: directly, and through Larder, in megabytes a second.
fn through(
    servers: &mut Servers,
    shaper: impl Fn(&Servers) -> &Shaper,
    host: &str,
    mib: usize,
) -> BTreeMap<Kind, f64> {
    let (mut direct, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (digest, bytes) = servers.push_fresh(mib);
        let path = format!("/v2/bench/app/blobs/{digest}");
        let rate = |reply: Reply| bytes.len() as f64 / 1e6 / reply.total.as_secs_f64();
        direct.push(rate(client::fetch_from(&shaper(servers).address, &path, &bytes)));
        rustix::fs::sync();
        let larder = servers.of(Kind::Larder);
        cached.push(rate(fetch(larder, &format!("{path}?ns={host}"), &bytes)));
    }
    BTreeMap::from([(Kind::Larder, median(&cached)), (Kind::Registry, median(&direct))])
}

fn gigabit(servers: &mut Servers, table: &mut Table) {
    let values = through(servers, |servers| &servers.shaped.gigabit, "gigabit.test", 256);
    let what = "cold blob, upstream at 1 Gbit/s (docker-registry: direct)".into();
    table.add(Row::once(what, "MB/s", true, values));
}

fn throttled(servers: &mut Servers, table: &mut Table) {
    let values = through(servers, |servers| &servers.shaped.throttled, "throttled.test", 256);
    let what = "cold blob, upstream at 20 MB/s a connection (docker-registry: direct)".into();
    table.add(Row::once(what, "MB/s", true, values));
}

/// One client directly, then a hundred of another blob through Larder.
fn hundred(servers: &mut Servers, table: &mut Table) {
    let (digest, bytes) = servers.push_fresh(64);
    let slow = &servers.shaped.slow;
    let alone = client::fetch_from(&slow.address, &format!("/v2/bench/app/blobs/{digest}"), &bytes).total;
    let (digest, bytes) = servers.push_fresh(64);
    let (larder, slow) = (servers.of(Kind::Larder), &servers.shaped.slow);
    let (before, begun) = (slow.sent(), Instant::now());
    let path = format!("/v2/bench/app/blobs/{digest}?ns=slow.test");
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| fetch(larder, &path, &bytes));
        }
    });
    let values = BTreeMap::from([
        (Kind::Larder, begun.elapsed().as_secs_f64()),
        (Kind::Registry, alone.as_secs_f64()),
    ]);
    let what = "100 clients of a cold blob at 8 MB/s (docker-registry: one, direct)".into();
    table.add(Row::once(what, "s", false, values));
    let times = (slow.sent() - before) as f64 / bytes.len() as f64;
    let what = "bytes from upstream for those 100".into();
    let values = BTreeMap::from([(Kind::Larder, times)]);
    table.add(Row::once(what, "times the blob", false, values));
}

/// A thousand readers that took a little and then stopped.
fn slow_readers(servers: &Servers, table: &mut Table) {
    let (mut memory, mut sockets) = (BTreeMap::new(), BTreeMap::new());
    for server in &servers.all {
        let path = server.blob_path(&servers.large);
        let before = servers::socket_mib();
        let held: Vec<_> = (0..1_000).map(|_| client::begin(server, &path)).collect();
        std::thread::sleep(Duration::from_secs(2));
        memory.insert(server.kind, server.anonymous_mib());
        sockets.insert(server.kind, servers::socket_mib() - before);
        drop(held);
        std::thread::sleep(Duration::from_secs(1));
    }
    let what = "anonymous memory, 1,000 slow readers".into();
    table.add(Row::once(what, "MiB", false, memory));
    let what = "socket memory of the kernel, both ends, 1,000 slow readers".into();
    table.add(Row::once(what, "MiB", false, sockets));
}

fn idle(table: &mut Table) {
    let (ready, memory) = servers::idle(20_000);
    let only = |value| BTreeMap::from([(Kind::Larder, value)]);
    let what = "ready, with 20,000 blobs and no index".into();
    table.add(Row::once(what, "s", false, only(ready)));
    let what = "anonymous memory, idle, 20,000 blobs".into();
    table.add(Row::once(what, "MiB", false, only(memory)));
}
