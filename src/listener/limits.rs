//! The bounds of a listener: how many connections, and how long each of their waits may take.

use std::time::Duration;

/// Bounds of a listener and of each of its connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at the same time.
    pub connections_max: usize,
    /// From the first byte of a request head to its last.
    pub head_wait: Duration,
    /// Between requests. Longer than the 90 s of Go clients, so that they close first.
    pub idle_wait: Duration,
    /// How long a client may read nothing of an answer.
    pub write_wait: Duration,
    /// From the begin of a stop to closing the connections that are left.
    pub drain_wait: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            head_wait: Duration::from_secs(10),
            idle_wait: Duration::from_secs(120),
            write_wait: Duration::from_secs(120),
            drain_wait: Duration::from_secs(30),
        }
    }
}
