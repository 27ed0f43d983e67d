//! Cold blobs from a registry that is slower than loopback: directly, and through Larder.

use std::time::Instant;

use crate::client::{Failure, fetch_by, fetch_from};
use crate::kind::Kind;
use crate::report::{Row, Table};
use crate::rounds::{Measured, in_turns, rounds};
use crate::servers::Servers;
use crate::support::shaper::Shaper;

const ROUNDS: usize = 3;
const CLIENTS: usize = 100;

pub(crate) fn measure(servers: &mut Servers, table: &mut Table) {
    let rates = through(servers, table.cold_mib(), |servers| &servers.shaped.gigabit, "gigabit.test");
    table.add(Row::more("cold blob, upstream at 1 Gbit/s", "", "MB/s", rates));
    let rates = through(servers, table.cold_mib(), |servers| &servers.shaped.throttled, "throttled.test");
    table.add(Row::more("cold blob, upstream at 20 MB/s a connection", "", "MB/s", rates));
    crowd(servers, table);
}

fn kinds(servers: &Servers) -> Vec<Kind> {
    [servers.running(&[Kind::Direct]), servers.running(&Kind::LARDERS)].concat()
}

/// A new blob through a shaped proxy to the registry, in megabytes a second.
fn through(servers: &mut Servers, mib: usize, shaper: impl Fn(&Servers) -> &Shaper, host: &str) -> Measured {
    let kinds = kinds(servers);
    let [rates] = in_turns(host, rounds(ROUNDS), &kinds, |_, kind| {
        let blob = servers.push_fresh(mib);
        let path = format!("/v2/bench/app/blobs/{}", blob.digest);
        rustix::fs::sync();
        let reply = if kind == Kind::Direct {
            fetch_from(&shaper(servers).address, &path, &blob.bytes)?
        } else {
            fetch_from(&servers.of(kind).address, &format!("{path}?ns={host}"), &blob.bytes)?
        };
        servers.forget(&blob);
        Ok([blob.bytes.len() as f64 / 1e6 / reply.total.as_secs_f64()])
    });
    rates
}

/// One client directly, and a hundred through Larder.
fn crowd(servers: &mut Servers, table: &mut Table) {
    let kinds = kinds(servers);
    let mib = table.cold_mib().div_ceil(4);
    let [seconds, times] = in_turns("100 clients", rounds(1), &kinds, |_, kind| {
        let blob = servers.push_fresh(mib);
        let path = format!("/v2/bench/app/blobs/{}", blob.digest);
        let slow = &servers.shaped.slow;
        let (before, begun) = (slow.sent(), Instant::now());
        let fetched: Result<(), Failure> = if kind == Kind::Direct {
            fetch_from(&slow.address, &path, &blob.bytes).map(drop)
        } else {
            fetch_by(CLIENTS, servers.of(kind), &format!("{path}?ns=slow.test"), &blob.bytes)
        };
        fetched?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok([seconds, (slow.sent() - before) as f64 / blob.bytes.len() as f64])
    });
    table.add(Row::less("100 clients of a cold blob at 8 MB/s (direct: one)", "", "s", seconds));
    table.add(Row::less("bytes from upstream for those 100 (direct: one)", "", "times the blob", times));
}
