//! What is reserved for one blob while it is received: in order by its download, and ahead of that by readers.
//!
//! Promises: no byte is written that was not reserved before, whoever writes it; what is reserved is at most twice what
//! has come, so that a claimed length alone evicts nothing; nothing is reserved once the blob is counted by itself.

use crate::store::error::Error;
use crate::store::reserve::Reservation;
use crate::support::sync::Mutex;

/// Bytes that are reserved with the first that arrive. Then as many again as there are, up to [`STEP_MAX`] at a time.
pub(super) const STEP_MIN: u64 = 256 * 1024;
/// Bytes that are reserved at a time at most.
pub(super) const STEP_MAX: u64 = 16 * 1024 * 1024;

/// Reserves bytes within the budget. Blocks.
pub(super) type Reserve = Box<dyn Fn(u64) -> Result<Reservation, Error> + Send + Sync>;

/// The reserved bytes of a blob that is received.
pub(super) struct RoomForBlob {
    reserve: Reserve,
    /// Bytes that the blob has at most.
    limit: u64,
    reserved: Mutex<Reserved>,
}

#[derive(Debug, Default)]
struct Reserved {
    /// The bytes of the file, which are on the disk until its last reader is gone. `None` before the first.
    reservation: Option<Reservation>,
    /// The blob is counted by itself.
    is_counted: bool,
}

impl RoomForBlob {
    /// Room that `reserve` gives, for a blob of `limit` bytes at most.
    pub(super) fn new(reserve: Reserve, limit: u64) -> Self {
        Self { reserve, limit, reserved: Mutex::default() }
    }

    /// Reserves what the first `needed` bytes take, and some more where more has been announced or may come. Blocks for
    /// about a second at most.
    ///
    /// # Errors
    /// No space.
    pub(super) fn reserve_up_to(&self, needed: u64) -> Result<(), Error> {
        let reserved = {
            let reserved = self.reserved.lock();
            match &reserved.reservation {
                _ if reserved.is_counted => return Ok(()),
                reservation => reservation.as_ref().map_or(0, Reservation::bytes),
            }
        };
        if needed <= reserved {
            return Ok(());
        }
        let step = reserved + reserved.clamp(STEP_MIN, STEP_MAX);
        let more = (self.reserve)(step.min(self.limit).max(needed) - reserved)?;
        let mut reserved = self.reserved.lock();
        let Reserved { reservation, is_counted } = &mut *reserved;
        match reservation {
            _ if *is_counted => {}
            Some(reservation) => reservation.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// So many bytes are on the disk.
    pub(super) fn are_written(&self, bytes: u64) {
        self.reserved.lock().reservation.iter_mut().for_each(|reservation| reservation.written(bytes));
    }

    /// No more will be written in order: what is not on the disk is given back, the rest stays reserved for the
    /// readers.
    pub(super) fn keep_for_readers(&self) {
        self.reserved.lock().reservation.iter_mut().for_each(Reservation::keep_written);
    }

    /// Hands over what is reserved: the content is a blob now, which is counted by itself.
    pub(super) fn take(&self) -> Option<Reservation> {
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
