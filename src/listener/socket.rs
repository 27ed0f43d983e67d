//! Sockets to listen on: TCP, bound to the loopback device where the address is loopback, or a unix socket.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::{Domain, Protocol, Type};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::memory::{self, MemoryListener};

/// Connections that may wait to be accepted; a node that starts fifty pods at once must not see a refusal.
const BACKLOG: i32 = 4_096;

/// Bytes that the kernel holds for a client at most; it doubles the number for its own use.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:5050`.
    Tcp(SocketAddr),
    /// `unix:/run/larder/registry.sock`.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("expected an absolute path after unix:"),
            None => text.parse().map(Self::Tcp).map_err(|_| "expected address:port or unix:/path"),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => write!(f, "http://{at}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {at}: {source}")]
pub struct ListenError {
    /// Where.
    pub at: Listen,
    /// Why.
    pub source: io::Error,
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP; peers that are not loopback are refused if `loopback`.
    Tcp {
        /// The socket.
        socket: TcpListener,
        /// Whether it serves this machine only.
        loopback: bool,
        /// The users whose processes may connect; `None`: all.
        uids: Option<Vec<u32>>,
    },
    /// A unix socket; its file is removed at the end, if it is ours.
    Unix {
        /// The socket.
        socket: UnixListener,
        /// Its file.
        path: PathBuf,
        /// Whether that is ours to remove.
        ours: bool,
        /// The users whose processes may connect; `None`: all.
        uids: Option<Vec<u32>>,
    },
    /// Connections within this process.
    Memory {
        /// Where they come from.
        connections: MemoryListener,
        /// What it is called.
        path: PathBuf,
    },
}

/// What came of an accept.
pub(super) enum Accepted {
    /// A client.
    Client(Socket),
    /// Somebody from another machine: not worth a word.
    NotLoopback,
    /// A user of this machine who may not connect.
    Forbidden(Socket),
}

impl Listener {
    /// Binds. Must be called within a runtime.
    ///
    /// # Errors
    /// The address is taken, forbidden, or not ours.
    pub fn bind(at: &Listen) -> Result<Self, ListenError> {
        let failed = |source| ListenError { at: at.clone(), source };
        match at {
            Listen::Tcp(address) => Self::bind_tcp(*address).map_err(failed),
            Listen::Unix(path) => {
                remove_dead_socket(path).map_err(failed)?;
                let socket = UnixListener::bind(path).map_err(failed)?;
                Ok(Self::Unix { socket, path: path.clone(), ours: true, uids: None })
            }
        }
    }

    fn bind_tcp(address: SocketAddr) -> io::Result<Self> {
        let loopback = address.ip().is_loopback();
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if loopback && let Err(error) = socket.bind_device(Some(b"lo")) {
            // Without this a neighbour can reach 127.0.0.1 where the node routes it (CVE-2020-8558); peers are
            // checked on accept as well.
            tracing::warn!(%error, %address, "cannot bind to the loopback device; peers are checked one by one");
        }
        tune(&socket2::SockRef::from(&socket), loopback)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self::Tcp { socket: TcpListener::from_std(socket.into())?, loopback, uids: None })
    }

    /// Where it listens, with the port that was chosen.
    pub fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp { socket, .. } => socket.local_addr().map(Listen::Tcp),
            Self::Unix { path, .. } | Self::Memory { path, .. } => Ok(Listen::Unix(path.clone())),
        }
    }

    /// Lets in the processes of these users only.
    pub fn admit_only(&mut self, users: &[u32]) {
        match self {
            Self::Tcp { uids, .. } | Self::Unix { uids, .. } => *uids = Some(users.to_owned()),
            Self::Memory { .. } => {}
        }
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        let (client, uid, uids) = match self {
            Self::Tcp { socket, loopback, uids } => {
                let (stream, peer) = socket.accept().await?;
                if *loopback && !is_loopback(peer.ip()) {
                    return Ok(Accepted::NotLoopback);
                }
                stream.set_nodelay(true)?;
                let uid = uids.as_ref().and_then(|_| super::peer::uid_of(peer, stream.local_addr().ok()?));
                (Socket::Tcp(stream), uid, uids)
            }
            Self::Unix { socket, uids, .. } => {
                let stream = socket.accept().await?.0;
                let uid = uids.as_ref().and_then(|_| stream.peer_cred().ok()).map(|peer| peer.uid());
                (Socket::Unix(stream), uid, uids)
            }
            Self::Memory { connections, .. } => {
                return Ok(Accepted::Client(Socket::Memory(connections.accept().await)));
            }
        };
        Ok(match uids {
            Some(admitted) if !uid.is_some_and(|uid| admitted.contains(&uid)) => Accepted::Forbidden(client),
            _ => Accepted::Client(client),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, ours: true, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What accepted sockets inherit.
pub(super) fn tune(socket: &socket2::SockRef<'_>, loopback: bool) -> io::Result<()> {
    if loopback {
        // Whatever the node's default is: pacing, as BBR does it, only holds loopback back; reno is always permitted.
        if let Err(error) = socket.set_tcp_congestion(b"reno") {
            tracing::debug!(%error, "the congestion control of the loopback socket stays as it is");
        }
    }
    // A thousand readers that stall would otherwise hold gigabytes of kernel memory; more than this is no faster.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(v6) => v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
        IpAddr::V4(v4) => v4.is_loopback(),
    }
}

/// Removes the file of a socket that nobody answers on any more.
fn remove_dead_socket(path: &PathBuf) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers on it")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

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
        const HANDSHAKE: u8 = 0x16;
        match self {
            Self::Tcp(stream) => {
                let mut first = [0];
                matches!(stream.peek(&mut first).await, Ok(1)) && first[0] == HANDSHAKE
            }
            Self::Unix(_) | Self::Memory(_) => false,
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_) | Self::Memory(_))
    }

    pub(super) fn poll_write_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, pieces)
    }

    /// Writes bytes that more will follow at once.
    pub(super) fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_out(stream, cx, |stream| {
                Ok(sendmsg(stream, pieces, &mut SendAncillaryBuffer::default(), more())?)
            }),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    /// Sends bytes of a file; 0 only if it has ended before `offset`.
    pub(super) fn poll_sendfile(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_out(stream, cx, |stream| {
                Ok(rustix::fs::sendfile(stream, file, Some(&mut offset.clone()), len)?)
            }),
            Self::Unix(stream) => poll_out(stream, cx, |stream| {
                Ok(rustix::fs::sendfile(stream, file, Some(&mut offset.clone()), len)?)
            }),
            Self::Memory(stream) => memory::poll_send_file(stream, cx, file, offset, len),
        }
    }
}

fn more() -> SendFlags {
    SendFlags::MORE | SendFlags::NOSIGNAL
}

/// What tokio's sockets have in common for calls that it has no method for.
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

/// Makes a call that writes, when the socket takes something.
fn poll_out<S: Ready>(
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
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_named() {
        assert_eq!("127.0.0.1:5050".parse(), Ok(Listen::Tcp(([127, 0, 0, 1], 5050).into())));
        assert_eq!("unix:/run/x.sock".parse(), Ok(Listen::Unix("/run/x.sock".into())));
        for bad in
            ["", "5050", "localhost:5050", "127.0.0.1", "unix:", "unix:run/x.sock", "http://127.0.0.1:1"]
        {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
