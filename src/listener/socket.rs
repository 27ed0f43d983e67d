//! An accepted connection: TCP or a unix socket, with the calls that send bytes of files.

use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::memory;

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
}

impl Socket {
    /// Whether the client begins with a TLS handshake record. Waits for its first byte.
    pub(super) async fn speaks_tls(&self) -> bool {
        match self {
            Self::Tcp(stream) => {
                let mut first = [0];
                matches!(stream.peek(&mut first).await, Ok(1)) && first[0] == TLS_HANDSHAKE
            }
            Self::Unix(_) | Self::Memory(_) => false,
        }
    }

    /// Whether bytes have come that were not read, which the runtime may not know of yet.
    pub(super) fn has_unread(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match self {
            Self::Tcp(stream) => recv(stream, &mut [0; 1][..], flags),
            Self::Unix(stream) => recv(stream, &mut [0; 1][..], flags),
            Self::Memory(_) => return false,
        };
        matches!(peeked, Ok((1.., _)))
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_) | Self::Memory(_))
    }

    /// Sets how many bytes the kernel holds for the peer of a TCP connection, beyond the system's bound where this
    /// process may. The kernel doubles the number for its own use.
    ///
    /// # Errors
    /// Another kind of socket; the system.
    pub(super) fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        if set_socket_send_buffer_size_force(stream, bytes).is_err() {
            set_socket_send_buffer_size(stream, bytes)?;
        }
        Ok(())
    }

    pub(super) fn poll_write_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, slices)
    }

    /// Writes bytes, and tells the kernel that more follow at once, so that they share their packets.
    pub(super) fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_call(stream, cx, |stream| {
                Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), more())?)
            }),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// Sends bytes of a file; 0 only if the file ends before `offset`.
    pub(super) fn poll_sendfile(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_call(stream, cx, |stream| {
                Ok(rustix::fs::sendfile(stream, file, Some(&mut offset.clone()), len)?)
            }),
            Self::Unix(stream) => poll_call(stream, cx, |stream| {
                Ok(rustix::fs::sendfile(stream, file, Some(&mut offset.clone()), len)?)
            }),
            Self::Memory(stream) => memory::poll_send_file(stream, cx, file, offset, len),
        }
    }
}

fn more() -> SendFlags {
    SendFlags::MORE | SendFlags::NOSIGNAL
}

/// What tokio's sockets have in common, for system calls that tokio has no method for.
trait Ready {
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_write_with(&self, call: impl FnOnce() -> io::Result<usize>) -> io::Result<usize>;
}

impl Ready for TcpStream {
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn try_write_with(&self, call: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, call)
    }
}

impl Ready for UnixStream {
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn try_write_with(&self, call: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, call)
    }
}

/// Makes a system call that writes, once the socket is writable.
fn poll_call<S: Ready>(
    stream: &S,
    cx: &mut Context<'_>,
    call: impl Fn(&S) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_writable(cx))?;
        match stream.try_write_with(|| call(stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
