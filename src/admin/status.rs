//! `/v1/status`: numbers only, no names of repositories or registries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pull::AnswerSource;

/// The numbers of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// The version of this program.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// As `/readyz` says.
    pub ready: bool,
    /// The store.
    pub store: StoreStatus,
    /// Body bytes handed to clients since the start.
    pub served: ServedStatus,
    /// Blob downloads under way.
    pub downloads: usize,
    /// Requests answered since the start, by outcome; outcomes that did not happen are left out.
    pub requests: BTreeMap<String, u64>,
    /// Registries that cannot be asked.
    pub outages: usize,
}

/// What the store holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Committed blobs.
    pub blobs: u64,
    /// Bytes of the blobs.
    pub bytes: u64,
    /// Bytes that the blobs may occupy; absent where the filesystem does not say how large it is.
    pub max_bytes: Option<u64>,
    /// Bytes that are free on the filesystem; absent where the filesystem does not say.
    pub free_bytes: Option<u64>,
    /// Bytes that the blobs may occupy now: less than `max_bytes` if other files fill the filesystem; absent where the
    /// filesystem does not say.
    pub capacity_bytes: Option<u64>,
    /// Whether nothing can be stored because other files hold the inodes of the filesystem.
    #[serde(default)]
    pub lacks_inodes: bool,
    /// Whether what is fetched is stored.
    pub caching: bool,
    /// Whether one blob was damaged on disk again and again: the disk does not hold what is written to it.
    #[serde(default)]
    pub disk_failing: bool,
    /// Images that are pinned.
    pub pins: usize,
}

/// Body bytes handed to clients since the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServedStatus {
    /// The bytes by where they came from; sources without any are left out.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// The sum.
    pub bytes: u64,
    /// Body bytes that were received from upstream.
    pub received_bytes: u64,
    /// The fraction of the bytes that upstream did not have to send for this request, from 0 to 1; absent before the
    /// first byte.
    pub hit_ratio: Option<f64>,
    /// Bytes that did not have to be fetched.
    pub saved_bytes: u64,
}

impl ServedStatus {
    /// From the bytes by where they came from, and those that were received from upstream.
    pub fn new(by_source: &[(AnswerSource, u64)], received_bytes: u64) -> Self {
        let is_fetched = |source| matches!(source, AnswerSource::Fill | AnswerSource::Passthrough);
        let bytes: u64 = by_source.iter().map(|(_, bytes)| bytes).sum();
        let fetched: u64 =
            by_source.iter().filter(|(source, _)| is_fetched(*source)).map(|(_, bytes)| bytes).sum();
        #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
        let hit_ratio = (bytes > 0).then(|| (bytes - fetched) as f64 / bytes as f64);
        Self {
            bytes_by_source: by_source
                .iter()
                .map(|(source, bytes)| (source.label().to_owned(), *bytes))
                .collect(),
            bytes,
            received_bytes,
            hit_ratio,
            saved_bytes: bytes.saturating_sub(received_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_did_not_have_to_send_is_a_hit() {
        let by_source = [(AnswerSource::Fill, 100), (AnswerSource::Hit, 250), (AnswerSource::Join, 50)];
        let served = ServedStatus::new(&by_source, 110);
        assert_eq!((served.bytes, served.hit_ratio, served.saved_bytes), (400, Some(0.75), 290));
        let nothing = ServedStatus::new(&[], 10);
        assert_eq!((nothing.hit_ratio, nothing.saved_bytes), (None, 0));
    }
}
