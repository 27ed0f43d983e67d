//! Reserved bytes: those of downloads under way, which count as used before they are written.
//!
//! A reservation is given back when it is dropped, however its download ended; a committed blob keeps it until the blob
//! itself is counted. That the bytes are to be had is decided in `admission`.

use std::sync::Arc;

use crate::support::sync::atomic::{AtomicU64, Ordering};

/// The reserved bytes of all downloads. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Reservations(Arc<AtomicU64>);

impl Reservations {
    /// Bytes that are reserved. A blob whose reservation has ended is seen as counted by a reader that asks for the totals
    /// after this.
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Reserves bytes; the caller has made sure that they are to be had.
    pub(super) fn reserve(&self, bytes: u64) -> Reservation {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Reservation { all: self.clone(), bytes }
    }
}

/// The bytes of one download, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    all: Reservations,
    bytes: u64,
}

impl Reservation {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Joins two reservations into one.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bytes_are_given_back_with_their_reservation() {
        let reservations = Reservations::default();
        let mut first = reservations.reserve(100);
        first.merge(reservations.reserve(50));
        assert_eq!((reservations.bytes(), first.bytes()), (150, 150));
        drop(first);
        assert_eq!(reservations.bytes(), 0);
    }
}
