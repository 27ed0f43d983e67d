//! Permission to change the files of a store, which ends when the store is closed.
//!
//! A download may outlive the stop of its daemon, for as long as its registry hangs. The lock of the store is released at
//! the stop all the same, so that the next daemon can start, and from then on the files belong to that one: a change that
//! is begun later is refused, and [`Changes::end`] waits for those under way. Reading is never refused.

use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};

use crate::store::error::Error;

/// Whether files may be changed. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<RwLock<State>>);

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Allowed,
    Ended,
}

/// A change under way: from the first file to the last one that belongs together.
pub(super) struct Change<'a>(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'a, State>);

impl Changes {
    /// Begins a change. One that is begun within another, by the same thread, never waits.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(super) fn begin(&self) -> Result<Change<'_>, Error> {
        // Recursive: a commit makes directories and small files, each of which is a change too.
        let state = self.0.read_recursive();
        if *state == State::Ended { Err(Error::Closed) } else { Ok(Change(state)) }
    }

    /// Refuses further changes. Blocks until those under way have ended.
    pub(super) fn end(&self) {
        *self.0.write() = State::Ended;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_end_waits_for_a_change_under_way_and_refuses_the_next_one() {
        let changes = Changes::default();
        let outer = changes.begin().unwrap();
        let (ended, has_ended) = mpsc::channel();
        let ending = std::thread::spawn({
            let changes = changes.clone();
            move || {
                changes.end();
                ended.send(()).unwrap();
            }
        });
        assert!(has_ended.recv_timeout(Duration::from_millis(50)).is_err(), "a change is under way");
        drop(changes.begin().unwrap());
        drop(outer);
        ending.join().unwrap();
        assert!(matches!(changes.begin(), Err(Error::Closed)));
    }
}
