//! Readers of one blob that is stored, and of a thousand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;

use crate::Extent;
use crate::report::Part;
use crate::support::daemon::Daemon;
use crate::support::images::Images;
use crate::support::machine::quantile;
use crate::support::registry::{Distance, Registry};

/// Bytes of a blob.
const BLOB: usize = 1024 * 1024;
/// Requests of each row, shared by its readers; so many of each at least, so that a connection's first one counts little.
const REQUESTS: usize = 2_048;
const REQUESTS_OF_EACH: usize = 16;
/// Bytes of the stack of a reader's thread, and of its buffer.
const STACK: usize = 128 * 1024;
const BUFFER: usize = 64 * 1024;

/// What a row brought.
pub(crate) struct Read {
    pub(crate) gb_per_second: f64,
    pub(crate) cpu_per_gb: f64,
    pub(crate) peak_memory: f64,
    /// Milliseconds of each request.
    pub(crate) times: Vec<f64>,
}

pub(crate) fn measure(extent: Extent) -> Part {
    let (requests, of_each) = (extent.of(REQUESTS, 64), extent.of(REQUESTS_OF_EACH, 1));
    let mut part = Part {
        name: "readers",
        title: "Readers of stored blobs",
        how: format!(
            "Blobs of 1 MiB in the page cache, {requests} requests in all, or {of_each} for each reader where that is more, shared by so many readers, each with a connection of its own."
        ),
        x: "readers",
        columns: &["GB/s", "CPU (s/GB)", "memory at most (MiB)", "p50 (ms)", "p99 (ms)"],
        plotted: &[0, 1, 2],
        rows: Vec::new(),
    };
    for (of, blobs) in [("one blob", 1), ("a thousand blobs", extent.of(1_000, 10))] {
        let directory = tempfile::tempdir().unwrap();
        let content = Arc::new(Images::default());
        let image = content.push("bench/app", "v1", &vec![BLOB; blobs], blobs as u64);
        let registry = Registry::start(&content, Distance::default());
        let daemon = Daemon::start(directory.path(), &registry.address, "100%");
        assert_eq!(daemon.connect().get(&image.manifest_path("v1")).0, 200);
        let paths: Vec<String> = image.layers.iter().map(|layer| image.blob_path(&layer.digest)).collect();
        read(&daemon, &paths, 1, paths.len());
        daemon.settle();
        for readers in [1, 10, 100, extent.of(1_000, 200)] {
            let Read { gb_per_second, cpu_per_gb, peak_memory, mut times } =
                read(&daemon, &paths, readers, requests.max(readers * of_each));
            let mut at = |share| quantile(&mut times, share);
            part.add(of, readers, vec![gb_per_second, cpu_per_gb, peak_memory, at(0.5), at(0.99)]);
        }
        daemon.stop();
    }
    part
}

/// So many readers read these blobs, one after the other, `requests` times in all.
pub(crate) fn read(daemon: &Daemon, paths: &[String], readers: usize, requests: usize) -> Read {
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(requests)));
    let (bytes, ready) = (AtomicUsize::new(0), Barrier::new(readers + 1));
    let before = daemon.cpu_seconds();
    let (seconds, peak) = daemon.memory_during(|| {
        std::thread::scope(|scope| {
            for _ in 0..readers {
                let reader = || {
                    let (mut connection, mut buffer) = (daemon.connect(), vec![0; BUFFER]);
                    ready.wait();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= requests {
                            return;
                        }
                        let (begun, path) = (Instant::now(), &paths[n % paths.len()]);
                        let (status, count) = connection.count(path, &mut buffer);
                        assert_eq!(status, 200, "{path}");
                        bytes.fetch_add(count, Ordering::Relaxed);
                        times.lock().unwrap().push(begun.elapsed().as_secs_f64() * 1e3);
                    }
                };
                std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, reader).unwrap();
            }
            ready.wait();
            Instant::now()
        })
        .elapsed()
        .as_secs_f64()
    });
    let gigabytes = bytes.into_inner() as f64 / 1e9;
    Read {
        gb_per_second: gigabytes / seconds,
        cpu_per_gb: (daemon.cpu_seconds() - before) / gigabytes,
        peak_memory: peak / f64::from(1 << 20),
        times: times.into_inner().unwrap(),
    }
}
