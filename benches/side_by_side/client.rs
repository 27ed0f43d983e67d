//! Clients: one that reads as fast as it can and compares every byte, curl, and one that asks small questions.
//!
//! What a server does wrong is a [`Failure`], not a panic: a peer that fails is left out of a row.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::server::Server;

/// What went wrong with a server, in words.
pub(crate) type Failure = String;

/// The longest time for a body, and for bytes to arrive: drayage has needed minutes for what others send in seconds.
const FETCH_MAX: Duration = Duration::from_secs(60);
/// docker-registry sends an OCI manifest only to clients that accept one.
pub(crate) const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json";

/// When the bytes arrived.
pub(crate) struct Reply {
    pub(crate) first_byte: Duration,
    pub(crate) total: Duration,
}

/// Fetches a whole body and compares it.
pub(crate) fn fetch(server: &Server, path: &str, expected: &[u8]) -> Result<Reply, Failure> {
    fetch_from(&server.address, path, expected)
}

/// The same, from this address.
pub(crate) fn fetch_from(address: &str, path: &str, expected: &[u8]) -> Result<Reply, Failure> {
    let begun = Instant::now();
    let Answer { mut stream, body, .. } = ask(address, "GET", path)?;
    let first_byte = begun.elapsed();
    if !expected.starts_with(&body) {
        return Err(format!("{path}: it sent something else"));
    }
    let (mut at, mut buffer) = (body.len(), vec![0; 1 << 20]);
    while at < expected.len() {
        let count = read(&mut stream, &mut buffer)?;
        if count == 0 {
            return Err(format!("{path}: it ended after {at} bytes"));
        }
        if expected.get(at..at + count) != Some(&buffer[..count]) {
            return Err(format!("{path}: it sent something else at {at}"));
        }
        at += count;
        if begun.elapsed() > FETCH_MAX {
            return Err(format!("{path}: {at} bytes in {FETCH_MAX:?}"));
        }
    }
    Ok(Reply { first_byte, total: begun.elapsed() })
}

/// So many clients fetch the same at once.
pub(crate) fn fetch_by(clients: usize, server: &Server, path: &str, expected: &[u8]) -> Result<(), Failure> {
    at_once(clients, |_| fetch(server, path, expected).map(drop)).map(drop)
}

/// Runs so many of these at once.
pub(crate) fn at_once<T: Send>(
    clients: usize,
    one: impl Fn(usize) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let one = &one;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..clients).map(|n| scope.spawn(move || one(n))).collect();
        all.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    })
}

/// The seconds that `curl -o /dev/null` needs for a body of this many bytes, by its own clock.
pub(crate) fn curl(server: &Server, path: &str, bytes: usize) -> Result<f64, Failure> {
    let url = format!("http://{}{path}", server.address);
    let most = FETCH_MAX.as_secs().to_string();
    let done = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "--max-time", &most])
        .args(["-w", "%{http_code} %{size_download} %{time_total}", &url])
        .output()
        .expect("curl; run tests/tools.sh --bench");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let seconds = text.strip_prefix(&format!("200 {bytes} ")).and_then(|seconds| seconds.parse().ok());
    seconds.ok_or_else(|| format!("{path}: curl says {text}"))
}

/// Takes the first bytes of a body and stops reading; the connection stays open while it is held.
pub(crate) fn begin(server: &Server, path: &str) -> Result<TcpStream, Failure> {
    let Answer { mut stream, .. } = ask(&server.address, "GET", path)?;
    stream.read_exact(&mut [0; 20_000]).map_err(|error| format!("{path}: {error}"))?;
    Ok(stream)
}

/// An answer, of which the head and perhaps a part of the body has arrived.
pub(crate) struct Answer {
    stream: TcpStream,
    body: Vec<u8>,
    length: usize,
}

impl Answer {
    /// Waits for the first byte of the body, where there is one.
    pub(crate) fn wait(&mut self) -> Result<(), Failure> {
        if self.body.is_empty() && self.length > 0 {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).map_err(|error| error.to_string())?;
            self.body.extend_from_slice(&byte);
        }
        Ok(())
    }

    /// Reads the rest of the body.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let (mut left, mut buffer) = (self.length.saturating_sub(self.body.len()), vec![0; 64 * 1024]);
        while left > 0 {
            match read(&mut self.stream, &mut buffer)? {
                0 => return Err(format!("it ended {left} bytes early")),
                count => left = left.saturating_sub(count),
            }
        }
        Ok(())
    }
}

/// Asks on a connection of its own, and waits for the head of the answer.
pub(crate) fn ask(address: &str, method: &str, path: &str) -> Result<Answer, Failure> {
    let said = |error: std::io::Error| format!("{path}: {error}");
    let mut stream = TcpStream::connect(address).map_err(said)?;
    stream.set_nodelay(true).map_err(said)?;
    stream.set_read_timeout(Some(FETCH_MAX)).map_err(said)?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{ACCEPT}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(said)?;
    let (mut got, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let count = read(&mut stream, &mut buffer)?;
        if count == 0 {
            return Err(format!("{path}: it closed without a head: {}", String::from_utf8_lossy(&got)));
        }
        got.extend_from_slice(&buffer[..count]);
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(format!("{path}: {}", head.lines().next().unwrap_or_default()));
            }
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let length = if method == "HEAD" { 0 } else { length.unwrap_or(0) };
            return Ok(Answer { stream, body: got.split_off(end + 4), length });
        }
    }
}

fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, Failure> {
    stream.read(buffer).map_err(|error| error.to_string())
}
