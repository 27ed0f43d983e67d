//! Addresses to listen on, as the configuration writes them.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:5050`.
    Tcp(SocketAddr),
    /// `unix:/run/larder/registry.sock`.
    Unix(PathBuf),
}

impl Listen {
    /// Whether a socket at this address receives what is sent to another.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(own), Self::Tcp(other)) => {
                own.port() == other.port() && contains(own.ip(), other.ip())
            }
            (own, other) => own == other,
        }
    }

    /// Whether another address cannot be bound, because a socket at this one has its port at one of the addresses that
    /// it stands for.
    pub fn blocks(&self, other: &Self) -> bool {
        self != other && other.covers(self)
    }
}

/// Whether one is the other, or stands for all addresses and so for the other: `[::]` for those of IPv4 too.
fn contains(whole: IpAddr, part: IpAddr) -> bool {
    whole == part || (whole.is_unspecified() && (whole.is_ipv6() || part.is_ipv4()))
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("expected an absolute path after unix:"),
            None => text.parse().ok().map(Self::Tcp).ok_or("expected address:port or unix:/path"),
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
    /// The address.
    pub at: Listen,
    /// What the operating system said.
    pub source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_socket_ends_no_daemon_that_is_to_listen_on_more_addresses_of_its_port() {
        for (held, at, expected) in [
            ("127.0.0.1:5050", "0.0.0.0:5050", true),
            ("127.0.0.1:5050", "[::]:5050", true),
            ("[::1]:5050", "[::]:5050", true),
            ("[::1]:5050", "0.0.0.0:5050", false),
            ("127.0.0.1:5050", "0.0.0.0:6060", false),
            ("127.0.0.1:5050", "10.0.0.1:5050", false),
            ("0.0.0.0:5050", "0.0.0.0:5050", false),
            ("unix:/x", "0.0.0.0:5050", false),
        ] {
            let (held, at): (Listen, Listen) = (held.parse().unwrap(), at.parse().unwrap());
            assert_eq!(held.blocks(&at), expected, "{held} {at}");
        }
    }

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
