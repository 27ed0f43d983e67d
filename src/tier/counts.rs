//! What was moved to and from the tier since the start. `status` reads it; the metrics mirror it.

use std::sync::atomic::AtomicU64;

/// What was moved since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) bad_objects: AtomicU64,
}
