//! A proxy to the registry that is slower than loopback: it limits the bytes a second of each connection or of all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is limited.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// Bytes a second of all connections together, as a network limits them.
    Together(f64),
    /// Bytes a second of each connection, as registries and their networks limit them.
    Each(f64),
}

/// A proxy in front of a registry.
pub(crate) struct Shaper {
    pub(crate) address: String,
    sent: Arc<AtomicU64>,
}

/// Until when the line is busy.
type Line = Arc<Mutex<Instant>>;

impl Shaper {
    pub(crate) fn start(registry: &str, limit: Limit) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (registry, sent) = (registry.to_owned(), Arc::new(AtomicU64::new(0)));
        let shaper = Self { address, sent: Arc::clone(&sent) };
        std::thread::spawn(move || {
            let all: Line = Arc::new(Mutex::new(Instant::now()));
            for client in listener.incoming() {
                let (line, rate) = match limit {
                    Limit::Together(rate) => (Arc::clone(&all), rate),
                    Limit::Each(rate) => (Arc::new(Mutex::new(Instant::now())), rate),
                };
                let (client, server) = (client.unwrap(), TcpStream::connect(&registry).unwrap());
                let (asking, answered) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let sent = Arc::clone(&sent);
                std::thread::spawn(move || carry(asking, answered, |_| {}));
                std::thread::spawn(move || {
                    carry(server, client, |count| {
                        sent.fetch_add(count as u64, Ordering::Relaxed);
                        wait(&line, count as f64 / rate);
                    });
                });
            }
        });
        shaper
    }

    /// Bytes that the registry has sent through it.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Occupies the line for this many seconds.
fn wait(line: &Line, seconds: f64) {
    let until = {
        let mut busy = line.lock().unwrap();
        // Idle time is not made up for; the time that a sleep took too long is.
        let from = (*busy).max(Instant::now() - Duration::from_millis(5));
        *busy = from + Duration::from_secs_f64(seconds);
        *busy
    };
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut passed: impl FnMut(usize)) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        passed(count);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
