//! Which blobs have left the store, for what keeps their content in memory besides.
//!
//! Each removal has a number. The last of [`REMEMBERED_MAX`] blobs are remembered; of others it is said that they may
//! have left, which costs a look at the disk.

use parking_lot::Mutex;

use crate::reference::Digest;
use crate::support::bounded_map::BoundedMap;

/// Blobs that are remembered, about 100 bytes each: at ten evictions a second those of two minutes.
const REMEMBERED_MAX: usize = 1_024;

/// The removals since the start.
#[derive(Debug)]
pub(in crate::store) struct Removals(Mutex<State>);

#[derive(Debug)]
struct State {
    count: u64,
    /// By blob the number of its last removal.
    last: BoundedMap<Digest, u64>,
    /// The last removal that is not remembered any more.
    forgotten: u64,
}

impl Removals {
    pub(in crate::store) fn new() -> Self {
        Self(Mutex::new(State { count: 0, last: BoundedMap::new(REMEMBERED_MAX), forgotten: 0 }))
    }

    /// A blob has left the store; to be called once its file is gone.
    pub(in crate::store) fn add(&self, digest: Digest) {
        let mut state = self.0.lock();
        state.count += 1;
        let number = state.count;
        if let Some((made_way, before)) = state.last.insert(digest, number)
            && made_way != digest
        {
            state.forgotten = state.forgotten.max(before);
        }
    }

    /// How many there have been.
    pub(in crate::store) fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// Whether a blob may have left the store since there had been `count` removals.
    pub(in crate::store) fn may_have_left(&self, digest: &Digest, count: u64) -> bool {
        let state = self.0.lock();
        state.forgotten > count || state.last.peek(digest).is_some_and(|number| *number > count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_left_has_left_as_long_as_that_is_remembered() {
        let (removals, [one, other]) = (Removals::new(), [b"1", b"2"].map(|name| Digest::of(name)));
        removals.add(one);
        assert!(removals.may_have_left(&one, 0) && !removals.may_have_left(&other, 0));
        assert!(!removals.may_have_left(&one, removals.count()), "it was back by then");
        removals.add(one);
        assert!(removals.may_have_left(&one, 1));
        let before = removals.count();
        for n in 0..REMEMBERED_MAX as u64 {
            assert!(!removals.may_have_left(&other, before));
            removals.add(Digest::of(&n.to_le_bytes()));
        }
        assert!(!removals.may_have_left(&other, before) && removals.may_have_left(&other, 1));
        removals.add(Digest::of(b"one more"));
        assert!(removals.may_have_left(&other, before), "it may be the one that was forgotten");
        assert!(!removals.may_have_left(&other, before + 1));
    }
}
