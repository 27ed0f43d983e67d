//! What connections to the store are made of: the machine's network, or what a test puts in its place.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// What an operation of a [`Network`] returns.
pub type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// A connection to the store.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Another network than the machine's.
pub trait Network: Send + Sync {
    /// A connection to the store at this host and port. It is taken as it is; `http://` in the store's URL says that no TLS
    /// is spoken over it.
    fn connect(&self, authority: &str) -> Pending<Box<dyn Io>>;
}

/// The network that the store is reached through: the machine's, unless a test says otherwise.
#[derive(Clone, Default)]
pub struct Reach(Option<Arc<dyn Network>>);

impl Reach {
    /// Through `network`, and in no other way.
    pub fn through(network: Arc<dyn Network>) -> Self {
        Self(Some(network))
    }

    #[cfg_attr(
        not(feature = "tier"),
        allow(dead_code, reason = "without the feature nothing is connected to")
    )]
    pub(super) fn other(&self) -> Option<&Arc<dyn Network>> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reach(other)" } else { "Reach(machine)" })
    }
}

impl PartialEq for Reach {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().map(Arc::as_ptr).map(<*const dyn Network>::cast::<()>)
            == other.0.as_ref().map(Arc::as_ptr).map(<*const dyn Network>::cast::<()>)
    }
}

impl Eq for Reach {}
