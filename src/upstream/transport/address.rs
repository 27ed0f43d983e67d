//! Which addresses may be connected to: a pure classification of every special range (RFC 6890 and later).
//!
//! A registry without an entry in the configuration, a redirect target and a token realm are names that a client or a
//! registry chose. They may lead to public addresses only; the address that is checked is the one that is connected to.
//! A cloud's metadata service is never a registry, even if the configuration names it.
//!
//! Deliberately not here: resolving names (`dial`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the name of a host comes from, and so which addresses it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HostTrust {
    /// The configuration names it: private addresses are permitted.
    Configured,
    /// A client, a redirect or a challenge names it: public addresses only.
    Untrusted,
}

impl HostTrust {
    /// Whether a host of this trust may have the address `ip`.
    pub(crate) fn permits(self, ip: IpAddr) -> bool {
        let ip = unmapped(ip);
        !is_metadata(ip) && (self == Self::Configured || is_public(ip))
    }
}

fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Link-local, and the metadata addresses that lie elsewhere (AWS over IPv6, Alibaba).
fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::new(100, 100, 100, 200),
        IpAddr::V6(v6) => v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) || is_in(v6, 0xfe80, 10),
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = a == 192 && b == 0 && c == 0;
    let relay = a == 192 && b == 88 && c == 99;
    let benchmark = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 240
        || shared
        || protocol
        || relay
        || benchmark
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        // NAT64 (RFC 6052): an IPv6-only node reaches the IPv4 world through it; the embedded address counts.
        let [.., a, b, c, d] = ip.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Global unicast is 2000::/3; within it Teredo and other protocol blocks, documentation and 6to4 are not.
    is_in(ip, 0x2000, 3)
        && !(s[0] == 0x2001 && s[1] < 0x200)
        && !(s[0] == 0x2001 && s[1] == 0xdb8)
        && s[0] != 0x2002
        && !(s[0] == 0x3fff && s[1] < 0x1000)
}

fn is_in(ip: Ipv6Addr, prefix: u16, bits: u32) -> bool {
    (ip.segments()[0] ^ prefix) >> (16 - bits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untrusted_name_leads_to_public_addresses_only() {
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "::ffff:8.8.8.8",
        ] {
            assert!(HostTrust::Untrusted.permits(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.9.9",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!HostTrust::Untrusted.permits(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn a_configured_name_may_be_private_but_never_a_metadata_service() {
        for private in ["10.1.2.3", "127.0.0.1", "::1", "fd12::1", "192.168.1.1", "100.64.0.1"] {
            assert!(HostTrust::Configured.permits(private.parse().unwrap()), "{private}");
        }
        for metadata in
            ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200", "fe80::1"]
        {
            assert!(!HostTrust::Configured.permits(metadata.parse().unwrap()), "{metadata}");
        }
    }
}
