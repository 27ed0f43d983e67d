//! Stored blobs whose checksums are lost are hashed again: one thread for each, however many ask for it.
//!
//! The first that opens a blob hashes it, and the others wait for that. A blob for which they would wait longer than
//! their clients do counts as absent, so that upstream is asked, and is hashed meanwhile, one such blob at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::reference::Digest;

/// How long others wait for the one that hashes. Then the blob counts as absent for them.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What is being hashed again. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Rehashing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    under_way: Mutex<UnderWay>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct UnderWay {
    waited_for: HashSet<Digest>,
    /// A large one.
    meanwhile: bool,
}

/// The turn to hash one blob, until it is dropped.
pub(in crate::store) struct Turn {
    shared: Arc<Shared>,
    /// `None` for a large one.
    digest: Option<Digest>,
}

impl Rehashing {
    /// The turn to hash a blob that its readers wait for, once no other has it; `None` after [`WAIT_MAX`]. What was
    /// lost may be there by then. Blocks.
    pub(in crate::store) fn turn(&self, digest: Digest) -> Option<Turn> {
        let mut under_way = self.0.under_way.lock();
        let is_taken = |under_way: &mut UnderWay| under_way.waited_for.contains(&digest);
        if self.0.ended.wait_while_for(&mut under_way, is_taken, WAIT_MAX).timed_out()
            && is_taken(&mut under_way)
        {
            return None;
        }
        under_way.waited_for.insert(digest);
        Some(Turn { shared: Arc::clone(&self.0), digest: Some(digest) })
    }

    /// The turn to hash a large blob, which no reader waits for; `None` while another is hashed.
    pub(in crate::store) fn turn_of_large(&self) -> Option<Turn> {
        let is_taken = std::mem::replace(&mut self.0.under_way.lock().meanwhile, true);
        (!is_taken).then(|| Turn { shared: Arc::clone(&self.0), digest: None })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.shared.under_way.lock();
        match &self.digest {
            Some(digest) => drop(under_way.waited_for.remove(digest)),
            None => under_way.meanwhile = false,
        }
        drop(under_way);
        self.shared.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_hashed_by_one_at_a_time_and_a_large_one_alone() {
        let rehashing = Rehashing::default();
        let [one, other] = [b"one", b"two"].map(|content| Digest::of(content));
        let turn = rehashing.turn(one).unwrap();
        let _other = rehashing.turn(other).unwrap();
        let waits = std::thread::spawn({
            let rehashing = rehashing.clone();
            move || rehashing.turn(one).is_some()
        });
        assert!(!waits.is_finished());
        drop(turn);
        assert!(waits.join().unwrap());
        let large = rehashing.turn_of_large().unwrap();
        assert!(rehashing.turn_of_large().is_none());
        drop(large);
        assert!(rehashing.turn_of_large().is_some());
    }
}
