//! Addresses to listen on, as the configuration writes them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
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
