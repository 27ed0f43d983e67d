//! Processors that the daemon may use, from one to all of the machine's.

use std::process::Command;
use std::sync::Arc;

use larder::reference::Digest;

use crate::Extent;
use crate::readers::{Read, read};
use crate::report::Part;
use crate::support::daemon::{Daemon, Setup};
use crate::support::images::{Images, TAG};
use crate::support::machine;
use crate::support::registry::{Distance, Registry};

/// Bytes of the blob that four readers read.
const BLOB: usize = 64 * 1024 * 1024;
const READERS: usize = 4;

pub(crate) fn measure(extent: Extent) -> Part {
    let mut part = Part {
        name: "cores",
        title: "Processors of the daemon",
        how: format!(
            "The daemon is bound to the first processors (`taskset`); its clients use all of the machine's {}, so that more would bring more where the clients have some of their own. A warm manifest by digest on 32 connections (wrk); a stored blob of 64 MiB, four readers.",
            machine::cores()
        ),
        x: "processors",
        columns: &["manifests (req/s)", "CPU (µs/request)", "blobs (GB/s)", "CPU (s/GB)"],
        plotted: &[0, 2],
        rows: Vec::new(),
    };
    let counts = std::iter::successors(Some(1), |count| Some(count * 2));
    for cores in counts.take_while(|count| *count <= machine::cores()) {
        let directory = tempfile::tempdir().unwrap();
        let content = Arc::new(Images::default());
        let image = content.push("bench/app", TAG, &[BLOB], 1);
        let registry = Registry::start(&content, Distance::default());
        let registries = &[("reg.test".to_owned(), registry.address.clone())];
        let setup = Setup { registries, max_bytes: "100%", more: "", cores: Some(cores) };
        let daemon = Daemon::launch(directory.path(), setup);
        let digest = Digest::of(&image.manifest).to_string();
        assert_eq!(daemon.connect().get(&image.manifest_path(&digest)).0, 200);
        let path = [image.blob_path(&image.layers[0].digest)];
        read(&daemon, &path, 1, 1);
        daemon.settle();
        let (rate, micros) = manifests(&daemon, &image.manifest_path(&digest), extent.of(4, 1));
        let Read { gb_per_second, cpu_per_gb, .. } = read(&daemon, &path, READERS, extent.of(64, 4));
        part.add("daemon", cores, vec![rate, micros, gb_per_second, cpu_per_gb]);
        daemon.stop();
    }
    part
}

/// Requests a second, and the daemon's microseconds of processor for one.
fn manifests(daemon: &Daemon, path: &str, seconds: usize) -> (f64, f64) {
    let before = daemon.cpu_seconds();
    let (duration, url) = (format!("-d{seconds}s"), format!("http://{}{path}", daemon.address));
    let done = Command::new("wrk").args(["-t2", "-c32", &duration, &url]).output().expect("wrk");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("a rate");
    let count = text.lines().find_map(|line| line.trim().split_once(" requests in")).expect("a count").0;
    let micros = (daemon.cpu_seconds() - before) * 1e6 / count.parse::<f64>().unwrap();
    (rate.trim().parse().unwrap(), micros)
}
