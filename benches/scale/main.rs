//! What a store of 1,000, 10,000, 100,000 and 1,000,000 blobs costs: starts, memory, requests, commands.
//!
//! `make bench-scale`. Writes `benches/SCALE.md`, `benches/scale.json` and `benches/scale.svg`. The files are small, so that a million of them
//! fits on a common disk (about 16 GiB with ext4). Read the ratios between the columns: the figures are this machine's.
//! `SCALE=1000,2000` measures stores of these sizes and writes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

mod fixture;
mod registry;
mod report;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use larder::reference::Digest;

use fixture::{
    LARGE_BYTES, LARGE_DIGEST, LARGE_REPOSITORY, REPOSITORY, cold_blob, small_range_max, warm_blob,
};
use registry::Endless;
use report::Table;
use support::daemon::Daemon;
use support::registry::{Distance, Registry};

/// Blobs that are asked for in a row of the table.
const REQUESTS: usize = 2_000;
/// Blobs that are asked for again and again.
const REQUESTS_AGAIN: usize = 200;
/// One of so many blobs is the manifest of a tag, up to the most tags.
const BLOBS_PER_TAG: usize = 10;
const TAGS_MAX: usize = 100_000;

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    support::congestion::restore();
    let chosen = std::env::var("SCALE").ok();
    let sizes: Vec<usize> = chosen
        .as_deref()
        .unwrap_or("1000,10000,100000,1000000")
        .split(',')
        .map(|size| size.parse().expect("SCALE is a list of numbers"))
        .collect();
    let mut table = Table::new(&sizes);
    for &size in &sizes {
        measure(size, &mut table);
    }
    if chosen.is_none() {
        table.write();
    }
}

fn measure(blobs: usize, table: &mut Table) {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    let registry = Registry::start(&Arc::new(Endless), Distance::default());
    let begun = Instant::now();
    fixture::write(&state.join("store"), blobs, (blobs / BLOBS_PER_TAG).min(TAGS_MAX));
    println!("{blobs} blobs were made in {:.0} s", begun.elapsed().as_secs_f64());

    let mut cold = 0..;
    let daemon = Daemon::start(state, &registry.address, "100%");
    table.add("ready after an unclean stop (s)", blobs, daemon.ready);
    table.add("a cold blob just then (ms)", blobs, cold_requests(&daemon, &mut cold, 1).milliseconds);
    table.add("all blobs counted after an unclean stop (s)", blobs, daemon.counted(blobs));
    daemon.settle();
    table.add("index complete on disk (s of processor)", blobs, daemon.cpu_seconds());
    requests(&daemon, blobs, table, "", &mut cold);
    ranges(&daemon, blobs, table);
    commands(&daemon, blobs, table, "");
    table.add("stop (s)", blobs, daemon.stop());

    let daemon = Daemon::start(state, &registry.address, "100%");
    table.add("ready after a clean stop (s)", blobs, daemon.ready);
    table.add("all blobs counted after a clean stop (s)", blobs, daemon.counted(blobs));
    daemon.settle();
    table.add(report::MEMORY, blobs, daemon.memory() / f64::from(1 << 20));
    daemon.kill();

    // A budget that is used up to the last byte.
    let used = used_bytes(state);
    let daemon = Daemon::start(state, &registry.address, &used.to_string());
    table.add("ready after an unclean stop, at its budget (s)", blobs, daemon.ready);
    daemon.counted(blobs * 9 / 10);
    daemon.settle();
    requests(&daemon, blobs, table, ", at its budget", &mut cold);
    commands(&daemon, blobs, table, ", at its budget");
    table.add("stop, at its budget (s)", blobs, daemon.stop());

    // A smaller budget than what is there: a tenth of the blobs have to go.
    let left = blobs * 9 / 10;
    let daemon = Daemon::start(state, &registry.address, &(used / 10 * 9).to_string());
    let before = daemon.cpu_seconds();
    let seconds = daemon.command(&["gc"]);
    daemon.wait(|daemon| daemon.blobs().is_some_and(|counted| counted <= left));
    daemon.settle();
    table.add("larder gc, a tenth of the blobs to evict (s)", blobs, seconds);
    let each = (daemon.cpu_seconds() - before) / (blobs - left) as f64;
    table.add("a blob's eviction (ms of processor)", blobs, each * 1e3);
}

/// What a request costs.
struct Cost {
    /// The median of the times until its answer is complete.
    milliseconds: f64,
    /// Milliseconds of processor, what follows the answer included.
    processor: f64,
}

/// Times of warm and cold requests, and what they cost.
fn requests(
    daemon: &Daemon,
    blobs: usize,
    table: &mut Table,
    when: &str,
    cold: &mut impl Iterator<Item = usize>,
) {
    // Spread over the store; at its budget the first may have been evicted.
    let spread = |n: usize| blobs - 1 - n * (blobs / 2 / REQUESTS).max(1) % (blobs / 2);
    // What has not been asked for since the daemon started, and what was asked for a moment ago.
    let first = warm_requests(daemon, (0..REQUESTS).map(spread));
    let again = warm_requests(daemon, (0..REQUESTS).map(|n| spread(n % REQUESTS_AGAIN)));
    let cold = cold_requests(daemon, cold, REQUESTS);
    let rows = [
        ("a warm small blob, its first request", first),
        ("a warm small blob", again),
        ("a cold blob", cold),
    ];
    for (what, cost) in rows {
        table.add(&format!("{what}{when} (ms)"), blobs, cost.milliseconds);
        table.add(&format!("{what}{when} (ms of processor)"), blobs, cost.processor);
    }
}

fn warm_requests(daemon: &Daemon, numbers: impl Iterator<Item = usize>) -> Cost {
    let paths = numbers.map(|n| {
        let content = warm_blob(n);
        (format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(&content)), content)
    });
    timed(daemon, paths)
}

fn cold_requests(daemon: &Daemon, cold: &mut impl Iterator<Item = usize>, count: usize) -> Cost {
    let paths = cold.take(count).map(|n| {
        let content = cold_blob(n);
        (format!("/v2/cold/{n}/blobs/{}", Digest::of(&content)), content)
    });
    timed(daemon, paths)
}

/// Asks for each path over one connection, and compares the content.
fn timed(daemon: &Daemon, paths: impl Iterator<Item = (String, Vec<u8>)>) -> Cost {
    let before = daemon.cpu_seconds();
    let mut connection = daemon.connect();
    let mut times = Vec::new();
    for (path, content) in paths {
        let begun = Instant::now();
        let (status, body) = connection.get(&path);
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert!(status == 200 && body == content, "{path}: {status}");
    }
    // What is stored after the answer counts too.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let processor = (daemon.cpu_seconds() - before) * 1e3 / times.len() as f64;
    Cost { milliseconds: median(times), processor }
}

/// Times of 1 kB of a small blob and of a large one.
fn ranges(daemon: &Daemon, blobs: usize, table: &mut Table) {
    let mut connection = daemon.connect();
    let mut buffer = vec![0; 1 << 20];
    let large = format!("/v2/{LARGE_REPOSITORY}/blobs/{}", LARGE_DIGEST);
    assert_eq!(connection.count(&large, &mut buffer), (200, LARGE_BYTES));
    daemon.settle();
    let small = warm_blob(blobs - 1);
    let small = format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(&small));
    for (what, path, bytes) in
        [("a small", small, small_range_max()), ("a large", large, LARGE_BYTES - 1_000)]
    {
        let times = (0..REQUESTS).map(|n| {
            let from = n * (bytes / REQUESTS);
            let begun = Instant::now();
            let range = format!("bytes={from}-{}", from + 999);
            let (status, body) = connection.get_with(&path, &[("Range", &range)]);
            assert!(status == 206 && body.len() == 1_000, "{path}: {status}");
            begun.elapsed().as_secs_f64() * 1e3
        });
        table.add(&format!("1 kB of {what} blob (ms)"), blobs, median(times.collect()));
    }
}

fn commands(daemon: &Daemon, blobs: usize, table: &mut Table, when: &str) {
    let times = (0..20).map(|_| {
        let begun = Instant::now();
        assert_eq!(daemon.admin_get("/v1/status").unwrap().0, 200);
        begun.elapsed().as_secs_f64() * 1e3
    });
    table.add(&format!("/v1/status{when} (ms)"), blobs, median(times.collect()));
    table.add(&format!("larder status{when} (ms)"), blobs, daemon.command(&["status"]) * 1e3);
    table.add(&format!("larder ls{when} (s)"), blobs, daemon.command(&["ls"]));
    table.add(&format!("larder gc, nothing to evict{when} (s)"), blobs, daemon.command(&["gc"]));
}

fn used_bytes(state: &Path) -> u64 {
    let files = std::fs::read_dir(state.join("store/blobs/sha256")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
