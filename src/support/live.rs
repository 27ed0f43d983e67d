//! A value that is replaced while the daemon runs, such as the settings of a module.
//!
//! Promises: a reader never waits, and sees one whole value: the one before a replacement or the one after it, never a
//! mixture. A reader that needs several settings for one decision calls [`Live::current`] once and keeps what it got.
//!
//! Deliberately not here: telling readers about a replacement. A module that has to act on new settings (open a file,
//! build a client) does so in the function that replaces them.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// The current value of `T`. Cheap to clone; clones share the value.
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Live<T> {
    /// Holds `value` until it is replaced.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The value as it is now. What was returned stays as it is when the value is replaced.
    pub fn current(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// From now on, `value` is current for every clone.
    pub fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Default for Live<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_reaches_every_clone_and_leaves_what_was_read_before_whole() {
        let live = Live::new((1, 1));
        let clone = live.clone();
        let before = clone.current();
        live.replace((2, 2));
        assert_eq!(*clone.current(), (2, 2));
        assert_eq!(*before, (1, 1));
    }
}
