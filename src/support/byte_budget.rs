//! Memory for content that untrusted parties can make large and many: bounded in sum, with a share for each of those
//! who cause it (`fair_share`).
//!
//! Bytes are reserved before they are there, and the reservation ends with the last copy of them. Deliberately not
//! here: how long to wait.

use std::hash::Hash;

use bytes::Bytes;

use super::fair_share::{self, FairShares, Permits};

/// Bytes that are counted as one: fewer count as so many.
const UNIT: usize = 4 * 1024;

/// Bytes of a body that is read into memory without a reservation: few manifests are larger, and the connections are
/// bounded.
pub const UNRESERVED_BYTES: usize = 256 * 1024;

/// A budget of bytes, shared among the users of keys.
pub struct ByteBudget<K> {
    /// One for each unit.
    units: FairShares<K>,
    share: usize,
}

/// What one key may hold of a budget, for many reservations.
#[derive(Debug, Clone)]
pub struct ByteShare {
    units: fair_share::Share,
    bytes_max: usize,
}

/// Reserved bytes, until it is dropped.
#[derive(Debug)]
pub struct Reservation(Permits);

struct Held<T> {
    bytes: Bytes,
    _with: T,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<K: Hash + Eq + Clone> ByteBudget<K> {
    /// A budget of `all` bytes, of which each key may hold `share`.
    pub fn new(all: usize, share: usize) -> Self {
        let share = share.min(all);
        Self { units: FairShares::new(all.div_ceil(UNIT), share.div_ceil(UNIT)), share }
    }

    /// Reserves `bytes`, or the share if that is less. Waits until they are free, in the order of the requests.
    pub async fn reserve(&self, key: &K, bytes: usize) -> Reservation {
        self.share_of(key).reserve(bytes).await
    }

    /// The share of a key.
    pub fn share_of(&self, key: &K) -> ByteShare {
        ByteShare { units: self.units.of(key), bytes_max: self.share }
    }
}

impl ByteShare {
    /// As [`ByteBudget::reserve`], for the key of this share. One that is dropped before it is done holds nothing.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let units = units(bytes.min(self.bytes_max));
        Reservation(self.units.take(u32::try_from(units).unwrap_or(u32::MAX)).await)
    }
}

impl Reservation {
    /// Keeps no more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        self.0.shrink(units(bytes));
    }

    /// The bytes, which hold the reservation until the last copy and slice of them is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        held_with(bytes, self)
    }
}

/// The bytes, which hold `with` until the last copy and slice of them is dropped.
pub fn held_with(bytes: Bytes, with: impl Send + 'static) -> Bytes {
    Bytes::from_owner(Held { bytes, _with: with })
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn bytes_count_until_their_last_copy_is_dropped_and_no_key_holds_more_than_its_share() {
        let budget = ByteBudget::new(4 * MIB, 2 * MIB);
        let reserve = |key: &'static str, bytes| budget.reserve(&key, bytes).now_or_never();
        let mut first = reserve("a", 2 * MIB).unwrap();
        assert!(reserve("a", MIB).is_none(), "its share is used up");
        first.shrink(MIB);
        let held = first.hold(Bytes::from_static(b"content"));
        let second = reserve("a", MIB).unwrap();
        let others = reserve("b", 2 * MIB).unwrap();
        assert!(reserve("c", MIB).is_none(), "all of it is used up");
        drop(others);
        let slice = held.slice(..3);
        drop((held, second));
        assert!(reserve("a", 2 * MIB).is_none());
        assert_eq!(&slice[..], b"con");
        drop(slice);
        let whole = reserve("a", 100 * MIB).unwrap();
        assert!(reserve("b", 2 * MIB).is_some());
        drop(whole);
        drop(reserve("d", 1));
        assert!(budget.units.len() <= 1, "keys that hold nothing are forgotten");
    }
}
