//! Whose process is at the other end of a loopback connection: read from the kernel's own table of TCP sockets.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// The user of the socket that has `peer` as its own address and `own` as the remote one; `None` if the kernel does
/// not say. Reads `/proc/net/tcp` or `tcp6` in place: some tens of microseconds, once a connection, only where the
/// operator restricts users.
pub(super) fn uid_of(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    let (peer, own) = (unmapped(peer), unmapped(own));
    // A client may have opened an IPv6 socket for an IPv4 address.
    let tables = if peer.is_ipv4() { ["/proc/net/tcp", "/proc/net/tcp6"] } else { ["/proc/net/tcp6"; 2] };
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

    #[test]
    fn the_kernel_knows_whose_socket_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(uid_of(peer, stream.local_addr().unwrap()), Some(own));
        assert_eq!(uid_of("127.0.0.1:1".parse().unwrap(), stream.local_addr().unwrap()), None);
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:13BA 0100007F:C350 01 00000000:00000000 00:00000000 00000000 65534        0 1 1 0000 20 4 30 10 -1\n";
        assert_eq!(find(table, "0100007F:13BA", "0100007F:C350"), Some(65_534));
        assert_eq!(find(table, "0100007F:C350", "0100007F:13BA"), None);
    }
}
