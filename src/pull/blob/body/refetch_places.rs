//! How many bodies may fetch again what a failing disk does not give back, and how much of it.
//!
//! Each of them costs upstream the whole of its blob up to where its client is, while the client gets nothing. Where
//! there is no place, or too much would have to come again, the body ends short instead: a runtime asks for the rest
//! with a range, which costs that rest alone and comes at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies at a time, of all blobs together: each may hold a megabyte of memory.
const BODIES_MAX: usize = 8;
/// Bytes that come again before the client gets any: what a line of 100 Mbit/s brings within [`REFETCH_WAIT_MAX`].
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long a client waits for the first byte of what is fetched again: some runtimes give up a pull that gets no byte
/// for a minute (containerd 1.7.0 to 1.7.19), and all go on at once after a body that ends short.
pub(crate) const REFETCH_WAIT_MAX: Duration = Duration::from_secs(20);

/// The places. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RefetchPlaces(Arc<Semaphore>);

impl Default for RefetchPlaces {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES_MAX)))
    }
}

impl RefetchPlaces {
    /// Whether so many bytes may come again before the client gets any.
    pub(super) fn may_come_again(bytes: u64) -> bool {
        bytes <= BYTES_MAX
    }

    /// A place for a body; `None` where there is none.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bodies_at_a_time_fetch_again_and_none_of_them_much() {
        let places = RefetchPlaces::default();
        assert!(RefetchPlaces::may_come_again(BYTES_MAX) && !RefetchPlaces::may_come_again(BYTES_MAX + 1));
        let mut taken: Vec<_> = (0..BODIES_MAX).map(|_| places.take().unwrap()).collect();
        assert!(places.take().is_none());
        taken.pop();
        assert!(places.take().is_some(), "a body that has ended gives its place back");
    }
}
