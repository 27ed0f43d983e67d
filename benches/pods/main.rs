//! From the moment that a pod is bound until its last image is pulled, with the watch of pods and without it.
//!
//! `make bench`, or `cargo bench --bench pods`. Writes `benches/PODS.md`, `benches/pods.json` and `benches/pods.svg`. A
//! scripted kubelet starts pods of 1, 3 and 10 images, one after the other, against a daemon in a process of its own; the
//! API server and the upstream are in this process, and the upstream is slow on purpose: 50 ms away, 20 MB/s a connection,
//! 100 MB/s in all. So most of the time is waiting, and a busy machine gives rough figures too.
//! `POD_MIB=1 POD_ROUNDS=1` is short and writes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

mod kubelet;
mod report;
#[path = "../support/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use report::{Row, Table};
use shared::daemon::Daemon;
use shared::images::{Image, Images, TAG};
use shared::registry::{Distance, Registry};
use support::api_server::ApiServer;
use support::api_server::objects::Pod;

const NODE: &str = "bench-node";
/// Images of a pod.
const PODS: [usize; 3] = [1, 3, 10];
/// Layers of an image; together they have the size of the image.
const LAYERS: usize = 3;
/// There and back to the registry.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Bytes a second of a connection to it, and of all together.
const CONNECTION_RATE: f64 = 20e6;
const LINK_RATE: f64 = 100e6;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    shared::congestion::restore();
    let (mib, rounds) = (number("POD_MIB", 9), number("POD_ROUNDS", 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut table = Table::new(mib, rounds);
    for images in PODS {
        let mut row = Row::new(images);
        for round in 0..rounds {
            // In turns, so that what else the machine does meets both.
            for watch in [false, true] {
                let (cold, warm) = runtime.block_on(start_twice(images, mib, round, watch));
                row.add(watch, cold, warm);
            }
        }
        table.add(row);
    }
    if std::env::var_os("POD_MIB").is_none() && std::env::var_os("POD_ROUNDS").is_none() {
        table.write();
    }
}

/// Starts a pod of images that are in no store, then another of the same images; the time of each.
async fn start_twice(images: usize, mib: usize, round: usize, watch: bool) -> (Duration, Duration) {
    let directory = tempfile::tempdir().unwrap();
    let content = Arc::new(Images::default());
    let layers = [(mib << 20) / LAYERS; LAYERS];
    let push =
        |n: usize| content.push(&format!("bench/image-{n}"), TAG, &layers, (round * images + n) as u64 + 1);
    let images: Vec<Image> = (0..images).map(push).collect();
    let (connect, answer) = (ROUND_TRIP, ROUND_TRIP);
    let distance = Distance { connect, answer, each: Some(CONNECTION_RATE), together: Some(LINK_RATE) };
    let registry = Registry::start(&content, distance);
    let server = ApiServer::start().await;
    let identity =
        server.authorities.identity(directory.path(), &server.url(), &format!("system:node:{NODE}"));
    let section =
        format!("[kubernetes]\nkubeconfig = \"{}\"\nnode = \"{NODE}\"", identity.kubeconfig.display());
    let more = if watch { section.as_str() } else { "" };
    let daemon = Daemon::start_with(directory.path(), &registry.address, "100%", more);
    if watch {
        server.watched(1).await;
    }
    let mut times = Vec::new();
    for name in ["cold", "warm"] {
        let pod = images.iter().fold(Pod::new("bench", name, NODE), |pod, image| {
            pod.image_with(&format!("reg.test/{}:{TAG}", image.repository), "Always")
        });
        server.put_pod(pod);
        times.push(kubelet::start(daemon.address.parse().unwrap(), &images).await);
        server.edit_pod("bench", name, support::api_server::objects::run);
    }
    daemon.stop();
    (times[0], times[1])
}
