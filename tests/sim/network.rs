//! The network between a daemon and the registries: names, refusals, hangs, and connections of buffers in memory.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use larder::upstream::{Io, Network, Pending};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::plan::{FaultKind, Host};
use crate::registry::Upstreams;

/// Bytes that wait on a connection.
pub(crate) const BUFFER: usize = 64 * 1024;
/// When a look-up of a name whose servers do not answer ends, as the machine's resolver ends it: glibc asks two servers
/// twice, 5 s each. One that never ended would hold its name after its servers are well again: who asks meanwhile waits
/// for the look-up that is under way (`upstream/transport/names.rs`).
const RESOLVER_GIVES_UP: Duration = Duration::from_secs(20);

/// The network of one daemon.
pub(crate) struct Reach {
    upstreams: Upstreams,
    epoch: u32,
}

impl Reach {
    /// For the daemon of this epoch: its connections end with it.
    pub(crate) fn new(upstreams: Upstreams, epoch: u32) -> Self {
        Self { upstreams, epoch }
    }
}

impl Network for Reach {
    fn resolve(&self, name: &str) -> Pending<Vec<SocketAddr>> {
        let (upstreams, name) = (self.upstreams.clone(), name.to_owned());
        Box::pin(async move {
            let Some(host) = Host::ALL.into_iter().find(|host| host.name() == name) else {
                return Err(io::Error::other("no such name"));
            };
            match upstreams.host_fault(host, &[FaultKind::NoName, FaultKind::NameHangs]) {
                Some(FaultKind::NoName) => Err(io::Error::other("no such name")),
                Some(_) => {
                    tokio::time::sleep(RESOLVER_GIVES_UP).await;
                    Err(io::Error::other("no server of names has answered"))
                }
                None => Ok(vec![address(host)]),
            }
        })
    }

    fn connect(&self, to: SocketAddr, _: &str) -> Pending<Box<dyn Io>> {
        let (upstreams, epoch) = (self.upstreams.clone(), self.epoch);
        Box::pin(async move {
            let host = Host::ALL.into_iter().find(|host| address(*host).ip() == to.ip());
            let host = host.ok_or(io::ErrorKind::HostUnreachable)?;
            match upstreams.host_fault(host, &[FaultKind::Refuse, FaultKind::ConnectHangs]) {
                Some(FaultKind::Refuse) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Some(_) => std::future::pending().await,
                None => {}
            }
            let (client, server) = duplex(BUFFER);
            let served = upstreams.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let upstreams = served.clone();
                    async move { upstreams.answer(host, request).await }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(server), service)
                    .await;
            });
            let connection: Box<dyn Io> = Box::new(Connection::new(client, upstreams, epoch));
            Ok(connection)
        })
    }
}

fn address(host: Host) -> SocketAddr {
    let number = Host::ALL.iter().position(|one| *one == host).unwrap_or(0) as u8;
    let private = host.is_configured() && host != Host::Objects;
    if private { ([10, 0, 0, number + 1], 80).into() } else { ([20, 1, 1, number + 1], 443).into() }
}

/// A connection that ends with the daemon that opened it.
pub(crate) struct Connection {
    io: DuplexStream,
    upstreams: Upstreams,
    epoch: u32,
}

impl Connection {
    pub(crate) fn new(io: DuplexStream, upstreams: Upstreams, epoch: u32) -> Self {
        Self { io, upstreams, epoch }
    }

    fn is_cut(&self) -> bool {
        self.upstreams.epoch() != self.epoch
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
