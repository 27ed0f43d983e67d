//! Small ranges of a large layer, as stargz, nydus and SOCI ask for them: cold from upstream and warm, 64 at a time.
//!
//! `cargo bench --bench lazy`, which `make bench` runs. Writes `benches/LAZY.md` and `benches/lazy.json`. The registry is in this process and
//! answers after a millisecond; read the ratios, the figures are this machine's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::content::Bytes;
use support::daemon::Daemon;
use support::images::{Image, Images, TAG};
use support::machine;
use support::registry::{Distance, Registry};

/// Clients that ask at the same time.
const CLIENTS: usize = 64;
/// Ranges that each row asks for: all different, spread over the layer, less than half of it.
const RANGES: usize = 4_096;
/// Bytes of a range.
const SIZES: [usize; 3] = [4 * 1024, 16 * 1024, 64 * 1024];
/// Bytes of the layer.
const LAYER: usize = 1024 * 1024 * 1024;
/// How long it takes for an answer.
const DELAY: Duration = Duration::from_millis(1);

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    support::congestion::restore();
    let mut text = format!(
        "# Small ranges of a large layer\n\nWritten by `make bench` on {}: {}.\n64 clients at a time, 4,096 ranges spread over a layer of 1 GiB. The registry answers after a millisecond.\n\n| Range ({}) | | p50 (ms) | p99 (ms) | bytes from upstream per byte asked |\n| --- | --- | --- | --- | --- |\n",
        machine::today(),
        machine::describe(),
        machine::under()
    );
    let mut rows = Vec::new();
    for size in SIZES {
        let (directory, content) = (tempfile::tempdir().unwrap(), Arc::new(Images::default()));
        let bytes =
            Bytes::Computed(LAYER, Arc::new(|range: std::ops::Range<usize>| range.map(byte_at).collect()));
        let image = content.push_unhashed("lazy/app", bytes);
        let registry = Registry::start(&content, Distance { answer: DELAY, ..Distance::default() });
        let daemon = Daemon::start(directory.path(), &registry.address, "100%");
        // The right to the repository is proved by its manifest, as in a pull.
        assert_eq!(daemon.connect().get(&image.manifest_path(TAG)).0, 200);
        for when in ["cold", "warm"] {
            let before = registry.sent();
            let mut times = measure(&daemon, &image, size);
            let asked = (size * RANGES) as f64;
            let ratio = (registry.sent() - before) as f64 / asked;
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[(times.len() as f64 * share) as usize];
            let row =
                format!("| {} KiB | {when} | {:.2} | {:.2} | {ratio:.2} |\n", size / 1024, at(0.5), at(0.99));
            print!("{row}");
            text += &row;
            rows.push(serde_json::json!({
                "range_bytes": size, "when": when, "p50_ms": at(0.5), "p99_ms": at(0.99), "times_from_upstream": ratio,
            }));
        }
        daemon.stop();
    }
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches"));
    std::fs::write(directory.join("LAZY.md"), text).unwrap();
    let all = serde_json::json!({"date": machine::today(), "machine": machine::describe(), "rows": rows});
    std::fs::write(directory.join("lazy.json"), format!("{all:#}\n")).unwrap();
}

/// Milliseconds of each range.
fn measure(daemon: &Daemon, image: &Image, size: usize) -> Vec<f64> {
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(RANGES)));
    let path = image.blob_path(&image.layers[0].digest);
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
                    assert_eq!(body[0], byte_at(start));
                    times.lock().unwrap().push(time);
                }
            });
        }
    });
    times.into_inner().unwrap()
}

/// The byte of the layer at `offset`.
fn byte_at(offset: usize) -> u8 {
    (offset / 4096 % 251) as u8
}
