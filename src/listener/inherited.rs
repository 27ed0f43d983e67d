//! Sockets that somebody else bound and holds for us: systemd, from boot and across our restarts.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::{TcpListener, UnixListener};

use super::memory::MemoryListener;
use super::socket::{Listen, ListenError, Listener, tune};

/// A socket that was bound before this process began.
#[derive(Debug)]
pub enum Inherited {
    /// TCP.
    Tcp(std::net::TcpListener, SocketAddr),
    /// A unix socket.
    Unix(std::os::unix::net::UnixListener, PathBuf),
    /// No socket: connections within this process, under the name of a unix socket.
    Memory(MemoryListener, PathBuf),
}

impl Inherited {
    /// Where it is bound.
    pub fn address(&self) -> Listen {
        match self {
            Self::Tcp(_, address) => Listen::Tcp(*address),
            Self::Unix(_, path) | Self::Memory(_, path) => Listen::Unix(path.clone()),
        }
    }
}

impl Listener {
    /// Takes over a socket that somebody else bound and holds for us: systemd, across our restarts. Must be called within
    /// a runtime.
    ///
    /// # Errors
    /// It is none that can be listened on.
    pub fn adopt(socket: Inherited) -> Result<Self, ListenError> {
        let at = socket.address();
        let failed = |source| ListenError { at: at.clone(), source };
        match socket {
            Inherited::Tcp(socket, address) => {
                let loopback = address.ip().is_loopback();
                tune(&socket2::SockRef::from(&socket), loopback).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                let socket = TcpListener::from_std(socket).map_err(failed)?;
                Ok(Self::Tcp { socket, loopback, uids: None })
            }
            Inherited::Unix(socket, path) => {
                socket.set_nonblocking(true).map_err(failed)?;
                let socket = UnixListener::from_std(socket).map_err(failed)?;
                Ok(Self::Unix { socket, path, ours: false, uids: None })
            }
            Inherited::Memory(connections, path) => Ok(Self::Memory { connections, path }),
        }
    }
}
