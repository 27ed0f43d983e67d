//! Where the admin plane listens.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the admin plane listens by default.
pub const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 5051);

/// Where the admin plane listens.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that names no repository and changes nothing.
    pub listen: SocketAddr,
    /// `/metrics` alone, for a Prometheus elsewhere in the cluster.
    pub metrics_listen: Option<SocketAddr>,
    /// The control socket, for the owner of the daemon alone.
    pub socket: PathBuf,
}
