//! HEAD of a tag that is asked upstream each time: Larder, and the upstream itself, which answers from memory.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::report::{Row, Table};
use crate::servers::{Kind, Server, Servers};

const CONNECTIONS: usize = 32;
const SECONDS: u64 = 2;

pub(crate) fn measure(servers: &Servers, table: &mut Table) {
    let (mut rates, mut cpu): (BTreeMap<Kind, Vec<f64>>, BTreeMap<Kind, Vec<f64>>) = Default::default();
    let upstream = &servers.shaped.heads;
    let larders = servers.all.iter().filter(|one| matches!(one.kind, Kind::Larder | Kind::LarderBefore));
    let asked: Vec<(&Server, &str)> =
        std::iter::once((upstream, "")).chain(larders.map(|larder| (larder, "?ns=heads.test"))).collect();
    for _ in 0..crate::rounds(crate::ROUNDS) {
        for (server, host) in &asked {
            let before = server.cpu_seconds();
            let count = load(&server.address, &format!("/v2/bench/app/manifests/v1{host}"));
            rates.entry(server.kind).or_default().push(count as f64 / SECONDS as f64);
            cpu.entry(server.kind).or_default().push((server.cpu_seconds() - before) * 1e6 / count as f64);
        }
    }
    let what = format!("HEAD of a tag, asked upstream, {CONNECTIONS} connections (nginx: upstream itself)");
    table.add(Row::of(what, "req/s", true, rates));
    table.add(Row::of("server CPU, HEAD of a tag".into(), "µs", false, cpu));
}

/// Asks on each connection one question after the other; how many were answered.
fn load(address: &str, path: &str) -> u64 {
    let until = Instant::now() + Duration::from_secs(SECONDS);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| ask(address, path, until))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    })
}

fn ask(address: &str, path: &str, until: Instant) -> u64 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (mut buffer, mut count) = ([0; 4_096], 0);
    while Instant::now() < until {
        stream.write_all(request.as_bytes()).unwrap();
        let mut got = 0;
        while !buffer[..got].ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut buffer[got..]).unwrap();
            assert!(read > 0, "{address} closed the connection");
            got += read;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..got]));
        count += 1;
    }
    count
}
