//! A registry in this process: answers questions for manifests and blobs, ranges included, as far away and as slow as it
//! is told to be.
//!
//! A thread for each connection. Deliberately not here: faults, accounts and lists (`tests/support` has those).

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::content::{Content, Found};
use super::line::Line;

/// Bytes that are written at a time.
const PIECE: usize = 32 * 1024;
/// Bytes of the stack of a connection's thread: there may be hundreds.
const STACK: usize = 256 * 1024;

/// How far away a registry is, and how slow. By default it is neither.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Distance {
    /// What connecting takes.
    pub(crate) connect: Duration,
    /// From a question to its answer.
    pub(crate) answer: Duration,
    /// Bytes a second of each connection.
    pub(crate) each: Option<f64>,
    /// Bytes a second of all connections together.
    pub(crate) together: Option<f64>,
}

/// A running registry. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) address: String,
    sent: Arc<AtomicU64>,
}

struct Server<C> {
    content: Arc<C>,
    distance: Distance,
    together: Option<Line>,
    sent: Arc<AtomicU64>,
}

impl Registry {
    /// A registry of `content`.
    pub(crate) fn start(content: &Arc<impl Content>, distance: Distance) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, sent) = (listener.local_addr().unwrap().to_string(), Arc::default());
        let (content, together) = (Arc::clone(content), distance.together.map(Line::new));
        let server = Arc::new(Server { content, distance, together, sent: Arc::clone(&sent) });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                let serving = move || server.serve(stream);
                std::thread::Builder::new().stack_size(STACK).spawn(serving).unwrap();
            }
        });
        Self { address, sent }
    }

    /// Bytes of bodies that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl<C: Content> Server<C> {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(reading) = stream.try_clone() else { return };
        let mut reading = BufReader::new(reading);
        let own = self.distance.each.map(Line::new);
        std::thread::sleep(self.distance.connect);
        while let Some((first, range)) = question(&mut reading) {
            std::thread::sleep(self.distance.answer);
            if self.answer(&mut stream, &first, range, own.as_ref()).is_err() {
                return;
            }
        }
    }

    fn answer(
        &self,
        stream: &mut TcpStream,
        first: &str,
        range: Option<AskedRange>,
        own: Option<&Line>,
    ) -> std::io::Result<()> {
        let path = first.split_whitespace().nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let Some(Found { media_type, digest, bytes }) = self.content.find(path) else {
            let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
            return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        };
        let total = bytes.len();
        let (status, Range { start, end }) = match range {
            Some((start, last)) if start < total => {
                let end = last.map_or(total, |last| total.min(last + 1));
                (
                    format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}", end - 1),
                    start..end,
                )
            }
            _ => ("200 OK".to_owned(), 0..total),
        };
        // In one write: a head by itself would be a packet by itself.
        let mut out = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n\r\n",
            end - start
        )
        .into_bytes();
        if first.starts_with("GET ") {
            for from in (start..end).step_by(PIECE) {
                let piece = bytes.read(from..end.min(from + PIECE));
                own.iter().chain(&self.together.as_ref()).for_each(|line| line.carry(piece.len()));
                self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                out.extend_from_slice(&piece);
                stream.write_all(&out)?;
                out.clear();
            }
        }
        stream.write_all(&out)
    }
}

/// The first byte that is asked for, and the last, if not all from there on.
type AskedRange = (usize, Option<usize>);

/// The first line of the next question, and its range; `None` once there is none.
fn question(reading: &mut BufReader<TcpStream>) -> Option<(String, Option<AskedRange>)> {
    let mut first = String::new();
    if reading.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let (mut line, mut range) = (String::new(), None);
    while reading.read_line(&mut line).ok()? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (start, last) = value.trim().split_once('-')?;
            range = Some((start.parse().ok()?, last.parse().ok()));
        }
        line.clear();
    }
    Some((first, range))
}
