//! Hosts that are the node itself, whichever node asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `host`, without a port, is a name or an address of the node itself: `localhost` and what is below it (RFC
/// 6761), a loopback address, or the unspecified one, which is connected to as loopback. An IPv6 address may have
/// brackets. No name is resolved.
pub fn is_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(v6) = bare.parse::<Ipv6Addr>() {
        return is_address(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4));
    }
    if let Ok(v4) = bare.parse::<Ipv4Addr>() {
        return is_address(v4.into());
    }
    let name = bare.trim_end_matches('.');
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

fn is_address(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_node_itself_is_loopback() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.1",
            "127.255.0.9",
            "[::1]",
            "::1",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "[::]",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in
            ["localhost.corp", "notlocalhost", "128.0.0.1", "10.0.0.1", "[fe80::1]", "[::2]", "reg.test", ""]
        {
            assert!(!is_host(host), "{host}");
        }
    }
}
