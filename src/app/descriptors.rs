//! The limit of open files, and the connections that it allows for.

use crate::listener::ConnectionLimits;

/// File descriptors kept for everything that is not a client: upstream connections, the store, the log.
const DESCRIPTORS_RESERVED: u64 = 256;
/// A client has a connection and, usually, a blob open.
const DESCRIPTORS_A_CLIENT: u64 = 2;
/// Connections that are allowed in any case: a daemon without any would be of no use.
const CONNECTIONS_MIN: u64 = 16;

/// Raises the soft limit of open files to the hard one, and returns the limit that holds now; `None`: no limit.
pub(super) fn raise_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => now.maximum,
        Err(_) => now.current,
    }
}

/// Fewer connections where the limit of open files does not allow for as many as configured.
pub(super) fn within(limits: ConnectionLimits, descriptors: Option<u64>) -> ConnectionLimits {
    let allowed =
        descriptors.map_or(u64::MAX, |d| d.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_A_CLIENT);
    let allowed = usize::try_from(allowed.max(CONNECTIONS_MIN)).unwrap_or(usize::MAX);
    if allowed < limits.connections_max {
        tracing::warn!(
            allowed,
            configured = limits.connections_max,
            "the limit of open files allows fewer connections than configured"
        );
    }
    ConnectionLimits { connections_max: limits.connections_max.min(allowed), ..limits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_limit_bounds_the_connections() {
        let at = |descriptors| within(ConnectionLimits::default(), descriptors).connections_max;
        assert_eq!(at(None), 4_096);
        assert_eq!(at(Some(1_048_576)), 4_096);
        assert_eq!(at(Some(1_024)), 384);
        assert_eq!(at(Some(10)), 16);
    }
}
