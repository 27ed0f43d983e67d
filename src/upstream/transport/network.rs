//! What connections are made of: the machine's resolver and TCP, or what a test puts in their place.
//!
//! Names are judged and waits are bounded above this, the same for both. A connection that a test opens is taken as it
//! is for `https` too, without TLS: the test that opens it in this process decides what is behind it.

use std::net::SocketAddr;

use crate::support::network;
pub use crate::support::network::{Io, Pending};

/// Another network than the machine's.
pub trait Network: Send + Sync {
    /// The addresses of a name; the port of each is ignored.
    fn resolve(&self, name: &str) -> Pending<Vec<SocketAddr>>;

    /// A connection to one of them, opened for `host`.
    fn connect(&self, to: SocketAddr, host: &str) -> Pending<Box<dyn Io>>;
}

/// The network that upstream is reached through.
pub type Reach = network::Reach<dyn Network>;
