//! Which local users may connect, and whose process is at the other end of a connection: the kernel is asked for that
//! one socket (sock_diag(7)), or, where it does not answer such questions, its table of all TCP sockets is read.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};

use super::socket::Socket;

/// The address family and the protocol of the socket that is asked (linux/netlink.h).
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
/// Bytes of an answer at most: a header, a socket and a few attributes.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// The client of a connection, as the log names it; an extension of every request. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` over a unix socket.
    pub address: Option<SocketAddr>,
    /// The user whose process it is, where the kernel knows it: it is on this machine, and was connected at the time.
    pub uid: Option<u32>,
}

impl Peer {
    /// The client of a connection that was just accepted.
    pub(super) fn of(socket: &Socket) -> Self {
        match socket {
            Socket::Tcp(stream) => {
                let (address, own) = (stream.peer_addr().ok().map(unmapped), stream.local_addr().ok());
                let local = address.zip(own).filter(|(peer, own)| peer.ip() == unmapped(*own).ip());
                let uid = local.and_then(|(peer, own)| ask_kernel(peer, unmapped(own)).ok().flatten());
                Self { address, uid }
            }
            Socket::Unix(stream) => {
                Self { address: None, uid: stream.peer_cred().ok().map(|peer| peer.uid()) }
            }
            Socket::Memory(_) => Self::default(),
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// The users whose processes may connect. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct AdmittedUsers(Arc<[u32]>);

impl AdmittedUsers {
    pub(super) fn new(uids: &[u32]) -> Self {
        Self(uids.into())
    }

    /// Whether the process at the other end belongs to one of them. A process that nothing is known of does not.
    pub(super) async fn admit(&self, socket: &Socket) -> bool {
        let uid = match socket {
            Socket::Tcp(stream) => match (stream.peer_addr(), stream.local_addr()) {
                (Ok(peer), Ok(own)) => uid_of(peer, own).await,
                _ => None,
            },
            Socket::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
            // A connection within this process.
            Socket::Memory(_) => return true,
        };
        uid.is_some_and(|uid| self.0.contains(&uid))
    }
}

/// The user of the socket that has `peer` as its own address and `own` as the remote one; `None` if the kernel does
/// not say.
async fn uid_of(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    let (peer, own) = (unmapped(peer), unmapped(own));
    match ask_kernel(peer, own) {
        Ok(uid) => uid,
        // A kernel without inet_diag, or a sandbox that forbids netlink.
        Err(error) => {
            tracing::debug!(%error, "the kernel does not answer for one socket; its table is read");
            tokio::task::spawn_blocking(move || find_in_tables(peer, own)).await.ok().flatten()
        }
    }
}

/// Asks the kernel for one socket. Does not block: the kernel answers before the question has returned. `Ok(None)` if
/// there is no such socket.
fn ask_kernel(peer: SocketAddr, own: SocketAddr) -> io::Result<Option<u32>> {
    let socket =
        socket2::Socket::new(AF_NETLINK.into(), socket2::Type::DGRAM, Some(NETLINK_SOCK_DIAG.into()))?;
    socket.set_nonblocking(true)?;
    socket.send(&question(peer, own))?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let received = rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::DONTWAIT)?.0;
    let message =
        NetlinkMessage::<SockDiagMessage>::deserialize(&answer[..received]).map_err(io::Error::other)?;
    match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
            // A socket that its process has closed has no owner; the kernel shows root there.
            Ok(Some(found.header.uid).filter(|_| found.header.inode != 0))
        }
        NetlinkPayload::Error(error) => {
            let error = error.to_io();
            if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn question(peer: SocketAddr, own: SocketAddr) -> Vec<u8> {
    let request = InetRequest {
        family: if peer.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: peer.port(),
            destination_port: own.port(),
            source_address: peer.ip(),
            destination_address: own.ip(),
            interface_id: 0,
            // Any socket with these addresses.
            cookie: [0xff; 8],
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads `/proc/self/net/tcp` or `tcp6`: milliseconds where there are many connections. Blocks. `/proc/net` is not
/// there where a service sees processes only (`ProcSubset=pid`).
fn find_in_tables(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    // A client may have opened an IPv6 socket for an IPv4 address.
    let tables = if peer.is_ipv4() {
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
    } else {
        ["/proc/self/net/tcp6"; 2]
    };
    tables.iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        let wide = table.ends_with('6');
        find(&text, &shown(peer, wide), &shown(own, wide))
    })
}

fn unmapped(at: SocketAddr) -> SocketAddr {
    match at.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(at, |v4| SocketAddr::new(v4.into(), at.port())),
        IpAddr::V4(_) => at,
    }
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid ...` (proc(5)).
fn find(table: &str, local: &str, remote: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next()? != local || fields.next()? != remote {
            return None;
        }
        fields.nth(4)?.parse().ok()
    })
}

/// An address as the table has it: each 32-bit word in the machine's own byte order.
fn shown(at: SocketAddr, wide: bool) -> String {
    let octets: Vec<u8> = match at.ip() {
        IpAddr::V4(v4) if wide => v4.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut text = String::new();
    for word in octets.chunks_exact(4) {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        // Writing to a String cannot fail.
        let _ = write!(text, "{word:08X}");
    }
    let _ = write!(text, ":{:04X}", at.port());
    text
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_kernel_knows_whose_socket_it_is_and_both_ways_of_asking_agree() {
        let own = rustix::process::geteuid().as_raw();
        // The last is an IPv6 socket that connects to an IPv4 address.
        for (listen, connect) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
        ] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let port = listener.local_addr().unwrap().port();
            let _client = TcpStream::connect((connect, port)).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            let (peer, local) = (unmapped(peer), unmapped(stream.local_addr().unwrap()));
            assert_eq!(ask_kernel(peer, local).unwrap(), Some(own), "{listen} {connect}");
            assert_eq!(find_in_tables(peer, local), Some(own), "{listen} {connect}");
            let other = SocketAddr::new(peer.ip(), 1);
            assert_eq!(uid_of(other, local).await, None, "{listen} {connect}: no such socket");
        }
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:13BA 0100007F:C350 01 00000000:00000000 00:00000000 00000000 65534        0 1 1 0000 20 4 30 10 -1\n";
        assert_eq!(find(table, "0100007F:13BA", "0100007F:C350"), Some(65_534));
        assert_eq!(find(table, "0100007F:C350", "0100007F:13BA"), None);
    }
}
