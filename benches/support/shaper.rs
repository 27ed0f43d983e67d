//! A proxy to the registry that is slower than loopback: it limits the bytes a second of each connection or of all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::line::Line;

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

impl Shaper {
    pub(crate) fn start(registry: &str, limit: Limit) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (registry, sent) = (registry.to_owned(), Arc::new(AtomicU64::new(0)));
        let shaper = Self { address, sent: Arc::clone(&sent) };
        std::thread::spawn(move || {
            let of_limit = || match limit {
                Limit::Together(rate) | Limit::Each(rate) => Arc::new(Line::new(rate)),
            };
            let all = of_limit();
            for client in listener.incoming() {
                let line = if matches!(limit, Limit::Together(_)) { Arc::clone(&all) } else { of_limit() };
                let (client, server) = (client.unwrap(), TcpStream::connect(&registry).unwrap());
                let (asking, answered) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let sent = Arc::clone(&sent);
                std::thread::spawn(move || copy(asking, answered, |_| {}));
                std::thread::spawn(move || {
                    copy(server, client, |count| {
                        sent.fetch_add(count as u64, Ordering::Relaxed);
                        line.carry(count);
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

fn copy(mut from: TcpStream, mut to: TcpStream, mut passed: impl FnMut(usize)) {
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
