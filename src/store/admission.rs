//! Making room: a promise of bytes before anything is written, and eviction for it.

use std::sync::{Arc, PoisonError};

use crate::reference::Digest;
use crate::store::error::Error;
use crate::store::ingest::Ingest;
use crate::store::reserve::{self, Disk, Reservation};
use crate::store::{BLOB_BYTES_MAX, Inner};

impl Inner {
    /// Begins an ingest that has room. Blocks.
    pub(crate) fn begin(self: &Arc<Self>, digest: Digest, declared: Option<u64>) -> Result<Ingest, Error> {
        if declared.is_some_and(|size| size > BLOB_BYTES_MAX) {
            return Err(Error::TooLong { digest, limit: BLOB_BYTES_MAX });
        }
        let inner = Arc::clone(self);
        let room = Box::new(move |bytes| inner.room(bytes));
        Ingest::begin(&self.layout, digest, declared, BLOB_BYTES_MAX, room)
    }

    /// Promises `wanted` bytes, evicting what it takes. Blocks.
    fn room(&self, wanted: u64) -> Result<Reservation, Error> {
        // Outside the lock: everybody waits for the same count, and not one after the other.
        if !self.index.is_counted() {
            self.index.catch_up();
        }
        let _one_at_a_time = self.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        match self.evict_what_is_missing(wanted) {
            0 => Ok(self.space.reserve(wanted)),
            _ => Err(Error::Full { needed: wanted }),
        }
    }

    /// Evicts until there is room for `wanted` more bytes; returns how many are still missing. Blocks.
    pub(crate) fn evict_what_is_missing(&self, wanted: u64) -> u64 {
        if self.missing(wanted) == 0 {
            return 0;
        }
        // What was committed a moment ago is promised bytes until it is counted, and could go as well.
        self.index.catch_up();
        let missing = self.missing(wanted);
        // What would not fit into an empty store evicts nothing in vain.
        let used = u64::try_from(self.metrics.bytes.get()).unwrap_or(0);
        if missing == 0 || (wanted > 0 && missing > used) {
            return missing;
        }
        // A little more than needed, so that not every blob of a busy pull has to wait for it.
        self.index.evict(missing.saturating_add(wanted / 4));
        self.missing(wanted)
    }

    fn missing(&self, wanted: u64) -> u64 {
        let used = u64::try_from(self.metrics.bytes.get()).unwrap_or(0);
        let disk = Disk::of(self.layout.root());
        reserve::missing(&self.budget, disk, used, self.space.reserved(), wanted)
    }
}
