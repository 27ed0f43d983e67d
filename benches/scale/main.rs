//! What a store of 1,000, 10,000, 100,000 and 1,000,000 blobs costs: starts, memory, requests, commands.
//!
//! `make bench-scale`. Writes `benches/SCALE.md` and `benches/scale.svg`. The files are small, so that a million of them
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

use fixture::{REPOSITORY, cold_blob, warm_blob};
use registry::Endless;
use report::Table;
use support::daemon::Daemon;
use support::registry::{Distance, Registry};

/// Blobs that are asked for in a row of the table.
const REQUESTS: usize = 400;
/// One of so many blobs is the manifest of a tag, up to the most tags.
const BLOBS_PER_TAG: usize = 10;
const TAGS_MAX: usize = 100_000;

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
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
    table.add("a cold blob just then (ms)", blobs, cold_requests(&daemon, &mut cold, 1).0);
    table.add("all blobs counted after an unclean stop (s)", blobs, daemon.counted(blobs));
    daemon.settle();
    table.add("index complete on disk (s of processor)", blobs, daemon.cpu_seconds());
    requests(&daemon, blobs, table, "", &mut cold);
    commands(&daemon, blobs, table);
    table.add("stop (s)", blobs, daemon.stop());

    let daemon = Daemon::start(state, &registry.address, "100%");
    table.add("ready after a clean stop (s)", blobs, daemon.ready);
    table.add("all blobs counted after a clean stop (s)", blobs, daemon.counted(blobs));
    daemon.settle();
    table.add("memory when idle (MiB)", blobs, daemon.memory() / f64::from(1 << 20));
    daemon.kill();

    // A budget that is used up to the last byte.
    let daemon = Daemon::start(state, &registry.address, &used_bytes(state).to_string());
    daemon.counted(blobs);
    daemon.settle();
    requests(&daemon, blobs, table, ", at its budget", &mut cold);
}

/// Times of warm and cold requests, and what they cost.
fn requests(
    daemon: &Daemon,
    blobs: usize,
    table: &mut Table,
    when: &str,
    cold: &mut impl Iterator<Item = usize>,
) {
    let before = daemon.cpu_seconds();
    let mut connection = daemon.connect();
    let mut times = Vec::new();
    for n in 0..REQUESTS {
        // Spread over the store; at its budget the first may have been evicted.
        let content = warm_blob(blobs - 1 - n * (blobs / 2 / REQUESTS).max(1) % (blobs / 2));
        let path = format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(&content));
        let begun = Instant::now();
        let (status, body) = connection.get(&path);
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert!(status == 200 && body == content, "{path}: {status}");
    }
    let cpu = (daemon.cpu_seconds() - before) / REQUESTS as f64;
    table.add(&format!("a warm small blob{when} (ms)"), blobs, median(times));
    table.add(&format!("its processor time{when} (ms)"), blobs, cpu * 1e3);
    let (time, cpu) = cold_requests(daemon, cold, REQUESTS);
    table.add(&format!("a cold blob{when} (ms)"), blobs, time);
    table.add(&format!("its processor time{when}, storing included (ms)"), blobs, cpu);
}

/// The median of the times, and the processor time of one, in milliseconds.
fn cold_requests(daemon: &Daemon, cold: &mut impl Iterator<Item = usize>, count: usize) -> (f64, f64) {
    let before = daemon.cpu_seconds();
    let mut connection = daemon.connect();
    let mut times = Vec::new();
    for n in cold.take(count) {
        let content = cold_blob(n);
        let path = format!("/v2/cold/{n}/blobs/{}", Digest::of(&content));
        let begun = Instant::now();
        let (status, body) = connection.get(&path);
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert!(status == 200 && body == content, "{path}: {status}");
    }
    // What is stored after the answer counts too.
    std::thread::sleep(std::time::Duration::from_millis(500));
    (median(times), (daemon.cpu_seconds() - before) / count as f64 * 1e3)
}

fn commands(daemon: &Daemon, blobs: usize, table: &mut Table) {
    let times = (0..20).map(|_| {
        let begun = Instant::now();
        assert_eq!(daemon.admin_get("/v1/status").unwrap().0, 200);
        begun.elapsed().as_secs_f64() * 1e3
    });
    table.add("/v1/status (ms)", blobs, median(times.collect()));
    table.add("larder status (ms)", blobs, daemon.command(&["status"]) * 1e3);
    table.add("larder ls (s)", blobs, daemon.command(&["ls"]));
    table.add("larder gc (s)", blobs, daemon.command(&["gc"]));
}

fn used_bytes(state: &Path) -> u64 {
    let files = std::fs::read_dir(state.join("store/blobs/sha256")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
