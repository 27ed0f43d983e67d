//! What is reserved for one blob while it is received: in order by its download, and ahead of that by readers.
//!
//! Promises: no byte is written that was not reserved before, whatever writes it; what is reserved is at most twice
//! what has come, so that a claimed length alone evicts nothing; nothing is reserved once the blob is counted by
//! itself.

use crate::store::budget::reserve::Reservation;
use crate::store::error::Error;
use crate::support::sync::Mutex;

/// Bytes that are reserved with the first that arrive. Then as many again as there are, up to [`STEP_MAX`] at a time.
pub(in crate::store) const STEP_MIN: u64 = 256 * 1024;
/// Bytes that are reserved at a time at most.
pub(in crate::store) const STEP_MAX: u64 = 16 * 1024 * 1024;

/// Reserves bytes within the budget. Blocks.
pub(in crate::store) type Reserve = Box<dyn Fn(u64) -> Result<Reservation, Error> + Send + Sync>;

/// The reserved bytes of a blob that is received.
pub(in crate::store) struct RoomForBlob {
    reserve: Reserve,
    /// Bytes that the blob has at most.
    limit: u64,
    reserved: Mutex<Reserved>,
    /// Held by the one who reserves, also while an eviction is waited for: what several reserved at once would be as
    /// many steps, and more than the blob has.
    reserving: Mutex<()>,
}

/// What more there has to be reserved.
struct Lack {
    reserved: u64,
    is_kept: bool,
    /// How many refusals there had been.
    refusals: u64,
}

#[derive(Debug, Default)]
struct Reserved {
    /// The bytes of the file, which are on the disk until its last reader is gone. `None` before the first.
    reservation: Option<Reservation>,
    /// The blob is counted by itself.
    is_counted: bool,
    /// No more comes in order: nothing is reserved ahead.
    is_kept: bool,
    refusals: u64,
    /// How many bytes were refused last, and why; `None` once some were granted.
    refused: Option<(u64, Error)>,
}

impl RoomForBlob {
    /// Room that `reserve` gives, for a blob of `limit` bytes at most.
    pub(in crate::store) fn new(reserve: Reserve, limit: u64) -> Self {
        Self { reserve, limit, reserved: Mutex::default(), reserving: Mutex::default() }
    }

    /// Reserves what the first `needed` bytes take, and some more where more has been announced or may come. Blocks for
    /// a second or two: who waits for one that is refused is refused with it, unless it needs less.
    ///
    /// # Errors
    /// No space.
    pub(in crate::store) fn reserve_up_to(&self, needed: u64) -> Result<(), Error> {
        let Some(Lack { refusals: before, .. }) = self.lack(needed) else { return Ok(()) };
        let _reserving = self.reserving.lock();
        let Some(Lack { reserved, is_kept, refusals }) = self.lack(needed) else { return Ok(()) };
        let step = if is_kept { needed } else { reserved + reserved.clamp(STEP_MIN, STEP_MAX) };
        let wanted = step.min(self.limit).max(needed) - reserved;
        if refusals > before
            && let Some((bytes, error)) = &self.reserved.lock().refused
            && wanted >= *bytes
        {
            return Err(error.clone());
        }
        let more = (self.reserve)(wanted);
        let mut reserved = self.reserved.lock();
        let Reserved { reservation, is_counted, refusals, refused, .. } = &mut *reserved;
        let more = more.inspect_err(|error| {
            *refusals += 1;
            *refused = Some((wanted, error.clone()));
        })?;
        *refused = None;
        match reservation {
            _ if *is_counted => {}
            Some(reservation) => reservation.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// What there is instead of `needed` bytes; `None` if these are there.
    fn lack(&self, needed: u64) -> Option<Lack> {
        let Reserved { reservation, is_counted, is_kept, refusals, .. } = &*self.reserved.lock();
        let reserved = reservation.as_ref().map_or(0, Reservation::bytes);
        let lack = Lack { reserved, is_kept: *is_kept, refusals: *refusals };
        (!is_counted && needed > reserved).then_some(lack)
    }

    /// So many bytes are on the disk.
    pub(in crate::store) fn are_written(&self, bytes: u64) {
        self.reserved.lock().reservation.iter_mut().for_each(|reservation| reservation.written(bytes));
    }

    /// No more will be written in order: what is not on the disk is given back, the rest stays reserved for the
    /// readers.
    pub(in crate::store) fn keep_for_readers(&self) {
        let mut reserved = self.reserved.lock();
        reserved.is_kept = true;
        reserved.reservation.iter_mut().for_each(Reservation::keep_written);
    }

    /// Hands over what is reserved: the content is a blob now, which is counted by itself.
    pub(in crate::store) fn take(&self) -> Option<Reservation> {
        let mut reserved = self.reserved.lock();
        reserved.is_counted = true;
        reserved.reservation.take()
    }
}

impl std::fmt::Debug for RoomForBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoomForBlob").field("reserved", &self.reserved).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::store::budget::reserve::Reservations;
    use crate::store::budget::share::Owner;

    const LIMIT: u64 = 5 * STEP_MIN;

    fn room(reservations: &Reservations, while_reserving: impl Fn() + Send + Sync + 'static) -> RoomForBlob {
        let (reservations, owner) = (reservations.clone(), Owner::unlimited(&"reg.test".parse().unwrap()));
        let reserve = move |bytes| {
            while_reserving();
            Ok(reservations.reserve(owner, bytes))
        };
        RoomForBlob::new(Box::new(reserve), LIMIT)
    }

    #[test]
    fn readers_that_need_room_at_once_do_not_reserve_a_step_each() {
        let (reservations, inside) = (Reservations::default(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&inside);
        let room = room(&reservations, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            // Long enough for the others to get here, if they can.
            std::thread::sleep(Duration::from_millis(20));
        });
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| room.reserve_up_to(STEP_MIN).unwrap());
            }
        });
        assert_eq!((inside.load(Ordering::SeqCst), reservations.sum_and(|| ()).0.bytes), (1, STEP_MIN));
    }

    /// A blob for which there is no room, and how often that was found out.
    fn without_room(takes: Duration) -> (RoomForBlob, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let refuse = move |needed| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(takes);
            Err(Error::Full { needed })
        };
        (RoomForBlob::new(Box::new(refuse), LIMIT), asked)
    }

    #[test]
    fn readers_that_need_room_at_once_do_not_wait_for_each_others_refusals_in_turn() {
        let (room, asked) = without_room(Duration::from_millis(200));
        let all_at_once = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all_at_once.wait();
                    assert!(matches!(room.reserve_up_to(STEP_MIN), Err(Error::Full { .. })));
                });
            }
        });
        let asked = asked.load(Ordering::SeqCst);
        // One that comes too late asks by itself.
        assert!(asked < 4, "{asked} of 8 waited for a refusal of their own");
    }

    #[test]
    fn a_refusal_is_none_for_who_comes_after_it() {
        let (room, asked) = without_room(Duration::ZERO);
        for attempt in 1..=3 {
            assert!(room.reserve_up_to(STEP_MIN).is_err());
            assert_eq!(asked.load(Ordering::SeqCst), attempt, "there may be room by now");
        }
    }

    #[test]
    fn nothing_is_reserved_ahead_of_readers_alone() {
        let reservations = Reservations::default();
        let room = room(&reservations, || ());
        room.reserve_up_to(STEP_MIN).unwrap();
        room.are_written(STEP_MIN);
        room.keep_for_readers();
        room.reserve_up_to(STEP_MIN + 1).unwrap();
        assert_eq!(reservations.sum_and(|| ()).0.bytes, STEP_MIN + 1);
    }
}
