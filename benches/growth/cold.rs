//! Images that are cold, all at once, from twenty registries.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::reference::Digest;

use crate::Extent;
use crate::report::Part;
use crate::support::daemon::{Connection, Daemon, Setup};
use crate::support::images::{Image, Images, TAG};
use crate::support::machine::quantile;
use crate::support::registry::{Distance, Registry};

const REGISTRIES: usize = 20;
/// Layers of an image, and the bytes of each.
const LAYERS: [usize; 3] = [1024 * 1024; 3];
/// From a question to its answer.
const ANSWER: Duration = Duration::from_millis(5);
/// How long a client waits that was told 503.
const REFUSED_WAIT: Duration = Duration::from_millis(50);

pub(crate) fn measure(extent: Extent) -> Part {
    let mut part = Part {
        name: "cold",
        title: "Cold images at once",
        how: "Images of three layers of 1 MiB, as many from each of 20 registries, which answer after 5 ms; each image is pulled as a runtime does: HEAD of the tag, the manifest, then config and layers at a time. A client that is answered 503 asks again after 50 ms.".to_owned(),
        x: "images",
        columns: &[
            "all (s)",
            "an image, p50 (s)",
            "an image, p99 (s)",
            "CPU (s/GB)",
            "memory at most (MiB)",
            "bytes from upstream per byte",
            "answers 503",
        ],
        plotted: &[0, 3, 4],
        rows: Vec::new(),
    };
    for images in [1, 20, extent.of(200, 40)] {
        part.add("cold images", images, pull_all(images));
    }
    part
}

fn pull_all(count: usize) -> Vec<f64> {
    let directory = tempfile::tempdir().unwrap();
    let contents: Vec<_> = (0..REGISTRIES).map(|_| Arc::new(Images::default())).collect();
    let far = Distance { answer: ANSWER, ..Distance::default() };
    let registries: Vec<_> = contents.iter().map(|content| Registry::start(content, far)).collect();
    let named: Vec<(String, String)> =
        (0..).zip(&registries).map(|(n, registry)| (name(n), registry.address.clone())).collect();
    let images: Vec<Image> = (0..count)
        .map(|n| contents[n % REGISTRIES].push(&format!("bench/image-{n}"), TAG, &LAYERS, n as u64 + 1))
        .collect();
    let setup = Setup { registries: &named, max_bytes: "100%", more: "", cores: None };
    let daemon = Daemon::launch(directory.path(), setup);
    daemon.settle();
    let (refused, times) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    let (begun, before) = (Instant::now(), daemon.cpu_seconds());
    let ((), peak) = daemon.memory_during(|| {
        std::thread::scope(|scope| {
            for (n, image) in images.iter().enumerate() {
                let (daemon, refused, times) = (&daemon, &refused, &times);
                scope.spawn(move || {
                    let begun = Instant::now();
                    pull(daemon, image, &name(n % REGISTRIES), refused);
                    times.lock().unwrap().push(begun.elapsed().as_secs_f64());
                });
            }
        });
    });
    let seconds = begun.elapsed().as_secs_f64();
    // What is stored after the answers counts too.
    daemon.settle();
    let bytes: usize = images.iter().map(Image::bytes).sum();
    let sent: u64 = registries.iter().map(Registry::sent).sum();
    let mut times = times.into_inner().unwrap();
    let values = vec![
        seconds,
        quantile(&mut times, 0.5),
        quantile(&mut times, 0.99),
        (daemon.cpu_seconds() - before) / (bytes as f64 / 1e9),
        peak / f64::from(1 << 20),
        sent as f64 / bytes as f64,
        refused.into_inner() as f64,
    ];
    daemon.stop();
    values
}

fn name(registry: usize) -> String {
    format!("reg{registry}.test")
}

/// Pulls an image as a runtime does.
fn pull(daemon: &Daemon, image: &Image, registry: &str, refused: &AtomicUsize) {
    let mut connection = daemon.connect();
    let at = |path: String| format!("{path}?ns={registry}");
    let tag = at(image.manifest_path(TAG));
    until_served(refused, || connection.head(&tag));
    let digest = Digest::of(&image.manifest).to_string();
    get(&mut connection, &at(image.manifest_path(&digest)), refused);
    let at = &at;
    let blobs = image.layers.iter().map(|layer| &layer.digest).chain([&image.config]);
    std::thread::scope(|scope| {
        for blob in blobs {
            scope.spawn(move || get(&mut daemon.connect(), &at(image.blob_path(blob)), refused));
        }
    });
}

fn get(connection: &mut Connection, path: &str, refused: &AtomicUsize) {
    let mut buffer = vec![0; 64 * 1024];
    until_served(refused, || connection.count(path, &mut buffer).0);
}

/// Asks until the answer is another one than 503, which is counted.
fn until_served(refused: &AtomicUsize, mut ask: impl FnMut() -> u16) {
    loop {
        match ask() {
            200 => return,
            503 => refused.fetch_add(1, Ordering::Relaxed),
            status => panic!("{status}"),
        };
        std::thread::sleep(REFUSED_WAIT);
    }
}
