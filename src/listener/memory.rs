//! Connections that are pairs of buffers in this process, for tests that need no socket and whose time stands still.
//!
//! A [`MemoryListener`] is handed to the daemon in place of a socket; its [`Dialer`] opens connections to it. They are
//! served as those of a unix socket are. What leaves a file is copied where the kernel's `sendfile` would send it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, DuplexStream, duplex};
use tokio::sync::{Mutex, mpsc};

/// Connections that may wait to be accepted.
const BACKLOG: usize = 4_096;
/// Bytes of a file that are copied at a time.
const COPIED_MAX: usize = 64 * 1024;

/// Accepts what its [`Dialer`] connects.
#[derive(Debug)]
pub struct MemoryListener(Mutex<mpsc::Receiver<DuplexStream>>);

/// Connects to one [`MemoryListener`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer(mpsc::Sender<DuplexStream>);

impl MemoryListener {
    /// A listener, and the only way to it.
    pub fn new() -> (Self, Dialer) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(Mutex::new(receiver)), Dialer(sender))
    }

    /// The next connection; never one after the last dialer has gone.
    pub(super) async fn accept(&self) -> DuplexStream {
        match self.0.lock().await.recv().await {
            Some(stream) => stream,
            None => std::future::pending().await,
        }
    }
}

impl Dialer {
    /// Connects. `buffer` bytes at most wait in each direction for their reader.
    ///
    /// # Errors
    /// `ConnectionRefused`: the listener has gone.
    pub async fn connect(&self, buffer: usize) -> io::Result<DuplexStream> {
        let (client, server) = duplex(buffer);
        self.0.send(server).await.map_err(|_gone| io::ErrorKind::ConnectionRefused)?;
        Ok(client)
    }
}

/// Sends bytes of a file; 0 only if it has ended before `offset`.
pub(super) fn poll_send_file(
    stream: &mut DuplexStream,
    cx: &mut Context<'_>,
    file: &File,
    offset: u64,
    len: usize,
) -> Poll<io::Result<usize>> {
    let mut bytes = vec![0; len.min(COPIED_MAX)];
    let read = file.read_at(&mut bytes, offset)?;
    if read == 0 {
        return Poll::Ready(Ok(0));
    }
    Pin::new(stream).poll_write(cx, &bytes[..read])
}
