//! A small byte range of a large blob that is neither stored nor being downloaded: fetched alone.
//!
//! Snapshotters that pull lazily read a little of many layers, and would otherwise have all of them downloaded. Such a
//! range is unverified, like every range of a blob that is not in the store, and is not stored: any endpoint may deliver
//! it, the mirror first, except that one that delivered wrong content for this blob is asked last. What breaks off is
//! resumed at the next endpoint.

use super::flight::Flights;
use super::source::{UpstreamBlobs, UpstreamBody};
use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::reference::Digest;

/// Bytes of a range that may be fetched alone.
const RANGE_MAX: u64 = 1024 * 1024;
/// Bytes of a blob of which ranges may be fetched alone; a smaller blob is soon there as a whole.
const BLOB_MIN: u64 = 32 * 1024 * 1024;

/// Fetches single ranges. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SingleRanges {
    blobs: UpstreamBlobs,
    flights: Flights,
}

impl SingleRanges {
    pub(crate) fn new(blobs: UpstreamBlobs, flights: Flights) -> Self {
        Self { blobs, flights }
    }

    /// The bytes from `start` up to `end`, and the size of the blob. `None` if they are too many, the blob too small, or
    /// if it is being downloaded.
    ///
    /// # Errors
    /// Upstream cannot be asked.
    pub(crate) async fn open(
        &self,
        context: &PullContext,
        digest: Digest,
        start: u64,
        end: u64,
    ) -> Result<Option<(UpstreamBody, u64)>, Error> {
        let registry = context.repository().registry();
        if end.saturating_sub(start) > RANGE_MAX || self.flights.has(registry, digest) {
            return Ok(None);
        }
        let body = match self.blobs.open(context, digest, start, Some(end)).await {
            Ok(body) => body,
            Err(error) if error.fault() == Fault::Outage => return Err(error),
            // The request for the whole blob will tell.
            Err(_) => return Ok(None),
        };
        let size = body.size().filter(|size| body.is_ranged() && *size >= BLOB_MIN);
        Ok(size.map(|size| (body, size)))
    }
}
