//! What a line of the request log costs: processor time of the whole daemon for a warm manifest, with and without it, in
//! turns.

use std::sync::Arc;
use std::time::Instant;

use criterion::Criterion;

use super::support::daemon::Daemon;
use super::support::images::{Images, TAG};
use super::support::registry::{Distance, Registry};

/// Requests of a round: half a second of the daemon's time, of which a hundredth can be told.
const REQUESTS: usize = 20_000;
const ROUNDS: usize = 5;

/// Prints microseconds a request.
pub(super) fn request_log(_: &mut Criterion) {
    let content = Arc::new(Images::default());
    let image = content.push("bench/app", TAG, &[1_000], 1);
    let registry = Registry::start(&content, Distance::default());
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let daemons: Vec<Daemon> = [true, false]
        .iter()
        .zip(&directories)
        .map(|(access, directory)| {
            Daemon::start_with(directory.path(), &registry.address, "100%", &format!("access = {access}"))
        })
        .collect();
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (daemon, costs) in daemons.iter().zip(&mut costs) {
            let mut connection = daemon.connect();
            let (status, manifest) = connection.get(&image.manifest_path(TAG));
            assert_eq!(status, 200);
            let path = image.manifest_path(&larder::reference::Digest::of(&manifest).to_string());
            let (before, begun) = (daemon.cpu_seconds(), Instant::now());
            for _ in 0..REQUESTS {
                assert_eq!(connection.get(&path).0, 200);
            }
            let each = 1e6 / REQUESTS as f64;
            costs.push(((daemon.cpu_seconds() - before) * each, begun.elapsed().as_secs_f64() * each));
        }
    }
    for (costs, what) in costs.iter_mut().zip(["with", "without"]) {
        costs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (cpu, wall) = costs[ROUNDS / 2];
        println!(
            "a warm manifest {what} a line of the request log: {cpu:.1} µs of CPU, {wall:.1} µs until it is there"
        );
    }
}
