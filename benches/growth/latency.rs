//! How long warm manifests take while nothing else is done, and while 100 MB/s of cold blobs are stored.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::reference::Digest;

use crate::Extent;
use crate::report::Part;
use crate::support::daemon::Daemon;
use crate::support::images::{Image, Images, TAG};
use crate::support::machine::quantile;
use crate::support::registry::{Distance, Registry};

/// Clients that ask for the manifest, and the pause of each between two requests: 4,000 a second in all at most, which leaves
/// the processors idle for most of the time.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(1);
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
            "Four clients ask for a stored manifest by digest and pause for a millisecond, for {seconds} s; meanwhile four clients download cold blobs of 4 MiB from a registry that sends 100 MB/s at most."
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
        let before = registry.sent();
        let mut times = times(&daemon, &warm, &cold, Duration::from_secs(seconds as u64));
        let rate = (registry.sent() - before) as f64 / 1e6 / seconds as f64;
        let count = times.len() as f64;
        let mut at = |share| quantile(&mut times, share);
        part.add("manifests", rate as usize, vec![count, at(0.5), at(0.99), at(0.999)]);
        daemon.stop();
    }
    part
}

/// Milliseconds of each request for the manifest, while the layers of `cold` are downloaded.
fn times(daemon: &Daemon, warm: &Image, cold: &Image, duration: Duration) -> Vec<f64> {
    let (next, is_over, times) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
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
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = daemon.connect();
                    while Instant::now() < until {
                        let begun = Instant::now();
                        assert_eq!(connection.get(&path).0, 200);
                        times.lock().unwrap().push(begun.elapsed().as_secs_f64() * 1e3);
                        std::thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
    });
    times.into_inner().unwrap()
}
