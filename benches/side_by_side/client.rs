//! A client that reads as fast as it can and compares every byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::servers::Server;

/// When the bytes arrived.
pub(crate) struct Reply {
    pub(crate) first_byte: Duration,
    pub(crate) total: Duration,
}

/// Fetches a whole body and compares it.
pub(crate) fn fetch(server: &Server, path: &str, expected: &[u8]) -> Reply {
    fetch_from(&server.address, path, expected)
}

/// The same, from this address.
pub(crate) fn fetch_from(address: &str, path: &str, expected: &[u8]) -> Reply {
    let begun = Instant::now();
    let (mut stream, body) = head(address, path);
    let first_byte = begun.elapsed();
    assert!(expected.starts_with(&body), "{address} sent something else");
    let (mut at, mut buffer) = (body.len(), vec![0; 1 << 20]);
    while at < expected.len() {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{address} ended after {at} bytes");
        assert!(buffer[..count] == expected[at..at + count], "{address} sent something else at {at}");
        at += count;
    }
    Reply { first_byte, total: begun.elapsed() }
}

/// Takes the first bytes of a body and stops reading; the connection stays open while it is held.
pub(crate) fn begin(server: &Server, path: &str) -> TcpStream {
    let (mut stream, _) = head(&server.address, path);
    stream.read_exact(&mut [0; 20_000]).unwrap();
    stream
}

/// Asks, and waits for the head of the answer and the first bytes after it, where there are any.
pub(crate) fn question(address: &str, method: &str, path: &str) {
    let (mut stream, body) = ask(address, method, path);
    if method != "HEAD" && body.is_empty() {
        stream.read_exact(&mut [0]).unwrap();
    }
}

fn head(address: &str, path: &str) -> (TcpStream, Vec<u8>) {
    ask(address, "GET", path)
}

fn ask(address: &str, method: &str, path: &str) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{}\r\nConnection: close\r\n\r\n",
        crate::ACCEPT
    );
    stream.write_all(request.as_bytes()).unwrap();
    let (mut got, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{address} closed without a head: {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..count]);
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).into_owned();
            assert!(head.starts_with("HTTP/1.1 200"), "{address} for {path}: {head}");
            return (stream, got.split_off(end + 4));
        }
    }
}
