//! `/v1/status`: numbers only, no names of repositories or registries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kubernetes::PodNumbers;
use crate::pull::AnswerSource;
use crate::store::WriteFailure;
use crate::support::metric_labels::Label;
use crate::tier::TierStatus;

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
    /// This node's pods; absent where they are not watched.
    #[serde(default)]
    pub pods: Option<PodNumbers>,
    /// The shared tier; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierStatus>,
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
    /// Why it is not, where the disk did not take it.
    #[serde(default)]
    pub write_failure: Option<WriteFailure>,
    /// Whether one blob was damaged on disk again and again: the disk does not hold what is written to it.
    #[serde(default)]
    pub disk_failing: bool,
    /// Whether the disk has not ended a call for seconds.
    #[serde(default)]
    pub disk_hanging: bool,
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
    /// Those that upstream had to send: each byte that was fetched counts for the first client that gets it, whether it
    /// was fetched for that client or ahead of it.
    #[serde(default)]
    pub from_upstream_bytes: u64,
    /// Those that did not have to be fetched; with `from_upstream_bytes` the sum.
    pub saved_bytes: u64,
    /// The fraction of the sum that did not have to be fetched, from 0 to 1; absent before the first byte.
    pub hit_ratio: Option<f64>,
    /// Body bytes of manifests and blobs that were received from upstream.
    pub received_bytes: u64,
    /// Those that were served to no client, yet or in vain; with `from_upstream_bytes` what was received.
    #[serde(default)]
    pub unserved_bytes: u64,
}

impl ServedStatus {
    /// From the bytes by where they came from, those of them that upstream had to send, and those that were received
    /// from upstream. The numbers add up, although they are counted while others are read.
    pub fn new(by_source: &[(AnswerSource, u64)], from_upstream_bytes: u64, received_bytes: u64) -> Self {
        let bytes: u64 = by_source.iter().map(|(_, bytes)| bytes).sum();
        let from_upstream_bytes = from_upstream_bytes.min(bytes);
        let received_bytes = received_bytes.max(from_upstream_bytes);
        let saved_bytes = bytes - from_upstream_bytes;
        #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
        let hit_ratio = (bytes > 0).then(|| saved_bytes as f64 / bytes as f64);
        Self {
            bytes_by_source: by_source
                .iter()
                .map(|(source, bytes)| (source.label().to_owned(), *bytes))
                .collect(),
            bytes,
            from_upstream_bytes,
            saved_bytes,
            hit_ratio,
            received_bytes,
            unserved_bytes: received_bytes - from_upstream_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_upstream_and_what_was_saved_add_up_to_what_was_served() {
        // The hits were fetched ahead: nothing was saved by them.
        let by_source = [(AnswerSource::Fill, 100), (AnswerSource::Hit, 250), (AnswerSource::Join, 50)];
        let served = ServedStatus::new(&by_source, 350, 380);
        assert_eq!((served.bytes, served.from_upstream_bytes, served.saved_bytes), (400, 350, 50));
        assert_eq!((served.hit_ratio, served.received_bytes, served.unserved_bytes), (Some(0.125), 380, 30));
        let nothing = ServedStatus::new(&[], 0, 10);
        assert_eq!((nothing.hit_ratio, nothing.saved_bytes, nothing.unserved_bytes), (None, 0, 10));
        let torn = ServedStatus::new(&[(AnswerSource::Fill, 5)], 7, 3);
        assert_eq!((torn.saved_bytes, torn.received_bytes, torn.unserved_bytes), (0, 5, 0));
    }
}
