//! How long warm manifests take while nothing else is done, and while 100 MB/s of cold blobs are stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder::reference::Digest;

use crate::Extent;
use crate::report::Part;
use crate::support::daemon::{Connection, Daemon};
use crate::support::images::{Image, Images, TAG};
use crate::support::machine::quantile;
use crate::support::registry::{Distance, Registry};

/// Clients that ask for the manifest, and how often each is to ask: 4,000 requests a second in all, which leaves the processors
/// idle for most of the time.
const CLIENTS: usize = 4;
const INTERVAL: Duration = Duration::from_millis(1);
/// Bytes a second from the registry, and the clients that download.
const RATE: f64 = 100e6;
const DOWNLOADERS: usize = 4;
/// Bytes of a cold layer.
const LAYER: usize = 4 * 1024 * 1024;
const SECONDS: usize = 10;

pub(crate) fn measure(extent: Extent) -> Part {
    let seconds = extent.of(SECONDS, 1);
    let mut part = Part {
        name: "latency",
        title: "Warm manifests beside downloads",
        how: format!(
            "Four clients ask for a stored manifest by digest, each once a millisecond by the clock, for {seconds} s. A request that could not be sent at its time, since the answer before it was late, is counted from that time. Meanwhile four clients download cold blobs of 4 MiB from a registry that sends 100 MB/s at most."
        ),
        x: "MB/s from the registry",
        columns: &["requests", "p50 (ms)", "p99 (ms)", "p99.9 (ms)"],
        plotted: &[1, 2, 3],
        rows: Vec::new(),
    };
    for downloads in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let content = Arc::new(Images::default());
        let warm = content.push("bench/warm", TAG, &[1_000], 1);
        // A little more than the line carries in that time.
        let layers = (RATE * (seconds + 2) as f64) as usize / LAYER;
        let layers = if downloads { vec![LAYER; layers] } else { Vec::new() };
        let cold = content.push("bench/cold", TAG, &layers, 2);
        let registry = Registry::start(&content, Distance { together: Some(RATE), ..Distance::default() });
        let daemon = Daemon::start(directory.path(), &registry.address, "100%");
        assert_eq!(daemon.connect().get(&warm.manifest_path(TAG)).0, 200);
        assert_eq!(daemon.connect().get(&cold.manifest_path(TAG)).0, 200);
        daemon.settle();
        let (before, begun) = (registry.sent(), Instant::now());
        let mut times = times(&daemon, &warm, &cold, Duration::from_secs(seconds as u64));
        let rate = (registry.sent() - before) as f64 / 1e6 / begun.elapsed().as_secs_f64();
        let count = times.len() as f64;
        let mut at = |share| quantile(&mut times, share);
        part.add("manifests", rate as usize, vec![count, at(0.5), at(0.99), at(0.999)]);
        daemon.stop();
    }
    part
}

/// Milliseconds of each request for the manifest, while the layers of `cold` are downloaded.
fn times(daemon: &Daemon, warm: &Image, cold: &Image, duration: Duration) -> Vec<f64> {
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let path = warm.manifest_path(&Digest::of(&warm.manifest).to_string());
    let until = Instant::now() + duration;
    std::thread::scope(|scope| {
        for _ in 0..DOWNLOADERS {
            scope.spawn(|| {
                let (mut connection, mut buffer) = (daemon.connect(), vec![0; 64 * 1024]);
                while !is_over.load(Ordering::Relaxed)
                    && let Some(layer) = cold.layers.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let path = cold.blob_path(&layer.digest);
                    assert_eq!(connection.count(&path, &mut buffer).0, 200, "{path}");
                }
            });
        }
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| by_schedule(&daemon.address, &path, until))).collect();
        let by_client = clients.into_iter().map(|client| client.join().unwrap());
        let times = by_client.flatten().collect();
        is_over.store(true, Ordering::Relaxed);
        times
    })
}

/// Milliseconds of each request of a client that is to ask once in each interval. Where the answer before was late, a request
/// counts from the moment that it was due; else from the moment that it was sent, since the client's own sleep may be
/// longer than it asked for.
fn by_schedule(address: &str, path: &str, until: Instant) -> Vec<f64> {
    let (mut connection, mut times) = (Connection::new(address), Vec::new());
    let mut due = Instant::now();
    let mut last = due;
    while due < until {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let from = if last > due { due } else { Instant::now() };
        assert_eq!(connection.get(path).0, 200);
        last = Instant::now();
        times.push((last - from).as_secs_f64() * 1e3);
        due += INTERVAL;
    }
    times
}
