//! How much the kernel holds for a client that is sent a file: much for a few large bodies, little for all others.
//!
//! A large buffer keeps a fast client busy while the next piece is checked, and wakes this process once for megabytes
//! instead of once for some 170 KiB. A thousand clients that do not read would hold gigabytes of kernel memory with it:
//! a few sockets at a time may have one. Towards the end of a body the buffer is small again, so that what is queued
//! when the last byte is handed over is no more than what is copied (`sendfile`). A client whose socket takes
//! nothing more for a second gives its large buffer back, and gets none again on its connection: sixteen that stand
//! still take none from those that read. So does one that reads slowly: the kernel says that a socket takes more when a
//! third of it is free.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::socket::Socket;

/// `SO_SNDBUF` of a socket that has no large buffer. The kernel doubles the number for its own use. A thousand clients
/// that do not read would otherwise hold gigabytes of kernel memory.
pub(super) const SMALL_BYTES: usize = 256 * 1024;
/// The same of one that has. More was not faster; `net.core.wmem_max` may bound it, where this process may not pass
/// that.
const LARGE_BYTES: usize = 1024 * 1024;
/// Sockets with a large buffer at the same time: they hold 32 MiB of kernel memory together.
const LARGE_SOCKETS_MAX: usize = 16;
/// Bytes that are left of a body for which a large buffer is worth two calls.
const LARGE_BODY_MIN: u64 = 8 * 1024 * 1024;

/// A client whose socket takes nothing more for so long has no use for a large buffer.
pub(super) const STILL_AFTER: Duration = Duration::from_secs(1);

/// Bytes that the queue of a socket with a small buffer holds, about.
pub(super) const SMALL_QUEUE_BYTES: usize = 2 * SMALL_BYTES;
/// The same of one with a large buffer.
const LARGE_QUEUE_BYTES: usize = 2 * LARGE_BYTES;

/// The large buffers of a listener. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(super) struct SendBuffers(Arc<Semaphore>);

/// The buffer of one socket.
#[derive(Debug)]
pub(super) struct SendBuffer {
    all: SendBuffers,
    large: Option<OwnedSemaphorePermit>,
    /// It has taken nothing more for [`STILL_AFTER`].
    is_slow: bool,
}

/// What is done with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Grow,
    Shrink,
    Keep,
}

impl Default for SendBuffers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_SOCKETS_MAX)))
    }
}

impl SendBuffers {
    /// The buffer of a socket, small as it was accepted.
    pub(super) fn of_socket(&self) -> SendBuffer {
        SendBuffer { all: self.clone(), large: None, is_slow: false }
    }
}

impl SendBuffer {
    /// Makes the buffer fit a body of which so many bytes are left, where that is known.
    ///
    /// # Errors
    /// The socket does not take a smaller buffer.
    pub(super) fn fit(&mut self, socket: &Socket, left: Option<u64>) -> io::Result<()> {
        match change(left, self.large.is_some()) {
            Change::Keep => {}
            Change::Grow => {
                if !self.is_slow
                    && let Ok(permit) = Arc::clone(&self.all.0).try_acquire_owned()
                    && socket.set_send_buffer(LARGE_BYTES).is_ok()
                {
                    self.large = Some(permit);
                }
            }
            Change::Shrink => {
                socket.set_send_buffer(SMALL_BYTES)?;
                self.large = None;
            }
        }
        Ok(())
    }

    /// The socket has taken nothing more for [`STILL_AFTER`]. What is queued already stays queued.
    ///
    /// # Errors
    /// The socket does not take a smaller buffer.
    pub(super) fn give_back(&mut self, socket: &Socket) -> io::Result<()> {
        self.is_slow = true;
        if self.large.is_some() {
            socket.set_send_buffer(SMALL_BYTES)?;
            self.large = None;
        }
        Ok(())
    }

    /// Bytes that the socket's queue holds after a write.
    pub(super) fn queue_bytes(&self) -> usize {
        if self.large.is_some() { LARGE_QUEUE_BYTES } else { SMALL_QUEUE_BYTES }
    }
}

fn change(left: Option<u64>, is_large: bool) -> Change {
    match (left, is_large) {
        (Some(left), false) if left >= LARGE_BODY_MIN => Change::Grow,
        (Some(left), true) if left > LARGE_QUEUE_BYTES as u64 => Change::Keep,
        (_, true) => Change::Shrink,
        (_, false) => Change::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_small_again_before_the_end_of_its_body() {
        const MIB: u64 = 1024 * 1024;
        for (left, is_large, expected) in [
            (Some(100 * MIB), false, Change::Grow),
            (Some(100 * MIB), true, Change::Keep),
            (Some(8 * MIB - 1), false, Change::Keep),
            (Some(2 * MIB + 1), true, Change::Keep),
            (Some(2 * MIB), true, Change::Shrink),
            (Some(0), true, Change::Shrink),
            // Any byte may be the last one.
            (None, true, Change::Shrink),
            (None, false, Change::Keep),
        ] {
            assert_eq!(change(left, is_large), expected, "{left:?} {is_large}");
        }
    }

    #[tokio::test]
    async fn clients_that_stand_still_take_no_large_buffer_from_one_that_reads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let all = SendBuffers::default();
        let mut taken = Vec::new();
        for _ in 0..=LARGE_SOCKETS_MAX {
            let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
            let (mut buffer, socket) = (all.of_socket(), Socket::Tcp(accepted.unwrap().0));
            buffer.fit(&socket, Some(LARGE_BODY_MIN)).unwrap();
            taken.push((buffer, socket, client.unwrap()));
        }
        let are_large = |taken: &[(SendBuffer, Socket, _)]| -> Vec<bool> {
            taken.iter().map(|(buffer, ..)| buffer.large.is_some()).collect()
        };
        let mut expected = [true; LARGE_SOCKETS_MAX + 1];
        expected[LARGE_SOCKETS_MAX] = false;
        assert_eq!(are_large(&taken), expected);
        let (first, socket, _) = &mut taken[0];
        first.give_back(socket).unwrap();
        for (buffer, socket, _) in &mut taken {
            buffer.fit(socket, Some(LARGE_BODY_MIN)).unwrap();
        }
        expected = [true; LARGE_SOCKETS_MAX + 1];
        expected[0] = false;
        assert_eq!(are_large(&taken), expected, "the one that reads has it");
    }
}
