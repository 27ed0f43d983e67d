//! How the tier is, for people and `/v1/status`: read from what the tier remembers, never from the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::handle::Tier;
use super::health::Trouble;

/// How the tier is. It names no registry, repository or bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierStatus {
    /// Whether this node reads from it.
    pub reads: bool,
    /// Whether this node writes to it.
    pub writes: bool,
    /// Looks that found content, since the start.
    pub hits: u64,
    /// Looks that did not.
    pub misses: u64,
    /// Body bytes read.
    pub read_bytes: u64,
    /// Objects written.
    pub written: u64,
    /// Body bytes written.
    pub written_bytes: u64,
    /// Objects that were not the content of their digest.
    pub bad_objects: u64,
    /// Why it is not read now; absent while it answers.
    pub reading_fails: Option<TierTrouble>,
    /// Why it is not written now; absent while it takes what it is given.
    pub writing_fails: Option<TierTrouble>,
}

/// Why the tier is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierTrouble {
    /// The kind of the last failure.
    pub kind: String,
    /// Seconds since the first one.
    pub seconds: u64,
}

impl Tier {
    /// How it is; `None` if there is none.
    pub fn status(&self) -> Option<TierStatus> {
        let inner = self.0.as_ref()?;
        let (counts, now) = (&inner.counts, Instant::now());
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(TierStatus {
            reads: inner.config.read,
            writes: inner.config.write,
            hits: of(&counts.hits),
            misses: of(&counts.misses),
            read_bytes: of(&counts.read_bytes),
            written: of(&counts.written),
            written_bytes: of(&counts.written_bytes),
            bad_objects: of(&counts.bad_objects),
            reading_fails: inner.health.reading_trouble(now).map(shown),
            writing_fails: inner.health.writing_trouble(now).map(shown),
        })
    }
}

fn shown(trouble: Trouble) -> TierTrouble {
    TierTrouble { kind: trouble.kind.label().to_owned(), seconds: trouble.lasts.as_secs() }
}
