//! Where the searches for victims of single registries have got to.
//!
//! A registry that holds its share evicts its own blobs only, and the blobs of all others may lie before them. A search
//! passes those once, not once for each batch. What was passed because it may not be evicted is looked at again after
//! [`KEPT_FOR`], or once nothing else is left. Not here: the lists themselves (`rows`), which tell this of every
//! change.

use std::time::Duration;

use super::slots::NONE;
use crate::store::budget::share::OwnerId;
use crate::support::clock::Timestamp;

/// How long a search is gone on with: as long as a blob is passed over whose file could not be removed.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Searches that are kept: every change of a list looks at each. The one that began first makes way.
const SEARCHES_MAX: usize = 16;

/// Whose blobs are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sought {
    pub(crate) owner: OwnerId,
    /// Whether protected blobs are passed too.
    pub(crate) spares_protected: bool,
}

/// The searches in `N` lists.
#[derive(Debug, Default)]
pub(crate) struct Cursors<const N: usize>(Vec<Cursor<N>>);

#[derive(Debug)]
struct Cursor<const N: usize> {
    sought: Sought,
    begun: Timestamp,
    /// In each list the first row that was not passed; [`NONE`] behind the last.
    at: [u32; N],
}

impl<const N: usize> Cursors<N> {
    /// Where a search has got to, and when it began; `None` if it is to begin anew.
    pub(crate) fn find(&self, sought: Sought, now: Timestamp) -> Option<([u32; N], Timestamp)> {
        let found = self.0.iter().find(|cursor| cursor.sought == sought)?;
        (found.begun.age_at(now) < KEPT_FOR).then_some((found.at, found.begun))
    }

    /// A search has got so far.
    pub(crate) fn keep(&mut self, sought: Sought, at: [u32; N], begun: Timestamp) {
        self.forget(sought);
        if self.0.len() == SEARCHES_MAX {
            self.0.remove(0);
        }
        self.0.push(Cursor { sought, begun, at });
    }

    /// A search begins anew.
    pub(crate) fn forget(&mut self, sought: Sought) {
        self.0.retain(|cursor| cursor.sought != sought);
    }

    /// A row was added at the end of a list.
    pub(crate) fn added(&mut self, list: usize, row: u32) {
        self.0.iter_mut().filter(|cursor| cursor.at[list] == NONE).for_each(|cursor| cursor.at[list] = row);
    }

    /// A row has left a list; `after` came after it.
    pub(crate) fn removed(&mut self, list: usize, row: u32, after: u32) {
        self.0.iter_mut().filter(|cursor| cursor.at[list] == row).for_each(|cursor| cursor.at[list] = after);
    }
}
