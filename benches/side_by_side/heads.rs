//! HEAD of a tag: asked upstream each time, and answered by caches from what they keep.
//!
//! Each connection asks for a tag of its own, so that no question can wait for the answer to another's; what was asked
//! upstream is counted there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::client::{self, ACCEPT, Failure};
use crate::content;
use crate::kind::Kind;
use crate::report::{Row, Table};
use crate::rounds::{in_turns, prepared, rounds};
use crate::server::Server;
use crate::servers::Servers;

pub(crate) const CONNECTIONS: usize = 32;
const SECONDS: u64 = 2;
const ROUNDS: usize = 5;

pub(crate) fn measure(servers: &mut Servers, table: &mut Table) {
    asked(servers, table);
    kept(servers, table);
}

/// Larder, and the upstream itself, an nginx that answers from memory.
fn asked(servers: &Servers, table: &mut Table) {
    let upstream = &servers.shaped.heads;
    let kinds = [servers.running(&[Kind::Direct]), servers.running(&Kind::LARDERS)].concat();
    let [rates, cpu, questions] = in_turns("HEAD", rounds(ROUNDS), &kinds, |_, kind| {
        let (server, host) =
            if kind == Kind::Direct { (upstream, "") } else { (servers.of(kind), "?ns=heads.test") };
        let (before, asked) = (server.cpu_seconds(), requests(upstream));
        let count = load(server, &servers.tags, host)? as f64;
        // The second look at the count is counted too.
        let questions = (requests(upstream) - asked - 1) as f64 / count;
        Ok([count / SECONDS as f64, (server.cpu_seconds() - before) * 1e6 / count, questions])
    });
    let of = |what: &str| format!("{what}, {CONNECTIONS} connections (direct: nginx)");
    table.add(Row::more(&of("HEAD of a tag, asked upstream"), "", "req/s", rates));
    table.add(Row::less(&of("server CPU, HEAD of a tag, asked upstream"), "", "µs", cpu));
    table.add(Row::less(&of("questions upstream for one answer"), "", "", questions));
}

/// The caches that keep a tag, Larder with `tag_ttl`.
fn kept(servers: &Servers, table: &mut Table) {
    let keep = [
        Kind::Larder,
        Kind::LarderBefore,
        Kind::NginxCache,
        Kind::Varnish,
        Kind::TrafficServer,
        Kind::Drayage,
    ];
    let host = |kind: Kind| if Kind::LARDERS.contains(&kind) { "?ns=kept.test" } else { "" };
    let kinds = prepared("HEAD of a kept tag", servers.running(&keep), |kind| {
        let (server, host) = (servers.of(kind), host(kind));
        servers
            .tags
            .iter()
            .try_for_each(|tag| client::ask(&server.address, "GET", &path(tag, host))?.finish())
    });
    let [rates, cpu] = in_turns("HEAD of a kept tag", rounds(ROUNDS), &kinds, |_, kind| {
        let server = servers.of(kind);
        let before = server.cpu_seconds();
        let count = load(server, &servers.tags, host(kind))? as f64;
        Ok([count / SECONDS as f64, (server.cpu_seconds() - before) * 1e6 / count])
    });
    let of = |what: &str| format!("{what}, {CONNECTIONS} connections (Larder: tag_ttl)");
    table.add(Row::more(&of("HEAD of a tag that is kept"), "", "req/s", rates));
    table.add(Row::less(&of("server CPU, HEAD of a tag that is kept"), "", "µs", cpu));
}

fn path(tag: &str, host: &str) -> String {
    format!("/v2/bench/app/manifests/{tag}{host}")
}

/// The requests that the upstream has had, this one included.
fn requests(upstream: &Server) -> u64 {
    let page = content::request(&upstream.address, "GET", "/requests", "", &[]);
    let counts = page.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
    counts.and_then(|counts| counts.split_whitespace().nth(2)?.parse().ok()).expect("nginx says its requests")
}

/// Asks on each connection for one tag, one question after the other; how many were answered.
fn load(server: &Server, tags: &[String], host: &str) -> Result<u64, Failure> {
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let counts = client::at_once(CONNECTIONS, |n| {
        repeat(&server.address, &path(&tags[n % tags.len()], host), until)
            .map_err(|error| error.to_string())?
    })?;
    Ok(counts.into_iter().sum())
}

fn repeat(address: &str, path: &str, until: Instant) -> std::io::Result<Result<u64, Failure>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}\r\n\r\n");
    let (mut buffer, mut count) = ([0; 4_096], 0);
    while Instant::now() < until {
        stream.write_all(request.as_bytes())?;
        let mut got = 0;
        while !buffer[..got].ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer[got..])? {
                0 => return Ok(Err("it closed the connection".to_owned())),
                read => got += read,
            }
        }
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return Ok(Err(String::from_utf8_lossy(&buffer[..got]).into_owned()));
        }
        count += 1;
    }
    Ok(Ok(count))
}
