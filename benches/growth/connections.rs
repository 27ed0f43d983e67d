//! Connections that were used once and are idle.

use std::sync::Arc;
use std::time::Duration;

use crate::Extent;
use crate::report::Part;
use crate::support::daemon::Daemon;
use crate::support::images::{Images, TAG};
use crate::support::registry::{Distance, Registry};

/// For how long they are idle while the processor's time is measured.
const IDLE: Duration = Duration::from_secs(5);

pub(crate) fn measure(extent: Extent) -> Part {
    let mut part = Part {
        name: "connections",
        title: "Idle connections",
        how: "Each connection has asked for a stored manifest once. Memory is the anonymous memory of the daemon; the kernel's own for a socket is not in it.".to_owned(),
        x: "connections",
        columns: &["memory (MiB)", "memory of one (KiB)", "CPU (ms/s)"],
        plotted: &[0, 2],
        rows: Vec::new(),
    };
    let directory = tempfile::tempdir().unwrap();
    let content = Arc::new(Images::default());
    let image = content.push("bench/app", TAG, &[1_000], 1);
    let registry = Registry::start(&content, Distance::default());
    let daemon = Daemon::start(directory.path(), &registry.address, "100%");
    let path = image.manifest_path(TAG);
    let digest = larder::reference::Digest::of(&image.manifest);
    assert_eq!(daemon.connect().get(&path).0, 200);
    daemon.settle();
    let (mut open, before) = (Vec::new(), daemon.memory());
    let idle = Duration::from_secs(extent.of(IDLE.as_secs() as usize, 1) as u64);
    for count in [0, 1, 10, 100, 1_000, extent.of(4_000, 1_000)] {
        while open.len() < count {
            let mut connection = daemon.connect();
            assert_eq!(connection.get(&image.manifest_path(&digest.to_string())).0, 200);
            open.push(connection);
        }
        std::thread::sleep(Duration::from_secs(1));
        let used = daemon.cpu_seconds();
        std::thread::sleep(idle);
        let cpu = (daemon.cpu_seconds() - used) / idle.as_secs_f64() * 1e3;
        let memory = daemon.memory();
        let of_one = if count == 0 { 0.0 } else { (memory - before) / 1024.0 / count as f64 };
        part.add("connections", count, vec![memory / f64::from(1 << 20), of_one, cpu]);
    }
    daemon.stop();
    part
}
