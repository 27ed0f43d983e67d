//! What is stored: a large blob, a manifest, and a thousand clients that hardly read.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::client::{self, ACCEPT, Failure, fetch, fetch_by};
use crate::kind::Kind;
use crate::report::{Row, Table};
use crate::rounds::{in_turns, prepared, rounds};
use crate::server::{Server, socket_mib};
use crate::servers::{Blob, Servers};
use crate::support::congestion::{self, Congestion};

/// How often each row is measured; the median counts.
const ROUNDS: usize = 5;
/// Readers that stop, and how many of them connect at a time.
const SLOW_READERS: usize = 1_000;
const CONNECTING: usize = 50;

/// A large blob that is in the page cache, read by one and by four clients that compare every byte.
pub(crate) fn readers(servers: &mut Servers, table: &mut Table) {
    let (servers, blob) = (&*servers, &servers.large);
    let kinds = filled(servers, blob);
    for readers in [1, 4] {
        for congestion in crate::congestion_controls() {
            let _set = Congestion::set(&congestion);
            let [rates, cpu] = in_turns("warm", rounds(ROUNDS), &kinds, |_, kind| {
                let server = servers.of(kind);
                let (before, begun) = (server.cpu_seconds(), Instant::now());
                fetch_by(readers, server, &server.blob_path(&blob.digest), &blob.bytes)?;
                let seconds = begun.elapsed().as_secs_f64();
                let gigabytes = (blob.bytes.len() * readers) as f64 / 1e9;
                Ok([gigabytes / seconds, (server.cpu_seconds() - before) / gigabytes])
            });
            let of = |what: &str| format!("{what}, {readers} reader{}", if readers == 1 { "" } else { "s" });
            table.add(Row::more(&of("warm blob"), &congestion, "GB/s", rates));
            table.add(Row::less(&of("server CPU, warm blob"), &congestion, "s/GB", cpu));
        }
    }
}

/// A blob of half the size, read by `curl -o /dev/null` as the machine comes.
pub(crate) fn curl(servers: &mut Servers, table: &mut Table) {
    let blob = servers.push_fresh(table.curl_mib());
    let servers = &*servers;
    let (kinds, path) = (filled(servers, &blob), |server: &Server| server.blob_path(&blob.digest));
    let [rates, cpu] = in_turns("curl", rounds(ROUNDS), &kinds, |_, kind| {
        let server = servers.of(kind);
        let (before, gigabytes) = (server.cpu_seconds(), blob.bytes.len() as f64 / 1e9);
        let seconds = client::curl(server, &path(server), blob.bytes.len())?;
        Ok([gigabytes / seconds, (server.cpu_seconds() - before) / gigabytes])
    });
    let (what, own) = (format!("warm blob of {} MiB, curl", table.curl_mib()), congestion::current());
    table.add(Row::more(&what, &own, "GB/s", rates));
    table.add(Row::less(&format!("server CPU, {what}"), &own, "s/GB", cpu));
}

/// Those that serve the blob. Twice: Traffic Server holds in memory what is asked for a second time.
fn filled(servers: &Servers, blob: &Blob) -> Vec<Kind> {
    prepared("warm", servers.warm(), |kind| {
        let server = servers.of(kind);
        let path = server.blob_path(&blob.digest);
        fetch(server, &path, &blob.bytes)?;
        server.settle();
        fetch(server, &path, &blob.bytes).map(drop)
    })
}

/// A small manifest on 32 connections.
pub(crate) fn manifests(servers: &mut Servers, table: &mut Table) {
    let servers = &*servers;
    let [rates, cpu] = in_turns("manifests", rounds(ROUNDS), &servers.warm(), |_, kind| {
        let server = servers.of(kind);
        let path = server.manifest_path(&servers.manifest);
        client::ask(&server.address, "GET", &path)?.finish()?;
        let before = server.cpu_seconds();
        let (rate, count) = wrk(&format!("http://{}{path}", server.address))?;
        Ok([rate, (server.cpu_seconds() - before) * 1e6 / count])
    });
    let own = congestion::current();
    table.add(Row::more("warm manifest, 32 connections", &own, "req/s", rates));
    table.add(Row::less("server CPU, warm manifest", &own, "µs", cpu));
}

/// Requests a second, and how many there were.
fn wrk(url: &str) -> Result<(f64, f64), Failure> {
    let done = Command::new("wrk").args(["-t2", "-c32", "-d2s", "-H", ACCEPT, url]).output().expect("wrk");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    let count = text.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse().ok());
    match (rate, count) {
        (Some(rate), Some(count)) if !text.contains("Non-2xx") && count > 0.0 => Ok((rate, count)),
        _ => Err(format!("wrk says {text}")),
    }
}

/// A thousand readers that took a little and then stopped.
pub(crate) fn slow_readers(servers: &mut Servers, table: &mut Table) {
    let servers = &*servers;
    let [memory, sockets] = in_turns("slow readers", rounds(1), &servers.warm(), |_, kind| {
        let server = servers.of(kind);
        let (path, before) = (server.blob_path(&servers.large.digest), socket_mib());
        let some = |_| (0..SLOW_READERS / CONNECTING).map(|_| client::begin(server, &path)).collect();
        let held: Vec<Vec<_>> = client::at_once(CONNECTING, some)?;
        std::thread::sleep(Duration::from_secs(2));
        let figures = [server.anonymous_mib(), socket_mib() - before];
        drop(held);
        std::thread::sleep(Duration::from_secs(1));
        Ok(figures)
    });
    let own = congestion::current();
    table.add(Row::less("anonymous memory, 1,000 slow readers", &own, "MiB", memory));
    let what = "socket memory of the kernel, both ends, 1,000 slow readers";
    table.add(Row::less(what, &own, "MiB", sockets));
}
