//! How many body bytes were received from upstream since the start. The metric of each registry mirrors the number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::reference::Registry;
use crate::support::metrics::IntCounter;
use crate::upstream::metrics::Recorder;

/// The bytes of all registries. Cheap to clone; clones share the number.
#[derive(Clone)]
pub(super) struct ReceivedBytes {
    total: Arc<AtomicU64>,
    recorder: Recorder,
}

/// Counts the bytes of one body.
pub(super) struct ReceivedCounter {
    total: Arc<AtomicU64>,
    metric: IntCounter,
}

impl ReceivedBytes {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { total: Arc::default(), recorder }
    }

    /// Body bytes of manifests, lists and blobs.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// A counter for a body that `registry` sends.
    pub(super) fn counter_for(&self, registry: &Registry) -> ReceivedCounter {
        ReceivedCounter { total: Arc::clone(&self.total), metric: self.recorder.received_bytes(registry) }
    }
}

impl ReceivedCounter {
    pub(super) fn add(&self, bytes: usize) {
        self.total.fetch_add(bytes as u64, Ordering::Relaxed);
        self.metric.inc_by(bytes as u64);
    }
}
