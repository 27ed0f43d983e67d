//! Reserved bytes: those of downloads under way, which count as used before they are written.
//!
//! A reservation grows with what has arrived. It is given back when it is dropped, however its download ended; a
//! committed blob keeps it until the blob itself is counted, and a file without a name until its last reader is gone.
//! That the bytes are to be had is decided in `admission`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::budget::share::{Owner, OwnerId};
use crate::support::sync::Mutex;

/// The reserved bytes of all downloads. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Reservations(Arc<Mutex<All>>);

#[derive(Debug, Default)]
struct All {
    sum: Reserved,
    /// Bytes by limited registry; one without any has no entry.
    limited: HashMap<OwnerId, u64>,
    /// Bytes of all of these.
    limited_sum: u64,
}

/// Reserved bytes, and those of them that are not on the disk yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Reserved {
    pub(in crate::store) bytes: u64,
    /// Those that will still be taken from the free bytes of the filesystem; the others are taken already.
    pub(in crate::store) unwritten: u64,
}

impl Reservations {
    /// What is reserved for all, and what `counted` reads in the same moment: a blob is in one of the two, never in
    /// both and never in none.
    pub(in crate::store) fn sum_and<T>(&self, counted: impl FnOnce() -> T) -> (Reserved, T) {
        let all = self.0.lock();
        (all.sum, counted())
    }

    /// Bytes reserved for one limited registry, and for all of them together.
    pub(in crate::store) fn limited(&self, id: OwnerId) -> (u64, u64) {
        let all = self.0.lock();
        (all.limited.get(&id).copied().unwrap_or(0), all.limited_sum)
    }

    /// Reserves bytes; the caller has made sure that they are to be had.
    pub(in crate::store) fn reserve(&self, owner: Owner, bytes: u64) -> Reservation {
        let mut all = self.0.lock();
        all.sum.bytes += bytes;
        all.sum.unwritten += bytes;
        if owner.is_limited() {
            *all.limited.entry(owner.id).or_default() += bytes;
            all.limited_sum += bytes;
        }
        Reservation { all: self.clone(), owner, bytes, written: 0 }
    }
}

/// The bytes of one download, given back when this is dropped.
#[derive(Debug)]
pub(in crate::store) struct Reservation {
    all: Reservations,
    owner: Owner,
    bytes: u64,
    written: u64,
}

impl Reservation {
    /// Whom the bytes are for.
    #[cfg(test)]
    pub(in crate::store) fn owner(&self) -> Owner {
        self.owner
    }

    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Joins two reservations of one download into one.
    pub(in crate::store) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.written += std::mem::take(&mut other.written);
    }

    /// So many bytes of the download are on the disk now: the filesystem counts them itself.
    pub(in crate::store) fn written(&mut self, bytes: u64) {
        let more = bytes.min(self.bytes).saturating_sub(self.written);
        self.written += more;
        self.all.0.lock().sum.unwritten -= more;
    }

    /// Gives back what is not on the disk: the download ends, and its file stays open for readers.
    pub(super) fn keep_written(&mut self) {
        let bytes = std::mem::replace(&mut self.bytes, self.written);
        self.all.0.lock().give_back(self.owner, bytes - self.written, 0);
    }

    /// Ends in the moment in which `count` counts the blob.
    pub(in crate::store) fn end_as_counted(mut self, count: impl FnOnce()) {
        let mut all = self.all.0.lock();
        count();
        all.give_back(self.owner, std::mem::take(&mut self.bytes), std::mem::take(&mut self.written));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.all.0.lock().give_back(self.owner, self.bytes, self.written);
    }
}

impl All {
    fn give_back(&mut self, owner: Owner, bytes: u64, written: u64) {
        self.sum.bytes -= bytes;
        self.sum.unwritten -= bytes - written;
        if let Some(held) = self.limited.get_mut(&owner.id).filter(|_| owner.is_limited()) {
            *held -= bytes;
            self.limited_sum -= bytes;
            if *held == 0 {
                self.limited.remove(&owner.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bytes_are_given_back_with_their_reservation() {
        let reservations = Reservations::default();
        let owner = Owner::limited(&"reg.test".parse().unwrap());
        let mut first = reservations.reserve(owner, 100);
        first.merge(reservations.reserve(owner, 50));
        let sum = || reservations.sum_and(|| ()).0;
        assert_eq!((sum().bytes, first.bytes()), (150, 150));
        assert_eq!(reservations.limited(owner.id), (150, 150));
        drop(first);
        assert_eq!(sum(), Reserved::default());
        assert_eq!(reservations.limited(owner.id), (0, 0));
    }

    #[test]
    fn bytes_that_are_on_the_disk_are_not_counted_as_still_to_come() {
        let reservations = Reservations::default();
        let owner = Owner::unlimited(&"reg.test".parse().unwrap());
        let sum = || reservations.sum_and(|| ()).0;
        let mut reserved = reservations.reserve(owner, 100);
        for (written, unwritten) in [(30, 70), (30, 70), (100, 0), (200, 0)] {
            reserved.written(written);
            assert_eq!(sum(), Reserved { bytes: 100, unwritten }, "{written}");
        }
        reserved.end_as_counted(|| ());
        assert_eq!(sum(), Reserved::default());
        let mut ended = reservations.reserve(owner, 100);
        ended.written(30);
        ended.keep_written();
        assert_eq!((sum(), ended.bytes()), (Reserved { bytes: 30, unwritten: 0 }, 30));
        drop(ended);
        assert_eq!(sum(), Reserved::default());
    }
}
