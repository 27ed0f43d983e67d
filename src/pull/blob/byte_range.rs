//! A byte range of a blob that is neither stored nor being downloaded: fetched alone, if it is a small one of a large
//! blob, or if there is no room for the blob.
//!
//! Snapshotters that pull lazily read a little of many layers, and would otherwise have all of them downloaded. Such a
//! range is unverified, like every range of a blob that is not in the store, and is not stored: any endpoint may deliver
//! it, the mirror first, except that one that delivered wrong content for this blob is asked last. What breaks off is
//! resumed at the next endpoint.

use std::ops::Range;

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

    /// The bytes of `range`, and the size of the blob. `None` if it is being downloaded, or if there is room for the blob
    /// and they are too many or the blob too small.
    ///
    /// # Errors
    /// Upstream cannot be asked.
    pub(crate) async fn open(
        &self,
        context: &PullContext,
        digest: Digest,
        range: Range<u64>,
        has_room: bool,
    ) -> Result<Option<(UpstreamBody, u64)>, Error> {
        let registry = context.repository().registry();
        let is_too_long = range.end.saturating_sub(range.start) > RANGE_MAX;
        if has_room && is_too_long || self.flights.has(registry, digest) {
            return Ok(None);
        }
        let body = match self.blobs.open(context, digest, range.start, Some(range.end)).await {
            Ok(body) => body,
            Err(error) if error.fault() == Fault::Outage || !has_room => return Err(error),
            // The request for the whole blob will tell.
            Err(_) => return Ok(None),
        };
        // Without room also a body that begins before the range is what the client gets: it is open.
        let size = body.size().filter(|size| !has_room || body.is_ranged() && *size >= BLOB_MIN);
        Ok(size.map(|size| (body, size)))
    }
}
