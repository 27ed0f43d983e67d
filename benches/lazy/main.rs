//! Small ranges of a large layer, as stargz, nydus and SOCI ask for them: cold from upstream and warm, 64 at a time.
//!
//! `cargo bench --bench lazy`, which `make bench` runs. Writes `benches/LAZY.md`. The registry is in this process and
//! answers after a millisecond; read the ratios, the figures are this machine's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

#[path = "../scale/daemon.rs"]
#[allow(dead_code, reason = "the other benchmark needs more of it")]
mod daemon;
mod registry;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use daemon::Daemon;
use registry::{Registry, TAG};

/// Clients that ask at the same time.
const CLIENTS: usize = 64;
/// Ranges that each row asks for: all different, spread over the layer, less than half of it.
const RANGES: usize = 4_096;
/// Bytes of a range.
const SIZES: [usize; 3] = [4 * 1024, 16 * 1024, 64 * 1024];
/// Bytes of the layer.
const LAYER: usize = 1024 * 1024 * 1024;

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let mut text = String::from(
        "# Small ranges of a large layer\n\n64 clients at a time, 4,096 ranges spread over a layer of 1 GiB; `make bench` \
         writes this.\n\n| Range | | p50 (ms) | p99 (ms) | bytes from upstream per byte asked |\n| --- | --- | --- | --- | --- |\n",
    );
    for size in SIZES {
        let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start(LAYER));
        let daemon = Daemon::start(directory.path(), &registry.address, "100%");
        // The right to the repository is proved by its manifest, as in a pull.
        assert_eq!(daemon.connect().get(&format!("/v2/lazy/app/manifests/{TAG}")).0, 200);
        for when in ["cold", "warm"] {
            let before = registry.sent();
            let mut times = measure(&daemon, &registry, size);
            let asked = (size * RANGES) as f64;
            let ratio = (registry.sent() - before) as f64 / asked;
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[(times.len() as f64 * share) as usize];
            let row =
                format!("| {} KiB | {when} | {:.2} | {:.2} | {ratio:.2} |\n", size / 1024, at(0.5), at(0.99));
            print!("{row}");
            text += &row;
        }
        daemon.stop();
    }
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/LAZY.md"), text).unwrap();
}

/// Milliseconds of each range.
fn measure(daemon: &Daemon, registry: &Registry, size: usize) -> Vec<f64> {
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(RANGES)));
    let path = format!("/v2/lazy/app/blobs/{}", registry.layer);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = daemon.connect();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= RANGES {
                        return;
                    }
                    // Spread, and never two of them adjacent.
                    let start = (n * 2_654_435_761 % RANGES) * (LAYER / RANGES);
                    let range = format!("bytes={start}-{}", start + size - 1);
                    let begun = Instant::now();
                    let (status, body) = connection.get_with(&path, &[("Range", &range)]);
                    let time = begun.elapsed().as_secs_f64() * 1e3;
                    assert!(status == 206 && body.len() == size, "{range}: {status}");
                    assert_eq!(body[0], registry::byte_at(start));
                    times.lock().unwrap().push(time);
                }
            });
        }
    });
    times.into_inner().unwrap()
}
