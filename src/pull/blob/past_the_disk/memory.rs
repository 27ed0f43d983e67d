//! The memory of everything that is withheld or shared past the disk: one bound for all, in fair shares.
//!
//! Promises: [`WINDOWS_MAX`] windows together hold at most [`MEMORY_MAX`] bytes, and [`CLIENTS_MAX`] clients that go on
//! past the disk by themselves no more than [`OWN_BYTES`] each where the rest is taken, 48 MiB; each has [`OWN_BYTES`]
//! that no other takes, and of the rest no more than an equal share of those that are there when it asks. A registry
//! cannot take more than the windows that it has places for (`places`). What is kept beside the bytes is in proportion
//! to them, however small the pieces are in which they come ([`joined`]). Deliberately not here: what is done with too
//! little memory (`window`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Bytes of all windows together. A node has little memory to spare for what its disk does not take.
const MEMORY_MAX: usize = 128 * 1024 * 1024;
/// Bytes that each window has for itself: the withheld tail and two chunks, with which it goes on without any other.
pub(crate) const OWN_BYTES: usize = 192 * 1024;
/// Windows at most: one for each download, of those that were to be stored and of those that were not.
pub(crate) const WINDOWS_MAX: usize = 512;
/// Clients that go on by themselves at most: those that keep others waiting, and those of a disk that loses what they
/// have. The body of a further one ends short, and its runtime asks for the rest with a range: for that nothing is
/// withheld, unless its registry answers ranges with the whole, whose clients count here too. One bound for the node,
/// without a share for each registry.
pub(crate) const CLIENTS_MAX: usize = 256;
/// Bytes that are kept as one where they came in smaller pieces: each piece that is kept has a hash beside it, and a
/// stranger may send them with a byte each.
const JOINED_BYTES: usize = 4096;
/// Bytes beyond their own that windows share.
const SHARED_BYTES: usize = MEMORY_MAX - WINDOWS_MAX * OWN_BYTES;

/// The memory. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct WindowMemory(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    windows: usize,
    /// Of these, clients that go on by themselves.
    clients: usize,
    shared_bytes: usize,
}

/// What one window may hold, until it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    memory: WindowMemory,
    is_of_client: bool,
    /// Bytes of the shared ones that it has.
    shared_bytes: usize,
}

impl WindowMemory {
    /// The share of one more window, of a download: there are places for no more than [`WINDOWS_MAX`].
    pub(crate) fn share(&self) -> MemoryShare {
        self.0.lock().windows += 1;
        MemoryShare { memory: self.clone(), is_of_client: false, shared_bytes: 0 }
    }

    /// The share of a client that goes on by itself; `None` if there are too many.
    pub(crate) fn share_of_client(&self) -> Option<MemoryShare> {
        let mut taken = self.0.lock();
        if taken.clients >= CLIENTS_MAX {
            return None;
        }
        taken.windows += 1;
        taken.clients += 1;
        Some(MemoryShare { memory: self.clone(), is_of_client: true, shared_bytes: 0 })
    }
}

/// The `next` bytes together with the `last` ones, where these are so few that both are kept as one: of what is kept, a
/// piece and the one after it have more than [`JOINED_BYTES`] together. What comes in larger pieces is not copied.
pub(super) fn joined(last: &Bytes, next: &Bytes) -> Option<Bytes> {
    let len = last.len() + next.len();
    if len > JOINED_BYTES {
        return None;
    }
    let mut joined = BytesMut::with_capacity(len);
    joined.extend_from_slice(last);
    joined.extend_from_slice(next);
    Some(joined.freeze())
}

impl MemoryShare {
    /// Whether the window may hold `bytes` now. What it needs beyond its own is taken, and what it does not need any
    /// more is given back.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(OWN_BYTES);
        let mut taken = self.memory.0.lock();
        if wanted > self.shared_bytes {
            let is_fair = wanted <= SHARED_BYTES / taken.windows.max(1);
            if !is_fair || taken.shared_bytes + (wanted - self.shared_bytes) > SHARED_BYTES {
                return false;
            }
        }
        taken.shared_bytes = taken.shared_bytes + wanted - self.shared_bytes;
        self.shared_bytes = wanted;
        true
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        let mut taken = self.memory.0.lock();
        taken.windows -= 1;
        taken.clients -= usize::from(self.is_of_client);
        taken.shared_bytes -= self.shared_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_clients_go_on_by_themselves_than_there_is_memory_for() {
        let memory = WindowMemory::default();
        let mut all: Vec<_> = (0..CLIENTS_MAX).map(|_| memory.share_of_client().unwrap()).collect();
        assert!(memory.share_of_client().is_none());
        let mut window = memory.share();
        assert!(window.resize(OWN_BYTES), "a download has its own");
        all.pop();
        assert!(memory.share_of_client().is_some());
        drop((all, window));
        let taken = memory.0.lock();
        assert_eq!((taken.windows, taken.clients), (0, 0));
    }

    #[test]
    fn small_pieces_are_kept_as_one_and_large_ones_are_not_copied() {
        let [small, large] = [1, JOINED_BYTES].map(|len| Bytes::from(vec![7; len]));
        assert_eq!(joined(&small, &small).unwrap(), [7; 2][..]);
        assert!(joined(&large, &small).is_none() && joined(&small, &large).is_none());
    }

    #[test]
    fn all_windows_together_have_one_bound_and_none_takes_more_than_its_share() {
        let memory = WindowMemory::default();
        let mut alone = memory.share();
        assert!(alone.resize(8 << 20) && alone.resize(OWN_BYTES + SHARED_BYTES));
        assert!(!alone.resize(OWN_BYTES + SHARED_BYTES + 1), "more than there is");
        let mut late = memory.share();
        assert!(late.resize(OWN_BYTES), "its own is always there");
        assert!(!late.resize(OWN_BYTES + 1), "all that is shared is taken");
        assert!(alone.resize(8 << 20) && late.resize(8 << 20), "what is given back can be taken");
        let mut all: Vec<_> = (2..WINDOWS_MAX).map(|_| memory.share()).collect();
        let fair = SHARED_BYTES / WINDOWS_MAX;
        assert!(all.iter_mut().all(|share| !share.resize(OWN_BYTES + fair + 1)));
        let got = all.iter_mut().filter(|share| share.shared_bytes == 0).count();
        assert_eq!(got, WINDOWS_MAX - 2);
        drop((alone, late));
        assert!(all.iter_mut().all(|share| share.resize(OWN_BYTES + fair)));
        let held = memory.0.lock().shared_bytes + WINDOWS_MAX * OWN_BYTES;
        assert!(held <= MEMORY_MAX, "{held}");
        drop(all);
        let taken = memory.0.lock();
        assert_eq!((taken.windows, taken.shared_bytes), (0, 0));
    }
}
