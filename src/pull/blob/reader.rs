//! What a body needs to get at more of its blob.

use std::sync::Arc;

use bytes::Bytes;

use super::download::Downloads;
use super::refetch_places::RefetchPlaces;
use super::source::UpstreamBlobs;
use super::stored::StoredBlobs;
use super::upstream_body::UpstreamBody;
use super::window_memory::WindowMemory;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::metrics::Metrics;
use crate::reference::Digest;
use crate::support::body_chunk::BodyChunk;

/// What a body needs to get at more of its blob.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) stored: StoredBlobs,
    pub(crate) downloads: Downloads,
    pub(crate) upstream: UpstreamBlobs,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memory: WindowMemory,
    pub(crate) refetches: RefetchPlaces,
    pub(crate) context: PullContext,
    pub(crate) digest: Digest,
}

impl Reader {
    /// Upstream's body from byte `at` on.
    ///
    /// # Errors
    /// Upstream.
    pub(super) async fn upstream_from(&self, at: u64) -> Result<UpstreamBody, Error> {
        self.upstream.open(&self.context, self.digest, at, None).await
    }

    /// Bytes that come past the disk: those before `end` are for the client, and counted by `reason`.
    pub(super) fn pass(&self, mut bytes: Bytes, reason: &str, at: u64, end: Option<u64>) -> BodyChunk {
        bytes.truncate(end.map_or(usize::MAX, |end| usize::try_from(end - at).unwrap_or(usize::MAX)));
        self.metrics.passthrough.with_label_values(&[reason]).inc_by(bytes.len() as u64);
        bytes.into()
    }
}
