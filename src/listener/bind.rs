//! Bound sockets: TCP, on the loopback device where the address is loopback, or a unix socket; bound by this process,
//! or by systemd, which holds sockets from boot and across restarts of the daemon.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::address::{Listen, ListenError};
use super::memory::MemoryListener;
use super::peer::AdmittedUsers;
use super::send_buffer;
use super::socket::Socket;

/// Connections that may wait to be accepted; a node that starts fifty pods at once must not see a refusal.
const BACKLOG: i32 = 4_096;

/// A socket that was bound before this process began.
#[derive(Debug)]
pub enum Inherited {
    /// A TCP socket and its address.
    Tcp(std::net::TcpListener, SocketAddr),
    /// A unix socket and its file.
    Unix(std::os::unix::net::UnixListener, PathBuf),
    /// No socket: connections within this process, under the name of a unix socket.
    Memory(MemoryListener, PathBuf),
}

impl Inherited {
    /// Where the socket is bound.
    pub fn address(&self) -> Listen {
        match self {
            Self::Tcp(_, address) => Listen::Tcp(*address),
            Self::Unix(_, path) | Self::Memory(_, path) => Listen::Unix(path.clone()),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    /// `None`: all users.
    admitted: Option<AdmittedUsers>,
}

#[derive(Debug)]
enum Bound {
    /// Where `loopback`, peers that are not are refused.
    Tcp { socket: TcpListener, loopback: bool },
    /// Where `ours`, the file of the socket is removed at the end.
    Unix { socket: UnixListener, path: PathBuf, ours: bool },
    /// Connections within this process.
    Memory { connections: MemoryListener, path: PathBuf },
}

/// The result of an accept.
pub(super) enum Accepted {
    /// A client.
    Client(Socket),
    /// A client on another machine, at a loopback address: closed without an answer.
    NotLoopback,
}

impl Listener {
    /// Binds. Must be called within a runtime.
    ///
    /// # Errors
    /// The address is taken, forbidden, or not one of this machine's.
    pub fn bind(at: &Listen) -> Result<Self, ListenError> {
        let bound = match at {
            Listen::Tcp(address) => bind_tcp(*address),
            Listen::Unix(path) => bind_unix(path),
        };
        let socket = bound.map_err(|source| ListenError { at: at.clone(), source })?;
        Ok(Self { socket, admitted: None })
    }

    /// Takes over a socket that was bound before this process began. Must be called within a runtime.
    ///
    /// # Errors
    /// The socket is none that can be listened on.
    pub fn adopt(socket: Inherited) -> Result<Self, ListenError> {
        let at = socket.address();
        let adopted = match socket {
            Inherited::Tcp(socket, address) => adopt_tcp(socket, address),
            Inherited::Unix(socket, path) => adopt_unix(socket, path),
            Inherited::Memory(connections, path) => Ok(Bound::Memory { connections, path }),
        };
        let socket = adopted.map_err(|source| ListenError { at, source })?;
        Ok(Self { socket, admitted: None })
    }

    /// Where the socket is bound, with the port that was chosen.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> io::Result<Listen> {
        match &self.socket {
            Bound::Tcp { socket, .. } => socket.local_addr().map(Listen::Tcp),
            Bound::Unix { path, .. } | Bound::Memory { path, .. } => Ok(Listen::Unix(path.clone())),
        }
    }

    /// Serves the processes of these users only.
    pub fn admit_only(&mut self, uids: &[u32]) {
        self.admitted = Some(AdmittedUsers::new(uids));
    }

    /// The users whose processes may connect; `None`: all.
    pub(super) fn admitted(&self) -> Option<&AdmittedUsers> {
        self.admitted.as_ref()
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        Ok(Accepted::Client(match &self.socket {
            Bound::Tcp { socket, loopback } => {
                let (stream, address) = socket.accept().await?;
                if *loopback && !is_loopback(address.ip()) {
                    return Ok(Accepted::NotLoopback);
                }
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Bound::Unix { socket, .. } => Socket::Unix(socket.accept().await?.0),
            Bound::Memory { connections, .. } => Socket::Memory(connections.accept().await),
        }))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Bound::Unix { path, ours: true, .. } = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let loopback = address.ip().is_loopback();
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if loopback && let Err(error) = socket.bind_device(Some(b"lo")) {
        // Without this a neighbour can reach 127.0.0.1 where the node routes it (CVE-2020-8558); peers are
        // checked on accept as well.
        tracing::warn!(%error, %address, "cannot bind to the loopback device; peers are checked one by one");
    }
    tune(&SockRef::from(&socket), loopback)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Tcp { socket: TcpListener::from_std(socket.into())?, loopback })
}

fn bind_unix(path: &Path) -> io::Result<Bound> {
    remove_dead_socket(path)?;
    let socket = UnixListener::bind(path).map_err(|error| match path.parent() {
        Some(directory) if error.kind() == io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), format!("there is no directory {}", directory.display()))
        }
        _ => error,
    })?;
    Ok(Bound::Unix { socket, path: path.to_owned(), ours: true })
}

fn adopt_tcp(socket: std::net::TcpListener, address: SocketAddr) -> io::Result<Bound> {
    let loopback = address.ip().is_loopback();
    tune(&SockRef::from(&socket), loopback)?;
    socket.set_nonblocking(true)?;
    Ok(Bound::Tcp { socket: TcpListener::from_std(socket)?, loopback })
}

fn adopt_unix(socket: std::os::unix::net::UnixListener, path: PathBuf) -> io::Result<Bound> {
    socket.set_nonblocking(true)?;
    Ok(Bound::Unix { socket: UnixListener::from_std(socket)?, path, ours: false })
}

/// Sets what accepted sockets inherit.
fn tune(socket: &SockRef<'_>, loopback: bool) -> io::Result<()> {
    if loopback {
        // Whatever the node's default is: pacing, as BBR does it, only holds loopback back; reno is always permitted.
        if let Err(error) = socket.set_tcp_congestion(b"reno") {
            tracing::debug!(%error, "the congestion control of the loopback socket stays as it is");
        }
    }
    socket.set_send_buffer_size(send_buffer::SMALL_BYTES)
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(v6) => v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
        IpAddr::V4(v4) => v4.is_loopback(),
    }
}

/// Removes the file of a socket that no process answers on any more.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}
