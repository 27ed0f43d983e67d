//! Evictions under way: who wants how much, in the order in which they asked.
//!
//! Promises: an eviction is done in batches, between which the thread of the index does everything else; what is wanted
//! is asked anew before each batch, so that nothing is evicted that is not needed any more; an eviction goes on when the
//! download that asked for it has given up waiting. Not here: the removal of files, and why something is wanted.

use std::collections::{HashSet, VecDeque};

use crate::reference::Digest;
use crate::store::share::OwnerId;

/// Evictions that wait at most: twice as many as there are downloads. A further one is dropped, which its download takes
/// for a full store.
const WAITING_MAX: usize = 512;

/// Bytes that could be evicted, of one registry or of all.
pub(crate) type Evictable<'a> = &'a dyn Fn(Option<OwnerId>) -> u64;

/// Something that wants blobs evicted.
pub(crate) trait Demand: Send {
    /// What is to go next; `None` once nothing more is wanted or to be had. Dropped then. Must not wait.
    fn next(&mut self, evictable: Evictable<'_>) -> Option<Wanted>;

    /// What of it has gone.
    fn evicted(&mut self, batch: &Batch);
}

/// Bytes of blobs that are to go, of one registry or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) bytes: u64,
    pub(crate) only: Option<OwnerId>,
}

/// What a batch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Bytes of the blobs that have gone.
    pub(crate) bytes: u64,
    /// No blob is left that may go, or none that can be removed.
    pub(crate) is_last: bool,
}

/// A demand, and what was found while it was met.
pub(crate) struct Eviction {
    pub(crate) demand: Box<dyn Demand>,
    /// Blobs whose files cannot be removed: they are passed over in further batches.
    pub(crate) stuck: HashSet<Digest>,
}

/// All evictions.
#[derive(Default)]
pub(crate) struct Evictions {
    waiting: VecDeque<Eviction>,
    /// What goes ahead of need, while nothing else is to be done.
    ahead: Option<Eviction>,
}

impl Evictions {
    /// Adds a demand behind those that wait.
    pub(crate) fn add(&mut self, demand: Box<dyn Demand>) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(Eviction { demand, stuck: HashSet::new() });
        }
    }

    /// Sets the demand that is met while nothing else is to be done, unless there is one.
    pub(crate) fn set_ahead(&mut self, demand: Box<dyn Demand>) {
        self.ahead.get_or_insert(Eviction { demand, stuck: HashSet::new() });
    }

    /// Whether somebody waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.ahead.is_none()
    }

    /// Takes the one that is next; to be given back by [`Evictions::put_back`] unless it has ended.
    pub(crate) fn take(&mut self) -> Option<(Eviction, bool)> {
        match self.waiting.pop_front() {
            Some(eviction) => Some((eviction, false)),
            None => self.ahead.take().map(|eviction| (eviction, true)),
        }
    }

    /// Gives back what was taken; it is next again.
    pub(crate) fn put_back(&mut self, eviction: Eviction, is_ahead: bool) {
        if is_ahead {
            self.ahead = Some(eviction);
        } else {
            self.waiting.push_front(eviction);
        }
    }
}
