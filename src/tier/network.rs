//! What connections to the store are made of: the machine's network, or what a test puts in its place.

use crate::support::network;
pub use crate::support::network::{Io, Pending};

/// Another network than the machine's.
pub trait Network: Send + Sync {
    /// A connection to the store at this host and port. It is taken as it is; `http://` in the store's URL says that no
    /// TLS is spoken over it.
    fn connect(&self, authority: &str) -> Pending<Box<dyn Io>>;
}

/// The network that the store is reached through.
pub type Reach = network::Reach<dyn Network>;
