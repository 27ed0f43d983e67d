//! A socket whose waits are bounded, and that never ends in a reset.
//!
//! hyper's own header timer cannot distinguish an idle connection from a slow head, and nothing in hyper notices a
//! client that stopped reading; this wrapper times all three. An idle connection is closed only while nothing has come
//! on it. When it is dropped before the peer has closed, a task closes the socket gently: FIN first, then what the peer
//! still sends is read and thrown away for a moment. A plain close with unread bytes would be a reset, and on a reset
//! containerd fails the pull instead of resuming it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::limits::ConnectionLimits;
use super::send_buffer::STILL_AFTER;
use super::sendfile::Outgoing;
use super::socket::Socket;
use crate::support::deadline::Deadline;
use crate::support::tasks::Tasks;

/// How long a peer may go on sending after we have closed our side.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Bytes that are read of what the peer sends then.
const LINGER_BYTES_MAX: u64 = 1024 * 1024;

/// Whether a request is being answered; shared between the socket and the service. Counts both the beginnings and the
/// ends of requests, so that the count is odd in between and no request goes unnoticed.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<AtomicU64>);

impl Busy {
    /// A request is being answered from now on.
    pub(super) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The request has been answered.
    pub(super) fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether the socket takes what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    Yes,
    /// Not now.
    Waits,
    /// Not for [`STILL_AFTER`].
    StandsStill,
}

/// A socket that holds a place among the connections of its listener until it is closed.
pub(super) struct Timed {
    socket: Option<Socket>,
    outgoing: Outgoing,
    place: Option<OwnedSemaphorePermit>,
    busy: Busy,
    limits: ConnectionLimits,
    /// Runs the gentle close.
    closing: Tasks,
    /// Runs while a head is awaited: the idle time until its first byte, the head time from then on.
    reading: Deadline,
    head_begun: bool,
    /// Beginnings and ends of requests that the deadline knows of.
    counted: u64,
    /// Runs while the client does not take what we write.
    writing: Deadline,
    taking: Taking,
    peer_closed: bool,
}

impl Timed {
    pub(super) fn new(
        socket: Socket,
        outgoing: Outgoing,
        place: OwnedSemaphorePermit,
        busy: Busy,
        limits: ConnectionLimits,
        closing: Tasks,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket: Some(socket),
            outgoing,
            place: Some(place),
            busy,
            limits,
            closing,
            reading: Deadline::at(now + limits.head_wait),
            head_begun: true,
            counted: 0,
            writing: Deadline::at(now + limits.write_wait),
            taking: Taking::Yes,
            peer_closed: false,
        }
    }

    fn socket(&mut self) -> io::Result<Pin<&mut Socket>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether a client that waits for no answer has sent nothing for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let count = self.busy.count();
        if !count.is_multiple_of(2) {
            return false;
        }
        if count != self.counted {
            // A request has been answered: the next may take its time to begin.
            self.counted = count;
            self.head_begun = false;
            self.reading.set(Instant::now() + self.limits.idle_wait);
        }
        if self.reading.poll(cx).is_pending() {
            return false;
        }
        if self.head_begun || !self.socket.as_ref().is_some_and(Socket::has_unread) {
            return true;
        }
        // A request has come in this very moment: it is read, and not lost.
        self.head_begun = true;
        self.reading.set(Instant::now() + self.limits.head_wait);
        self.reading.poll(cx).is_ready()
    }

    fn after_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        // A client that waits for bytes which are fetched again does not stand still.
        if written.is_ready() || self.outgoing.is_refetching() {
            self.taking = Taking::Yes;
            return written;
        }
        if self.taking == Taking::Yes {
            self.taking = Taking::Waits;
            self.writing.set(Instant::now() + STILL_AFTER.min(self.limits.write_wait));
        }
        if self.writing.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let left = self.limits.write_wait.saturating_sub(STILL_AFTER);
        if self.taking == Taking::StandsStill || left.is_zero() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.taking = Taking::StandsStill;
        if let Some(socket) = &self.socket {
            self.outgoing.stands_still(socket)?;
        }
        self.writing.set(Instant::now() + left);
        self.writing.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = this.socket()?.poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = &read {
            this.peer_closed |= buffer.filled().len() == before && buffer.capacity() > before;
        }
        if read.is_pending() {
            return if this.is_late(cx) {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            } else {
                Poll::Pending
            };
        }
        let count = this.busy.count();
        if count.is_multiple_of(2) && (count != this.counted || !this.head_begun) {
            this.counted = count;
            this.head_begun = true;
            this.reading.set(Instant::now() + this.limits.head_wait);
        }
        read
    }
}

impl AsyncWrite for Timed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let socket = this.socket.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let written = this.outgoing.poll_write(socket, cx, slices);
        this.after_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.socket()?.poll_flush(cx))?;
        // hyper reads again only when bytes have come; from here on the next request is waited for.
        Poll::Ready(if this.is_late(cx) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(cx)
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let (Some(socket), false) = (self.socket.take(), self.peer_closed)
            && tokio::runtime::Handle::try_current().is_ok()
        {
            let place = self.place.take();
            self.closing.spawn(async move {
                close_gently(socket).await;
                drop(place);
            });
        }
    }
}

/// Closes our side, then reads what the peer still sends until it closes too, for a moment.
pub(super) async fn close_gently(mut socket: Socket) {
    let _ = tokio::time::timeout(LINGER, async {
        let _ = socket.shutdown().await;
        let _ = tokio::io::copy(&mut socket.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await;
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::listener::send_buffer::SendBuffers;
    use crate::listener::sendfile::FileTransfer;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_as_its_idle_connection_is_given_up_is_not_lost() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for is_sent in [false, true] {
            // Its writes reach the socket before the runtime hears of them.
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let socket = Socket::Tcp(listener.accept().await.unwrap().0);
            let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
            let (busy, limits) = (Busy::default(), ConnectionLimits::default());
            let outgoing = Outgoing::new(FileTransfer::Sendfile, SendBuffers::default().of_socket());
            let mut timed = Timed::new(socket, outgoing, place, busy.clone(), limits, Tasks::default());
            busy.begin();
            busy.end();
            let mut bytes = [0; 16];
            let poll = |timed: &mut Timed, bytes: &mut [u8]| {
                let mut buffer = ReadBuf::new(bytes);
                let cx = &mut Context::from_waker(std::task::Waker::noop());
                Pin::new(timed).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
            };
            assert!(poll(&mut timed, &mut bytes).is_pending());
            tokio::time::advance(limits.idle_wait).await;
            if is_sent {
                client.write_all(b"GET").unwrap();
                assert!(poll(&mut timed, &mut bytes).is_pending(), "the request is lost");
                let read = std::future::poll_fn(|cx| {
                    let mut buffer = ReadBuf::new(&mut bytes);
                    Pin::new(&mut timed).poll_read(cx, &mut buffer)
                });
                read.await.unwrap();
                assert!(bytes.starts_with(b"GET"));
            } else {
                assert!(matches!(poll(&mut timed, &mut bytes), Poll::Ready(Err(_))), "it is closed");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_known_after_a_second_and_given_up_after_its_wait() {
        let (server, _client) = tokio::io::duplex(10);
        let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let limits = ConnectionLimits::default();
        let outgoing = Outgoing::new(FileTransfer::Sendfile, SendBuffers::default().of_socket());
        let busy = Busy::default();
        let mut timed = Timed::new(Socket::Memory(server), outgoing, place, busy, limits, Tasks::default());
        let write = |timed: &mut Timed| {
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            Pin::new(timed).poll_write(cx, b"more than ten bytes").map_err(|error| error.kind())
        };
        assert_eq!(write(&mut timed), Poll::Ready(Ok(10)));
        assert_eq!((write(&mut timed), timed.taking), (Poll::Pending, Taking::Waits));
        tokio::time::advance(STILL_AFTER).await;
        assert_eq!((write(&mut timed), timed.taking), (Poll::Pending, Taking::StandsStill));
        tokio::time::advance(limits.write_wait - STILL_AFTER - Duration::from_millis(2)).await;
        assert_eq!(write(&mut timed), Poll::Pending);
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!(write(&mut timed), Poll::Ready(Err(io::ErrorKind::TimedOut)));
    }
}
