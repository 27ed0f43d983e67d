//! What a body needs to get at more of its blob.

use std::sync::Arc;

use bytes::Bytes;

use super::refetch_places::RefetchPlaces;
use crate::pull::blob::download::{Downloads, StoredOrFollowed};
use crate::pull::blob::flight::Sharing;
use crate::pull::blob::past_the_disk::memory::{MemoryShare, WindowMemory};
use crate::pull::blob::source::BlobSource;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::blob::stored::StoredBlobs;
use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::pull::metrics::{Metrics, PassedBytes};
use crate::reference::Digest;
use crate::support::body_chunk::BodyChunk;

/// What a body needs to get at more of its blob.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) stored: StoredBlobs,
    pub(crate) downloads: Downloads,
    pub(crate) source: BlobSource,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memory: WindowMemory,
    pub(crate) refetches: RefetchPlaces,
    pub(crate) context: PullContext,
    pub(crate) digest: Digest,
}

impl Reader {
    /// The body of the source from byte `at` on.
    ///
    /// # Errors
    /// Upstream.
    pub(super) async fn source_from(&self, at: u64) -> Result<SourceBody, Error> {
        self.source.open(&self.context, self.digest, at, None).await
    }

    /// The download of a stored blob that the disk does not give: joined, or led. While the disk `hangs` the store is
    /// not looked into. `None` if there is none by a fault of this node.
    ///
    /// # Errors
    /// Upstream.
    pub(super) async fn download_anew(
        &self,
        hangs: bool,
        reason: &str,
        at: u64,
    ) -> Result<Option<StoredOrFollowed>, Error> {
        let Self { downloads, context, digest, metrics, .. } = self;
        let repository = context.repository();
        let looked_up_at = hangs.then(|| downloads.ended());
        match downloads.join_or_lead(context, *digest, looked_up_at, Sharing::All).await {
            Ok(download) => {
                metrics.repairs.inc();
                tracing::warn!(%repository, %digest, reason, at, "a blob that the disk does not give is fetched anew while it is read");
                Ok(Some(download))
            }
            Err(error) => {
                tracing::error!(%repository, %digest, reason, %error, "a blob that the disk does not give cannot be fetched anew");
                if error.fault() == Fault::Ours { Ok(None) } else { Err(error) }
            }
        }
    }

    /// The memory that this client goes on with by itself.
    ///
    /// # Errors
    /// There are too many such clients.
    pub(super) fn own_memory(&self) -> Result<MemoryShare, Error> {
        self.memory.share_of_client().ok_or(Error::TooManyDownloads)
    }

    /// Bytes that come past the disk: those before `end` are for the client, and counted by `reason`.
    pub(super) fn pass(&self, mut bytes: Bytes, reason: PassedBytes, at: u64, end: Option<u64>) -> BodyChunk {
        bytes.truncate(end.map_or(usize::MAX, |end| usize::try_from(end - at).unwrap_or(usize::MAX)));
        self.metrics.passthrough.add(reason, bytes.len() as u64);
        bytes.into()
    }
}
