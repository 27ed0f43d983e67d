//! A part of a blob that is neither stored nor being downloaded: fetched alone, if it is a small part of it, or if
//! there is no room for the blob (`byte_range` decides).
//!
//! Scanners and snapshotters that pull lazily read a little of many layers, and would otherwise have all of them
//! downloaded. Such a part is unverified, like every range of a blob that is not in the store (`partial` keeps it): any
//! endpoint may deliver it, the mirror first, except that one that delivered wrong content for this blob is asked last.
//! What breaks off is resumed at the next endpoint.

use std::sync::Arc;

use parking_lot::Mutex;

use super::byte_range::{BlobRange, Part};
use crate::pull::blob::flight::Flights;
use crate::pull::blob::source::BlobSource;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::reference::{Digest, Registry};
use crate::support::bounded_map::BoundedMap;
use crate::upstream;

/// Blobs of which it is remembered how much was read of them; one that is forgotten begins anew.
const BLOBS_MAX: usize = 4_096;

/// A blob of which a part is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) range: BlobRange,
    /// Bytes of the blob, as a manifest says.
    pub(crate) declared: Option<u64>,
    /// Whether there is room for the blob in the store.
    pub(crate) has_room: bool,
}

/// A part that was asked for alone.
pub(crate) enum Alone {
    /// Upstream's body, past the store, and the size of the blob.
    Body { body: Box<SourceBody>, size: u64 },
    /// There is no such part of a blob of this size.
    Beyond { size: u64 },
    /// Which part it is depends on the size of the blob, which is not known.
    SizeUnknown,
}

/// Fetches parts of blobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SingleRanges {
    source: BlobSource,
    flights: Flights,
    /// Bytes that were fetched alone.
    read: Arc<Mutex<BoundedMap<(Registry, Digest), u64>>>,
}

impl SingleRanges {
    pub(crate) fn new(source: BlobSource, flights: Flights) -> Self {
        Self { source, flights, read: Arc::new(Mutex::new(BoundedMap::new(BLOBS_MAX))) }
    }

    /// Whether a part of a blob of known size would be fetched alone now.
    pub(crate) fn is_alone(&self, registry: &Registry, digest: Digest, wanted: Wanted) -> bool {
        let Wanted { range, declared, has_room } = wanted;
        !self.flights.has(registry, digest)
            && range.alone(declared, self.read_of(registry, digest), has_room).is_some()
    }

    /// Whether a range is a small part of a blob of `size` bytes, together with what was read before.
    pub(crate) fn is_small(&self, registry: &Registry, digest: Digest, range: BlobRange, size: u64) -> bool {
        range.is_small(Some(size), self.read_of(registry, digest))
    }

    fn read_of(&self, registry: &Registry, digest: Digest) -> u64 {
        self.read.lock().get(&(registry.clone(), digest)).copied().unwrap_or(0)
    }

    /// A part of a blob. `None` if the blob is being downloaded, or is to be.
    ///
    /// # Errors
    /// Upstream cannot be asked.
    pub(crate) async fn open(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: Wanted,
    ) -> Result<Option<Alone>, Error> {
        let Wanted { range, declared, has_room } = wanted;
        let registry = context.repository().registry();
        if self.flights.has(registry, digest) {
            return Ok(None);
        }
        let read = self.read_of(registry, digest);
        let (from, until) = match range.alone(declared, read, has_room) {
            None => return Ok(None),
            Some(Part::NeedsSize) => return Ok(Some(Alone::SizeUnknown)),
            Some(Part::Bytes { from, until }) => (from, until),
        };
        let body = match self.source.open(context, digest, from, until).await {
            Ok(body) => body,
            // One that refuses bytes which are there, by the size that it names, fails.
            Err(Error::Upstream(upstream::Error::RangeNotSatisfiable { size: Some(size), .. }))
                if from >= size =>
            {
                return Ok(Some(Alone::Beyond { size }));
            }
            Err(Error::Upstream(upstream::Error::RangeNotSatisfiable { size: None, .. }))
                if !has_room && declared.is_none() =>
            {
                return Ok(Some(Alone::SizeUnknown));
            }
            Err(error) if error.fault() == Fault::Outage || !has_room => return Err(error),
            // The request for the whole blob will tell.
            Err(_) => return Ok(None),
        };
        // The last bytes of a blob of another size than the manifest says are other bytes.
        let is_right_part = |size: &u64| {
            !matches!(range, BlobRange::Last(_)) || declared.is_none_or(|declared| *size == declared)
        };
        let Some(size) = body.size().filter(is_right_part) else { return Ok(None) };
        if !body.is_of_blob(declared) {
            // All of it proves itself.
            return if has_room { Ok(None) } else { Err(body.encoded()) };
        }
        // Without room also a body that begins before the part is what the client gets: it is open.
        if has_room && !(body.is_ranged() && range.is_small(Some(size), read)) {
            return Ok(None);
        }
        let len = until.map_or(size, |until| until.min(size)).saturating_sub(from);
        *self.read.lock().get_or_insert_with((registry.clone(), digest), || 0) += len;
        Ok(Some(Alone::Body { body: Box::new(body), size }))
    }
}
