//! A small part of a large blob that nobody has pulled: it comes alone.
//!
//! Snapshotters that pull lazily read a little of many layers, and would otherwise have all of them fetched. Such a part
//! is upstream's word, as every range of a blob that has not landed, and is not stored.

use crate::pull::access::authorize::Caller;
use crate::pull::blob::follow::BlobBody;
use crate::pull::blob::source::UpstreamBody;
use crate::pull::error::{Error, Fault};
use crate::pull::{BlobAnswer, Puller};
use crate::reference::{Digest, Repository};

/// Bytes of a part that may come alone.
const PART_MAX: u64 = 1024 * 1024;
/// Bytes of a blob of which parts may come alone; a smaller one is soon there as a whole.
const LARGE: u64 = 32 * 1024 * 1024;

impl Puller {
    /// The bytes from `start` up to `end`, by themselves. `None` if they are too many or the blob too small for that, or
    /// if it is being fetched.
    ///
    /// # Errors
    /// Upstream cannot be asked.
    pub(crate) async fn part_alone(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        start: u64,
        end: u64,
    ) -> Result<Option<BlobAnswer>, Error> {
        if end.saturating_sub(start) > PART_MAX || self.0.flights.has(repository.registry(), digest) {
            return Ok(None);
        }
        let source = match UpstreamBody::open(self, repository, digest, caller, start, Some(end)).await {
            Ok(source) => source,
            Err(error) if error.fault() == Fault::Outage => return Err(error),
            // Whatever it is, the question for all of it will tell.
            Err(_) => return Ok(None),
        };
        let Some(size) = source.size().filter(|size| source.is_ranged() && *size >= LARGE) else {
            return Ok(None);
        };
        let body = BlobBody::part(self.reader(repository, digest, caller), source, size);
        Ok(Some(BlobAnswer {
            size: Some(size),
            body,
            source: crate::pull::AnswerSource::Passthrough,
            stale: None,
        }))
    }
}
