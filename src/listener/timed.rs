//! A socket that does not wait for ever, and that never ends in a reset.
//!
//! hyper's own header timer cannot tell an idle connection from a slow head, and nothing in it notices a client that
//! stopped reading; this wrapper times all three. When it is dropped before the peer has closed, a task closes the
//! socket gently: FIN first, then what the peer still sends is read and thrown away for a moment. A plain close with
//! unread bytes would be a reset, and on a reset containerd fails the pull instead of resuming it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::Limits;
use super::outgoing::Outgoing;
use super::socket::Socket;

/// How long a peer may go on sending after we have closed our side.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Bytes of it that are read.
const LINGER_BYTES_MAX: u64 = 1024 * 1024;

/// Whether a request is being answered; shared between the socket and the service.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Busy {
    pub(super) fn set(&self, busy: bool) {
        self.0.store(busy, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A socket with a place among the connections.
pub(super) struct Timed {
    socket: Option<Socket>,
    outgoing: Outgoing,
    place: Option<OwnedSemaphorePermit>,
    busy: Busy,
    limits: Limits,
    /// Runs while a head is awaited: the idle time until its first byte, the head time from then on.
    reading: Pin<Box<Sleep>>,
    head_begun: bool,
    was_busy: bool,
    /// Runs while the client does not take what we write.
    writing: Pin<Box<Sleep>>,
    stalled: bool,
    peer_closed: bool,
}

impl Timed {
    pub(super) fn new(
        socket: Socket,
        outgoing: Outgoing,
        place: OwnedSemaphorePermit,
        busy: Busy,
        limits: Limits,
    ) -> Self {
        Self {
            socket: Some(socket),
            outgoing,
            place: Some(place),
            busy,
            limits,
            reading: Box::pin(tokio::time::sleep(limits.head_wait)),
            head_begun: true,
            was_busy: false,
            writing: Box::pin(tokio::time::sleep(limits.write_wait)),
            stalled: false,
            peer_closed: false,
        }
    }

    fn socket(&mut self) -> io::Result<Pin<&mut Socket>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn after_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            self.writing.as_mut().reset(Instant::now() + self.limits.write_wait);
        }
        match self.writing.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
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
        if this.busy.get() {
            this.was_busy = true;
            return read;
        }
        if this.was_busy {
            // A request has been answered: the next may take its time to begin.
            (this.was_busy, this.head_begun) = (false, false);
            this.reading.as_mut().reset(Instant::now() + this.limits.idle_wait);
        }
        if read.is_ready() {
            if !this.head_begun {
                this.head_begun = true;
                this.reading.as_mut().reset(Instant::now() + this.limits.head_wait);
            }
            return read;
        }
        match this.reading.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let socket = this.socket.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let written = this.outgoing.poll_write(socket, cx, pieces);
        this.after_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(cx)
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let (Some(socket), false) = (self.socket.take(), self.peer_closed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let place = self.place.take();
            runtime.spawn(async move {
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
