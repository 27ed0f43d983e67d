//! Many clients of one cold blob, and the first byte of a cold pull.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{self, fetch};
use crate::report::{Row, Table};
use crate::servers::{Congestion, Kind, Server, Servers};

const CLIENTS: usize = 20;
/// How often each row is measured; the median counts.
const ROUNDS: usize = 3;

type Measured = BTreeMap<Kind, Vec<f64>>;

/// Twenty clients that ask for a blob that no cache has stored, all at once.
pub(crate) fn measure(servers: &mut Servers, table: &mut Table) {
    let (mut seconds, mut cpu, mut upstream, mut memory): (Measured, Measured, Measured, Measured) =
        Default::default();
    let _reno = Congestion::reno();
    for _ in 0..crate::rounds(ROUNDS) {
        for kind in servers.caches() {
            let (digest, bytes) = servers.push_fresh(256);
            let (server, registry) = (servers.of(kind), servers.of(Kind::Registry));
            rustix::fs::sync();
            let (before, sent, begun) = (server.cpu_seconds(), registry.written(), Instant::now());
            let path = server.blob_path(&digest);
            let peak = peak_while(server, || {
                std::thread::scope(|scope| {
                    for _ in 0..CLIENTS {
                        scope.spawn(|| fetch(server, &path, &bytes));
                    }
                });
            });
            seconds.entry(kind).or_default().push(begun.elapsed().as_secs_f64());
            let served = (bytes.len() * CLIENTS) as f64;
            cpu.entry(kind).or_default().push((server.cpu_seconds() - before) / served * 1e9);
            let times = (registry.written() - sent) as f64 / bytes.len() as f64;
            upstream.entry(kind).or_default().push(times);
            memory.entry(kind).or_default().push(peak);
        }
    }
    table.add(Row::of(format!("cold blob, {CLIENTS} clients"), "s", false, seconds));
    table.add(Row::of(format!("server CPU, cold blob, {CLIENTS} clients"), "s/GB", false, cpu));
    let what = format!("bytes from upstream for those {CLIENTS}");
    table.add(Row::of(what, "times the blob", false, upstream));
    table.add(Row::of(format!("peak of anonymous memory, {CLIENTS} clients"), "MiB", false, memory));
}

/// The most anonymous memory that the server had at one of the looks while this ran.
fn peak_while(server: &Server, work: impl FnOnce()) -> f64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut peak = 0.0;
            while !done.load(Ordering::Relaxed) {
                peak = server.anonymous_mib().max(peak);
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        work();
        done.store(true, Ordering::Relaxed);
        looks.join().expect("the looks")
    })
}

/// A pull over 20 MB/s: the tag, its manifest, and the first byte of a layer that no cache has stored.
pub(crate) fn first_byte(servers: &mut Servers, table: &mut Table) {
    let (mut of_pull, mut of_question): (Measured, Measured) = Default::default();
    for _ in 0..crate::rounds(crate::COLD_ROUNDS) {
        for kind in [Kind::Registry, Kind::Larder, Kind::LarderBefore] {
            if !servers.all.iter().any(|server| server.kind == kind) {
                continue;
            }
            let image = servers.push_image(4);
            rustix::fs::sync();
            let (address, host) = match kind {
                Kind::Registry => (servers.shaped.throttled.address.clone(), ""),
                _ => (servers.of(kind).address.clone(), "?ns=throttled.test"),
            };
            let begun = Instant::now();
            client::question(&address, "HEAD", &format!("/v2/bench/app/manifests/{}{host}", image.tag));
            client::question(&address, "GET", &format!("/v2/bench/app/manifests/{}{host}", image.manifest));
            let asked = Instant::now();
            client::question(&address, "GET", &format!("/v2/bench/app/blobs/{}{host}", image.layer));
            of_pull.entry(kind).or_default().push(begun.elapsed().as_secs_f64() * 1e3);
            of_question.entry(kind).or_default().push(asked.elapsed().as_secs_f64() * 1e3);
        }
    }
    let what = "first byte of a layer over 20 MB/s, from the pull's start (docker-registry: direct)";
    table.add(Row::of(what.into(), "ms", false, of_pull));
    let what = "first byte of a layer over 20 MB/s, from the question (docker-registry: direct)";
    table.add(Row::of(what.into(), "ms", false, of_question));
}
