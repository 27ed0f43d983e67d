//! Memory for content that untrusted parties can make large and many: bounded in sum, with a share for each of those
//! who cause it (`fair_share`).
//!
//! Bytes are reserved before they are there, and the reservation ends with the last copy of them. Content that is read
//! whole is reserved where it is large. Deliberately not here: how long to wait.

use std::hash::Hash;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::fair_share::{self, FairShares, Permits};

/// Bytes that are counted as one: fewer count as so many.
const UNIT: usize = 4 * 1024;

/// Bytes of a body that is read into memory without a reservation: few manifests are larger, and the connections are
/// bounded.
const UNRESERVED_BYTES: usize = 256 * 1024;

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

/// What is reserved for content that may be small; at first nothing.
#[derive(Debug, Default)]
pub struct Reserved(Option<(Reservation, usize)>);

/// Memory was not free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory;

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

    /// A budget of which each key may hold `share`, and all together twice as much: none keeps the others from theirs.
    pub fn of_two_shares(share: usize) -> Self {
        Self::new(2 * share, share)
    }

    /// Reserves `bytes`, or the share if that is less. Waits until they are free, in the order of the requests.
    pub async fn reserve(&self, key: &K, bytes: usize) -> Reservation {
        self.share_of(key).reserve(bytes).await
    }

    /// The same, where the bytes are free within `wait`.
    ///
    /// # Errors
    /// They are not.
    pub async fn reserve_within(
        &self,
        key: &K,
        bytes: usize,
        wait: Duration,
    ) -> Result<Reservation, NoMemory> {
        timeout(wait, self.reserve(key, bytes)).await.map_err(|_| NoMemory)
    }

    /// The same for content of `bytes` that is read whole, of which only large content is reserved.
    ///
    /// # Errors
    /// They are not free within `wait`.
    pub async fn reserve_if_large(
        &self,
        key: impl FnOnce() -> K,
        bytes: usize,
        wait: Duration,
    ) -> Result<Reserved, NoMemory> {
        let nothing = Reserved::default();
        if nothing.covers(bytes) {
            return Ok(nothing);
        }
        Ok(Reserved(Some((self.reserve_within(&key(), bytes, wait).await?, bytes))))
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

impl Reserved {
    /// Whether nothing is reserved.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Whether content of `bytes` needs no other reservation.
    pub fn covers(&self, bytes: usize) -> bool {
        bytes <= self.0.as_ref().map_or(UNRESERVED_BYTES, |(_, reserved)| *reserved)
    }

    /// Keeps no more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some((reservation, reserved)) = &mut self.0 {
            reservation.shrink(bytes);
            *reserved = bytes.min(*reserved);
        }
    }

    /// As [`Reservation::hold`].
    pub fn hold(self, bytes: Bytes) -> Bytes {
        match self.0 {
            Some((reservation, _)) => reservation.hold(bytes),
            None => bytes,
        }
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

    #[tokio::test(start_paused = true)]
    async fn small_content_waits_for_no_memory_and_large_content_not_for_ever() {
        let budget = ByteBudget::of_two_shares(MIB);
        let wait = Duration::from_secs(5);
        let held = budget.reserve(&"a", MIB).await;
        let small = budget.reserve_if_large(|| "a", UNRESERVED_BYTES, wait).now_or_never();
        assert!(small.is_some_and(|reserved| reserved.is_ok()), "small content waits");
        let large = || budget.reserve_if_large(|| "a", UNRESERVED_BYTES + 1, wait);
        assert!(large().await.is_err(), "large content is not counted");
        let others = budget.reserve_if_large(|| "b", MIB, wait).now_or_never();
        assert!(others.is_some_and(|reserved| reserved.is_ok()), "one owner keeps the others from theirs");
        drop(held);
        assert!(large().await.is_ok());
    }
}
