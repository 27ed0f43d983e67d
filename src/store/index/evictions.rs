//! Evictions under way: who wants how much, in the order in which they asked.
//!
//! Promises: an eviction is done in batches, between which the thread of the index does everything else; what is wanted
//! is asked anew before each batch, so that nothing is evicted that is not needed any more; an eviction goes on when
//! the download that asked for it has given up waiting. Not here: the removal of files, and why something is wanted.

use std::collections::VecDeque;
use std::time::Duration;

use super::totals::Totals;
use crate::reference::Digest;
use crate::store::budget::share::OwnerId;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;

/// Evictions that wait at most: twice as many as there are downloads. A further one is dropped, which its download
/// takes for a full store.
const WAITING_MAX: usize = 512;

/// What could be evicted, of one registry or of all.
pub(crate) type Evictable<'a> = &'a dyn Fn(Option<OwnerId>) -> Totals;

/// Something that wants blobs evicted.
pub(crate) trait Demand: Send {
    /// What is to go next; `None` once nothing more is wanted or to be had. Dropped then. Must not wait.
    fn next(&mut self, evictable: Evictable<'_>) -> Option<Wanted>;

    /// What of it has gone.
    fn evicted(&mut self, batch: &Batch);
}

/// What is to go, of one registry or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Bytes of blobs.
    pub(crate) bytes: u64,
    /// Blobs at least, whatever their size: the filesystem has too few inodes.
    pub(crate) blobs: u64,
    pub(crate) only: Option<OwnerId>,
}

/// What a batch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Bytes of the blobs that have gone.
    pub(crate) bytes: u64,
    /// How many they are.
    pub(crate) blobs: u64,
    /// No blob is left that may go, or none that can be removed.
    pub(crate) is_last: bool,
}

/// A demand, and what was found while it was met.
pub(crate) struct Eviction {
    pub(crate) demand: Box<dyn Demand>,
    pub(crate) need: Need,
    /// Files that could not be removed for it.
    pub(crate) failures: usize,
}

/// Whether something waits for an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A download does.
    Now,
    /// Nothing does yet: it goes on while nothing else is to be done.
    Ahead,
}

impl Eviction {
    fn new(demand: Box<dyn Demand>, need: Need) -> Self {
        Self { demand, need, failures: 0 }
    }
}

/// How long a blob is passed over whose file could not be removed.
pub(crate) const STUCK_FOR: Duration = Duration::from_secs(60);
/// Such blobs that are remembered; further ones are tried again sooner.
const STUCK_MAX: usize = 1_024;

/// Blobs whose files could not be removed a moment ago: no eviction tries them before others, and none counts on them.
pub(crate) struct Stuck(BoundedMap<Digest, Timestamp>);

impl Default for Stuck {
    fn default() -> Self {
        Self(BoundedMap::new(STUCK_MAX))
    }
}

impl Stuck {
    /// The file of a blob could not be removed.
    pub(crate) fn insert(&mut self, digest: Digest, now: Timestamp) {
        self.0.insert(digest, now);
    }

    /// Whether a blob is passed over.
    pub(crate) fn contains(&self, digest: &Digest, now: Timestamp) -> bool {
        self.0.peek(digest).is_some_and(|at| at.age_at(now) < STUCK_FOR)
    }

    /// The blobs that are passed over.
    pub(crate) fn digests(&self, now: Timestamp) -> impl Iterator<Item = Digest> + '_ {
        self.0.iter().filter(move |(_, at)| at.age_at(now) < STUCK_FOR).map(|(digest, _)| *digest)
    }
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
            self.waiting.push_back(Eviction::new(demand, Need::Now));
        }
    }

    /// Sets the demand that is met while nothing else is to be done, unless there is one.
    pub(crate) fn set_ahead(&mut self, demand: Box<dyn Demand>) {
        self.ahead.get_or_insert(Eviction::new(demand, Need::Ahead));
    }

    /// Whether a download waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.ahead.is_none()
    }

    /// Takes the one that is next; to be given back by [`Evictions::put_back`] unless it has ended.
    pub(crate) fn take(&mut self) -> Option<Eviction> {
        self.waiting.pop_front().or_else(|| self.ahead.take())
    }

    /// Gives back what was taken; it is next again.
    pub(crate) fn put_back(&mut self, eviction: Eviction) {
        match eviction.need {
            Need::Now => self.waiting.push_front(eviction),
            Need::Ahead => self.ahead = Some(eviction),
        }
    }
}
