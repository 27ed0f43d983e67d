//! Permission to change the files of a store, which ends when the store is closed.
//!
//! A download may outlive the stop of its daemon, for as long as its registry hangs. The lock of the store is released
//! at the stop all the same, so that the next daemon can start, and from then on the files belong to that one: a change
//! that is begun later is refused, and [`Changes::end`] waits for those under way. Reading is never refused.

use std::convert::Infallible;
use std::sync::Arc;

use crate::store::error::Error;
use crate::support::sync::Mutex;
use crate::support::sync::mpsc::{SyncSender, sync_channel};

/// Whether files may be changed. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Changes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// Only while nothing is under way: a change that is begun within another is never refused.
    ended: bool,
    /// Dropped at the end, which is what their receivers wait for.
    waiting: Vec<SyncSender<Infallible>>,
}

/// A change under way: from the first file to the last one that belongs together.
#[derive(Debug)]
pub(in crate::store) struct Change<'a>(&'a Changes);

impl Changes {
    /// Begins a change; one may be begun within another.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(in crate::store) fn begin(&self) -> Result<Change<'_>, Error> {
        let mut state = self.0.lock();
        if state.ended {
            return Err(Error::Closed);
        }
        state.under_way += 1;
        Ok(Change(self))
    }

    /// Refuses changes as soon as none is under way. Blocks until then.
    pub(in crate::store) fn end(&self) {
        let (sender, ended) = sync_channel(0);
        {
            let mut state = self.0.lock();
            state.waiting.push(sender);
            state.end_if_idle();
        }
        let _ = ended.recv();
    }
}

impl State {
    fn end_if_idle(&mut self) {
        if self.under_way == 0 && !self.waiting.is_empty() {
            self.ended = true;
            self.waiting.clear();
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.under_way -= 1;
        state.end_if_idle();
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
