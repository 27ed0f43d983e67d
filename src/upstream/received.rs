//! How many body bytes of manifests and blobs were received from upstream since the start, and which of them no client
//! got yet. The metric of each registry mirrors the number. Lists are not counted: they are not what is cached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::reference::{Digest, Registry};
use crate::support::metrics::IntCounter;
use crate::support::unserved::{self, Unserved};
use crate::upstream::metrics::Recorder;

/// The bytes of all registries. Cheap to clone; clones share the number.
#[derive(Clone)]
pub(super) struct ReceivedBytes {
    total: Arc<AtomicU64>,
    unserved: Unserved<Digest>,
    recorder: Recorder,
}

/// Counts the bytes of one body.
pub(super) struct ReceivedCounter(Option<Counted>);

struct Counted {
    total: Arc<AtomicU64>,
    metric: IntCounter,
    /// Those of its digest, where that is known before the body.
    unserved: Option<unserved::Bytes>,
}

impl ReceivedBytes {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { total: Arc::default(), unserved: Unserved::default(), recorder }
    }

    /// Body bytes of manifests and blobs.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// What was received and served to no client yet.
    pub(super) fn unserved(&self) -> &Unserved<Digest> {
        &self.unserved
    }

    /// A counter for a body that `registry` sends; of content of `digest`, where that is known.
    pub(super) fn counter_for(&self, registry: &Registry, digest: Option<Digest>) -> ReceivedCounter {
        let unserved = digest.map(|digest| self.unserved.fetched(digest));
        let (total, metric) = (Arc::clone(&self.total), self.recorder.received_bytes(registry));
        ReceivedCounter(Some(Counted { total, metric, unserved }))
    }

    /// The content of a body that was counted without its digest.
    pub(super) fn identify(&self, digest: Digest, bytes: usize) {
        self.unserved.fetched(digest).add(bytes as u64);
    }
}

impl ReceivedCounter {
    /// For a body that is not counted.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn add(&self, bytes: usize) {
        if let Some(Counted { total, metric, unserved }) = &self.0 {
            total.fetch_add(bytes as u64, Ordering::Relaxed);
            metric.inc_by(bytes as u64);
            unserved.iter().for_each(|unserved| unserved.add(bytes as u64));
        }
    }
}
