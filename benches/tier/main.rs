//! What a shared tier is worth to a new node, and what writing to it costs the first one.
//!
//! `cargo bench --bench tier`, which `make bench` runs. Needs SeaweedFS (`tests/tools.sh --bench` installs it). Writes
//! `benches/TIER.md`, `benches/tier.json` and `benches/tier.svg`. The registry answers after 50 ms and sends 20 MB/s in
//! all; the object store is on loopback. Read the ratios: the figures are this machine's.
//! `BENCH_MIB=64` pulls a smaller image and writes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

mod report;
mod store;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use report::{Measured, Report};
use store::Store;
use support::daemon::Daemon;
use support::images::{Image, Images};
use support::registry::{Distance, Registry};
use support::shaper::{Limit, Shaper};

/// Bytes a second of the registry's link.
const LINK: f64 = 20e6;
/// How often each row is measured; the median counts. Each time it is another image.
const ROUNDS: usize = 5;
/// Bytes of an image, in MiB, and its layers.
const MIB: usize = 256;
const LAYERS: usize = 4;
/// The round trip to a registry on another network.
const DELAY: Duration = Duration::from_millis(50);
/// Layers that a runtime fetches at a time.
const AT_ONCE: usize = 3;

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    support::congestion::restore();
    let chosen: Option<usize> = std::env::var("BENCH_MIB").ok().and_then(|text| text.parse().ok());
    let mib = chosen.unwrap_or(MIB);
    let images = Arc::new(Images::default());
    let registry = Registry::start(&images, Distance { answer: DELAY, ..Distance::default() });
    let link = Shaper::start(&registry.address, Limit::Together(LINK));
    let store = Store::start();
    let mut report = Report::new(mib, LAYERS);
    for round in 0..ROUNDS {
        let image =
            images.push("bench/app", &format!("v{round}"), &[(mib << 20) / LAYERS; LAYERS], round as u64 + 1);
        report.add("new node, no tier", pull(&image, &link, ""));
        report.add("first node, it writes to the tier", pull(&image, &link, &store.section()));
        report.add("new node, the tier has the image", pull(&image, &link, &store.section()));
        images.forget(&image);
    }
    report.print();
    if chosen.is_none() {
        report.write(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches")));
    }
}

/// An empty node pulls the image as a runtime does; its processor time until everything is stored and shared counts.
fn pull(image: &Image, link: &Shaper, tier: &str) -> Measured {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_with(directory.path(), &link.address, "100%", tier);
    daemon.settle();
    let expected: Vec<_> = image.layers.iter().map(|layer| layer.bytes.read(0..layer.bytes.len())).collect();
    rustix::fs::sync();
    let (cpu, sent) = (daemon.cpu_seconds(), link.sent());
    let begun = Instant::now();
    let (status, manifest) = daemon.connect().get(&image.manifest_path(&image.tag));
    assert!(status == 200 && manifest == image.manifest, "manifest: {status}");
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut connection = daemon.connect();
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(layer) = image.layers.get(at) else { return };
                    let (status, body) = connection.get(&image.blob_path(&layer.digest));
                    assert!(
                        status == 200 && body == expected[at],
                        "layer {at}: {status}, {} bytes",
                        body.len()
                    );
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    // Until the last layer is stored here and in the tier.
    std::thread::sleep(Duration::from_secs(2));
    daemon.settle();
    let gigabytes = image.bytes() as f64 / 1e9;
    let measured = Measured {
        seconds,
        cpu_per_gb: (daemon.cpu_seconds() - cpu) / gigabytes,
        from_registry: (link.sent() - sent) as f64 / image.bytes() as f64,
    };
    daemon.stop();
    measured
}
