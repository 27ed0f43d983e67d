//! Accepting connections and speaking HTTP/1.1 on them: the plumbing under the data plane and the admin plane.
//!
//! Promises: a bounded number of connections, and a 503 for the next one; bounded waits for a request head, for the
//! next request and for a client that does not read; a TLS ClientHello answered in plain HTTP; no TCP reset on any
//! path, so that a short body is seen as short; bytes of files sent by the kernel, after a check at start that hyper
//! lets them through; a drain that ends idle connections at once and busy ones when they are done or the deadline
//! comes, serves new ones until then, and returns when every task has ended.
//!
//! Deliberately not here: routes, TLS, HTTP/2.

mod accept;
mod address;
mod bind;
mod body;
mod connection;
mod host;
mod limits;
pub mod memory;
mod metrics;
mod peer;
mod send_buffer;
mod sendfile;
mod sendfile_check;
mod sending;
mod socket;
mod timeouts;

pub use accept::{ConnectionOptions, run};
pub use address::{Listen, ListenError};
pub use bind::{Inherited, Listener};
pub use body::{Body, BodyError, BodyWatch};
pub use connection::{DrainState, HttpService};
pub use host::{HostError, Hosts};
pub use limits::ConnectionLimits;
pub use metrics::Metrics;
pub use peer::Peer;
pub use sendfile::FileTransfer;
pub use sendfile_check::file_transfer;

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
