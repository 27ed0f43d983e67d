//! A blob that no cache has stored: one client, and many at once.
//!
//! The processor time of a server counts until it is at rest: a cache that answers first and stores then is not cheaper for
//! it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Reply, fetch, fetch_by};
use crate::kind::Kind;
use crate::report::{Row, Table};
use crate::rounds::{in_turns, rounds};
use crate::server::Server;
use crate::servers::{Blob, Servers};

/// How often each row is measured; the median counts.
const ROUNDS: usize = 5;
const CROWD_ROUNDS: usize = 3;
const CLIENTS: usize = 20;

/// One client; beside it a client of the registry itself.
pub(crate) fn one_client(servers: &mut Servers, table: &mut Table) {
    for congestion in crate::congestion_controls() {
        let _set = servers.under(&congestion);
        let mut kinds = servers.running(&[Kind::Direct]);
        kinds.extend(servers.running(&Kind::CACHES));
        let mut fresh = Fresh::default();
        let [rates, firsts, cpu] = in_turns("cold", rounds(ROUNDS), &kinds, |round, kind| {
            let blob = fresh.of(round, servers, table.cold_mib());
            let server = servers.of(kind);
            server.settle();
            let before = server.cpu_seconds();
            let Reply { first_byte, total } = fetch(server, &server.blob_path(&blob.digest), &blob.bytes)?;
            server.settle();
            let gigabytes = blob.bytes.len() as f64 / 1e9;
            let cpu = (server.cpu_seconds() - before) / gigabytes;
            Ok([gigabytes / total.as_secs_f64(), first_byte.as_secs_f64() * 1e3, cpu])
        });
        table.add(Row::more("cold blob, 1 client", &congestion, "GB/s", rates));
        table.add(Row::less("server CPU, cold blob, 1 client", &congestion, "s/GB", cpu));
        table.add(Row::less("cold blob, first byte", &congestion, "ms", firsts));
    }
}

/// Twenty clients that ask all at once.
pub(crate) fn crowd(servers: &mut Servers, table: &mut Table) {
    for congestion in crate::congestion_controls() {
        let _set = servers.under(&congestion);
        let kinds = servers.running(&Kind::CACHES);
        let mut fresh = Fresh::default();
        let [seconds, cpu, times, memory] = in_turns("crowd", rounds(CROWD_ROUNDS), &kinds, |round, kind| {
            let blob = fresh.of(round, servers, table.cold_mib());
            let (server, upstream) = (servers.of(kind), &servers.upstream);
            server.settle();
            let (before, sent, begun) = (server.cpu_seconds(), upstream.written(), Instant::now());
            let path = server.blob_path(&blob.digest);
            let (fetched, peak) = peak_while(server, || {
                fetch_by(CLIENTS, server, &path, &blob.bytes).map(|()| begun.elapsed())
            });
            let seconds = fetched?.as_secs_f64();
            server.settle();
            let served = (blob.bytes.len() * CLIENTS) as f64 / 1e9;
            let times = (upstream.written() - sent) as f64 / blob.bytes.len() as f64;
            Ok([seconds, (server.cpu_seconds() - before) / served, times, peak])
        });
        let of = |what: &str| format!("{what}, {CLIENTS} clients");
        table.add(Row::less(&of("cold blob"), &congestion, "s", seconds));
        table.add(Row::less(&of("server CPU, cold blob"), &congestion, "s/GB", cpu));
        table.add(Row::less(&of("bytes from upstream"), &congestion, "times the blob", times));
        table.add(Row::less(&of("peak of anonymous memory"), &congestion, "MiB", memory));
    }
}

/// A new blob in each round, the same for all servers.
#[derive(Default)]
struct Fresh(Option<(usize, Blob)>);

impl Fresh {
    fn of(&mut self, round: usize, servers: &mut Servers, mib: usize) -> &Blob {
        if self.0.as_ref().is_none_or(|(of, _)| *of != round) {
            if let Some((_, old)) = self.0.take() {
                servers.forget(&old);
            }
            self.0 = Some((round, servers.push_fresh(mib)));
        }
        &self.0.as_ref().expect("it was made above").1
    }
}

/// The most anonymous memory that the server had at one of the looks while this ran.
fn peak_while<T>(server: &Server, work: impl FnOnce() -> T) -> (T, f64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut peak = 0.0;
            while !done.load(Ordering::Relaxed) {
                peak = server.anonymous_mib().max(peak);
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, looks.join().expect("the looks"))
    })
}
