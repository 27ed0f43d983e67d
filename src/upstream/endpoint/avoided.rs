//! Endpoints that delivered content other than that of the digest asked for.
//!
//! Such an endpoint is asked last for that digest for ten minutes, so that a mirror with a damaged copy does not spoil
//! every pull of an image; for all other content it is used as before. Which digests are wrong where is bounded, and
//! forgotten at a restart.
//!
//! Deliberately not here: endpoints that do not answer (`health`), and whether content is wrong (`pull` verifies it).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::{Digest, Registry};
use crate::support::bounded_map::BoundedMap;
use crate::upstream::endpoint::select::{Endpoint, EndpointId};
use crate::upstream::metrics::Recorder;

/// How long other endpoints are asked first: a mirror that was repaired is used again within that time.
const AVOIDED_FOR: Duration = Duration::from_secs(600);
/// Pairs of endpoint and digest at most; one that is forgotten costs one more download from that endpoint.
const ENTRIES_MAX: usize = 4_096;

/// How an endpoint failed to deliver the content of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryFault {
    /// The body broke off, stalled, or ended early.
    BrokenOff,
    /// The content has another digest.
    Digest,
    /// The content is longer or shorter than declared.
    Length,
    /// The digest of content that came in several ranges is wrong.
    Ranges,
    /// The answer to a range is another range, or contradicts the size of the blob.
    Range,
}

impl DeliveryFault {
    /// The value of the `reason` label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BrokenOff => "broken_off",
            Self::Digest => "digest",
            Self::Length => "length",
            Self::Ranges => "several_ranges",
            Self::Range => "range",
        }
    }
}

/// The endpoints that are avoided, each for some digests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AvoidedEndpoints(Arc<Inner>);

struct Inner {
    /// By the URL of the endpoint and the digest, until when.
    until: Mutex<BoundedMap<(String, Digest), Instant>>,
    recorder: Recorder,
}

impl AvoidedEndpoints {
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self(Arc::new(Inner { until: Mutex::new(BoundedMap::new(ENTRIES_MAX)), recorder }))
    }

    /// Records that an endpoint of `registry` did not deliver the content of `digest`, and counts it.
    pub(crate) fn record(
        &self,
        registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) {
        self.0.recorder.wrong_content(registry, endpoint.host(), fault.label());
        tracing::warn!(%registry, %digest, endpoint = endpoint.host(), reason = fault.label(), "an endpoint did not deliver the content of a digest");
        let key = (endpoint.base_url().to_owned(), digest);
        self.0.until.lock().insert(key, Instant::now() + AVOIDED_FOR);
    }

    /// Whether other endpoints are to be asked first.
    pub(crate) fn is_avoided(&self, endpoint: &Endpoint, digest: Digest) -> bool {
        let key = (endpoint.base_url().to_owned(), digest);
        self.0.until.lock().peek(&key).is_some_and(|until| Instant::now() < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_avoided_for_one_digest_and_not_for_ever() {
        let avoided = AvoidedEndpoints::new(Recorder::for_test());
        let [mirror, other] = ["https://mirror.test", "https://other.test"].map(Endpoint::for_test);
        let (wrong, right) = (Digest::of(b"wrong"), Digest::of(b"right"));
        avoided.record(&"reg.test".parse().unwrap(), wrong, mirror.id(), DeliveryFault::Digest);
        assert!(avoided.is_avoided(&mirror, wrong));
        assert!(!avoided.is_avoided(&mirror, right) && !avoided.is_avoided(&other, wrong));
        tokio::time::advance(AVOIDED_FOR).await;
        assert!(!avoided.is_avoided(&mirror, wrong));
    }
}
