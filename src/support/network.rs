//! What connections are made of where they are not the machine's: what a test puts in the machine's place.
//!
//! Deliberately not here: what a network can do. That is a trait of the module that connects through it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// What an operation of a network returns.
pub type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// A connection of a network that is not the machine's.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The network that servers are reached through: the machine's, unless a test says otherwise. `N` is a trait object.
/// Cheap to clone.
pub struct Reach<N: ?Sized>(Option<Arc<N>>);

impl<N: ?Sized> Reach<N> {
    /// Through `network`, and in no other way.
    pub fn through(network: Arc<N>) -> Self {
        Self(Some(network))
    }

    /// The network that is not the machine's, if there is one.
    pub(crate) fn other(&self) -> Option<&Arc<N>> {
        self.0.as_ref()
    }
}

impl<N: ?Sized> Clone for Reach<N> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<N: ?Sized> Default for Reach<N> {
    fn default() -> Self {
        Self(None)
    }
}

impl<N: ?Sized> fmt::Debug for Reach<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reach(other)" } else { "Reach(machine)" })
    }
}

impl<N: ?Sized> PartialEq for Reach<N> {
    fn eq(&self, other: &Self) -> bool {
        let address = |reach: &Self| reach.0.as_ref().map(|network| Arc::as_ptr(network).cast::<()>());
        address(self) == address(other)
    }
}

impl<N: ?Sized> Eq for Reach<N> {}
