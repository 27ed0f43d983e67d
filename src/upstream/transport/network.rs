//! What connections are made of: the machine's resolver and TCP, or what a test puts in their place.
//!
//! Names are judged and waits are bounded above this, the same for both. A connection that a test opens is taken as it
//! is for `https` too, without TLS: the test that opens it in this process decides what is behind it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// What an operation of a [`Network`] returns.
pub type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// A connection of a network that is not the machine's.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Another network than the machine's.
pub trait Network: Send + Sync {
    /// The addresses of a name; the port of each is ignored.
    fn resolve(&self, name: &str) -> Pending<Vec<SocketAddr>>;

    /// A connection to one of them, opened for `host`.
    fn connect(&self, to: SocketAddr, host: &str) -> Pending<Box<dyn Io>>;
}

/// The network that upstream is reached through: the machine's, unless a test says otherwise.
#[derive(Clone, Default)]
pub struct Reach(Option<Arc<dyn Network>>);

impl Reach {
    /// Through `network`, and in no other way.
    pub fn through(network: Arc<dyn Network>) -> Self {
        Self(Some(network))
    }

    pub(crate) fn other(&self) -> Option<&Arc<dyn Network>> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reach(other)" } else { "Reach(machine)" })
    }
}
