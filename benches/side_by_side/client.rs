//! A client that reads as fast as it can and compares every byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::servers::Server;

/// When bytes came.
pub(crate) struct Reply {
    pub(crate) first_byte: Duration,
    pub(crate) total: Duration,
}

/// Fetches a whole body and compares it.
pub(crate) fn fetch(server: &Server, path: &str, expected: &[u8]) -> Reply {
    let begun = Instant::now();
    let (mut stream, body) = head(server, path);
    let first_byte = begun.elapsed();
    assert!(expected.starts_with(&body), "{:?} sent something else", server.kind);
    let (mut at, mut buffer) = (body.len(), vec![0; 1 << 20]);
    while at < expected.len() {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{:?} ended after {at} bytes", server.kind);
        assert!(buffer[..count] == expected[at..at + count], "{:?} sent something else at {at}", server.kind);
        at += count;
    }
    Reply { first_byte, total: begun.elapsed() }
}

/// Takes the first bytes of a body and stops reading; the connection stays open while it is held.
pub(crate) fn begin(server: &Server, path: &str) -> TcpStream {
    let (mut stream, _) = head(server, path);
    stream.read_exact(&mut [0; 20_000]).unwrap();
    stream
}

fn head(server: &Server, path: &str) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address);
    stream.write_all(request.as_bytes()).unwrap();
    let (mut got, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{:?} closed without a head: {}", server.kind, String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..count]);
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).into_owned();
            assert!(head.starts_with("HTTP/1.1 200"), "{:?} for {path}: {head}", server.kind);
            return (stream, got.split_off(end + 4));
        }
    }
}
