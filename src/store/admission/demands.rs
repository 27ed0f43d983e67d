//! What wants blobs evicted: a download that claims space, the enforcement of the budget, and the low watermark.
//!
//! Each is asked by the thread of the index before every batch and looks anew at what is missing, so that what became
//! free by other means is not evicted as well. None of them waits. Where inodes are missing and all blobs that may go
//! would not give back enough, none goes for them.

use std::convert::Infallible;
use std::sync::Arc;

use super::space::{Refused, Space};
use super::victims::{StillMissing, Victims};
use crate::store::budget::reserve::Reservation;
use crate::store::budget::share::Owner;
use crate::store::budget::{self, Missing};
use crate::store::index::{Batch, Demand, Evictable, Wanted};
use crate::support::sync::atomic::{AtomicU64, Ordering};
use crate::support::sync::mpsc::SyncSender;

/// The answer to a claim; none is a refusal.
#[derive(Debug)]
pub(super) enum Granted {
    /// The bytes.
    Reserved(Reservation),
    /// They were evicted, and the filesystem does not show them yet.
    NotFreeYet,
}

/// A download that claims bytes. They are reserved for it in the moment in which they are free; if it has given up
/// waiting by then, they stay free.
pub(super) struct Claim {
    space: Arc<Space>,
    owner: Owner,
    wanted: u64,
    answer: SyncSender<Granted>,
    /// `None` until it was found that the bytes can be had.
    victims: Option<Victims>,
}

impl Claim {
    pub(super) fn new(space: Arc<Space>, owner: Owner, wanted: u64, answer: SyncSender<Granted>) -> Self {
        Self { space, owner, wanted, answer, victims: None }
    }
}

impl Demand for Claim {
    fn next(&mut self, evictable: Evictable<'_>) -> Option<Wanted> {
        let Self { space, owner, wanted, answer, victims } = self;
        loop {
            let missing = match space.try_reserve(*owner, *wanted) {
                Ok(reserved) => {
                    let _ = answer.try_send(Granted::Reserved(reserved));
                    return None;
                }
                Err(Refused::Share) => return None,
                Err(Refused::Missing(missing)) => missing,
            };
            if victims.is_none() && !space.can_be_freed(missing, *owner, *wanted, evictable) {
                return None;
            }
            let victims = victims.get_or_insert_default();
            let still_missing = victims.still_missing(missing);
            if still_missing.is_nothing() {
                let _ = answer.try_send(Granted::NotFreeYet);
                return None;
            }
            if free_damaged(space, victims, still_missing) == 0 {
                return victims.next(still_missing, &space.excesses(), space.own_only(*owner, *wanted));
            }
        }
    }

    fn evicted(&mut self, batch: &Batch) {
        self.victims.iter_mut().for_each(|victims| victims.evicted(batch));
    }
}

/// What exceeds the budget.
pub(super) struct Enforcement {
    space: Arc<Space>,
    freed: Arc<AtomicU64>,
    victims: Victims,
    /// Dropped at the end, which is what its receiver waits for.
    _ended: SyncSender<Infallible>,
}

impl Enforcement {
    /// `freed` counts the bytes.
    pub(super) fn new(space: Arc<Space>, freed: Arc<AtomicU64>, ended: SyncSender<Infallible>) -> Self {
        Self { space, freed, victims: Victims::default(), _ended: ended }
    }
}

impl Demand for Enforcement {
    fn next(&mut self, evictable: Evictable<'_>) -> Option<Wanted> {
        let (wanted, freed) = for_none(&self.space, &mut self.victims, evictable, || self.space.missing(0));
        self.freed.fetch_add(freed, Ordering::Relaxed);
        wanted
    }

    fn evicted(&mut self, batch: &Batch) {
        self.freed.fetch_add(batch.bytes, Ordering::Relaxed);
        self.victims.evicted(batch);
    }
}

/// What lies between the low watermark and what is stored. It ends when a download asks for space: that one is not to
/// wait for it.
pub(super) struct Ahead {
    space: Arc<Space>,
    asked: u64,
    victims: Victims,
}

impl Ahead {
    /// `asked` reservations had been asked for when it began.
    pub(super) fn new(space: Arc<Space>, asked: u64) -> Self {
        Self { space, asked, victims: Victims::default() }
    }
}

impl Demand for Ahead {
    fn next(&mut self, evictable: Evictable<'_>) -> Option<Wanted> {
        if self.space.asked() != self.asked {
            return None;
        }
        let missing = || self.space.missing_ahead(budget::low_headroom);
        for_none(&self.space, &mut self.victims, evictable, missing).0
    }

    fn evicted(&mut self, batch: &Batch) {
        self.victims.evicted(batch);
    }
}

/// What is to go next where no download claims the bytes, and how many bytes of quarantine went for it.
fn for_none(
    space: &Space,
    victims: &mut Victims,
    evictable: Evictable<'_>,
    missing: impl Fn() -> Missing,
) -> (Option<Wanted>, u64) {
    let mut freed = 0;
    loop {
        let still_missing = victims.still_missing(missing());
        // Asked only where it matters: it looks at every blob that is pinned or read.
        let blobs = if still_missing.blobs > 0 { evictable(None).blobs } else { 0 };
        let still_missing = still_missing.within(blobs);
        if still_missing.is_nothing() {
            return (None, freed);
        }
        match free_damaged(space, victims, still_missing) {
            0 => return (victims.next(still_missing, &space.excesses(), None), freed),
            more => freed += more,
        }
    }
}

/// Damaged blobs are the first to go; returns how many bytes of them went.
fn free_damaged(space: &Space, victims: &mut Victims, missing: StillMissing) -> u64 {
    let before = space.quarantine().bytes();
    if before == 0 {
        return 0;
    }
    // Where inodes are missing all of them go: they are few.
    space.quarantine().free(if missing.blobs > 0 { u64::MAX } else { missing.bytes });
    let freed = before.saturating_sub(space.quarantine().bytes());
    victims.freed(freed);
    freed
}
