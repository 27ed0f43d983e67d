//! The rows of all blobs in memory, in the order in which they would be evicted.
//!
//! Blobs of about one size are in one list, the blob that was used longest ago first; only the heads of the lists are
//! compared when a blob is to be evicted. A victim, an access and a removal therefore cost the same whatever the number
//! of blobs; where one registry's blobs alone may go, those of others are passed once a minute at most (`cursors`). A
//! row takes 64 bytes (`slots`) and its place in the table by digest 12 at most. Not here: which blobs may not be
//! evicted, and what is on disk.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::cursors::{Cursors, Sought};
pub(crate) use super::slots::Row;
use super::slots::{NONE, Slots};
use super::totals::Totals;
use crate::reference::Digest;
use crate::store::budget::evict::{self, CLASSES, Order};
use crate::store::budget::share::OwnerId;
use crate::support::clock::Timestamp;

/// A list for each class of size of blobs that were used once, and one of those that were used again.
const LISTS: usize = 2 * CLASSES;

/// The list that a row is in.
fn list_of(row: Row) -> usize {
    evict::class(row.size) + if row.reused { CLASSES } else { 0 }
}

/// All rows. At most 2³² - 1 of them.
pub(crate) struct Rows {
    slots: Slots,
    by_digest: HashTable<u32>,
    /// With a key of its own, so that digests cannot be chosen to collide.
    hasher: RandomState,
    /// The list of each class of size, then the list of free slots.
    lists: [List; LISTS],
    free: u32,
    cursors: Cursors<LISTS>,
    totals: Totals,
}

/// The ends of a list: used longest ago, and used last.
#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

/// Where a search for victims has got to: blobs that may not be evicted are passed once, not once for each victim.
pub(crate) struct Search {
    at: [u32; LISTS],
    order: Order,
    sought: Option<Sought>,
    begun: Timestamp,
    /// Rows that were looked at.
    #[cfg(test)]
    looked_at: usize,
}

impl Rows {
    pub(crate) fn new() -> Self {
        Self {
            slots: Slots::default(),
            by_digest: HashTable::new(),
            hasher: RandomState::new(),
            lists: [List { first: NONE, last: NONE }; LISTS],
            free: NONE,
            cursors: Cursors::default(),
            totals: Totals::default(),
        }
    }

    /// From rows in any order; of two rows for one digest the last counts.
    pub(crate) fn from_unordered(rows: impl IntoIterator<Item = (Digest, Row)>) -> Self {
        let mut all = Self::new();
        for (digest, row) in rows {
            match all.find(&digest) {
                Some(slot) => all.slots.set_row(slot, row),
                None => drop(all.occupy(&digest, row)),
            }
        }
        let mut order: Vec<u32> = (0..all.len() as u32).collect();
        order.sort_unstable_by_key(|&slot| all.slots.row(slot).used_at);
        for slot in order {
            all.link(slot);
        }
        let bytes = all.iter().map(|(_, row)| row.size).fold(0, u64::saturating_add);
        all.totals = Totals { blobs: all.len() as u64, bytes };
        all
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// What the blobs occupy.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn row(&self, digest: &Digest) -> Option<Row> {
        self.find(digest).map(|slot| self.slots.row(slot))
    }

    /// The place of a row: its own below the largest number of rows that there have been, while it stays.
    pub(crate) fn place(&self, digest: &Digest) -> Option<u32> {
        self.find(digest)
    }

    /// The row at a place, if there is one.
    pub(crate) fn at(&self, place: u32) -> Option<(Digest, Row)> {
        self.slots.is_filled(place).then(|| (self.slots.digest(place), self.slots.row(place)))
    }

    /// The places of all rows, in the order of their digests' first bytes.
    pub(crate) fn places_by_digest(&self) -> Vec<u32> {
        let mut places: Vec<u32> = self.by_digest.iter().copied().collect();
        places.sort_unstable_by_key(|&place| {
            self.slots.digest(place).as_bytes().first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
        });
        places
    }

    /// Sets a row, as that of the blob that was used last.
    pub(crate) fn put(&mut self, digest: Digest, row: Row) {
        self.remove(&digest);
        let slot = self.occupy(&digest, row);
        self.link(slot);
        self.totals.blobs += 1;
        self.totals.bytes = self.totals.bytes.saturating_add(row.size);
    }

    /// Sets the owner of a row that has none; its place in the order stays.
    pub(crate) fn set_owner(&mut self, digest: &Digest, owner: OwnerId) {
        if let Some(slot) = self.find(digest)
            && let row = self.slots.row(slot)
            && row.owner == OwnerId::UNKNOWN
        {
            self.slots.set_row(slot, Row { owner, ..row });
        }
    }

    /// Removes a row and returns it.
    pub(crate) fn remove(&mut self, digest: &Digest) -> Option<Row> {
        let hash = self.hasher.hash_one(digest);
        let found = self.by_digest.find_entry(hash, |&slot| self.slots.holds(slot, digest));
        let (slot, _) = found.ok()?.remove();
        self.unlink(slot);
        let row = self.slots.row(slot);
        self.slots.clear(slot);
        self.slots.set_after(slot, self.free);
        self.free = slot;
        self.totals.blobs -= 1;
        self.totals.bytes = self.totals.bytes.saturating_sub(row.size);
        Some(row)
    }

    /// Every row, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Digest, Row)> + '_ {
        self.by_digest.iter().map(|&slot| (self.slots.digest(slot), self.slots.row(slot)))
    }

    /// Begins a search for victims, of one registry where `sought` says so.
    pub(crate) fn search(&self, order: Order, sought: Option<Sought>, now: Timestamp) -> Search {
        Search {
            at: self.lists.map(|list| list.first),
            order,
            sought,
            begun: now,
            #[cfg(test)]
            looked_at: 0,
        }
    }

    /// Goes on with a search for the victims of one registry; `None` if it is to begin anew.
    pub(crate) fn resume(&self, order: Order, sought: Option<Sought>, now: Timestamp) -> Option<Search> {
        let (at, begun) = self.cursors.find(sought?, now)?;
        Some(Search { at, begun, ..self.search(order, sought, now) })
    }

    /// Begins a search again.
    pub(crate) fn begin_anew(&self, search: &Search, now: Timestamp) -> Search {
        self.search(search.order, search.sought, now)
    }

    /// Keeps a search for the victims of one registry, to go on with it.
    pub(crate) fn keep(&mut self, search: Search) {
        if let Some(sought) = search.sought {
            self.cursors.keep(sought, search.at, search.begun);
        }
    }

    /// The next blob to evict, if any may be: of the longest idle of each size, the one that weighs most. The caller
    /// may remove what it was given before it asks again, and nothing else.
    pub(crate) fn next_victim(
        &self,
        search: &mut Search,
        now: Timestamp,
        may_go: impl Fn(&Digest, &Row) -> bool,
    ) -> Option<(Digest, Row)> {
        let mut best: Option<(u64, usize)> = None;
        let (order, owner) = (search.order, search.sought.map(|sought| sought.owner));
        let may_go = |at: u32| {
            let row = self.slots.row(at);
            owner.is_none_or(|owner| row.owner == owner) && may_go(&self.slots.digest(at), &row)
        };
        for (list, at) in search.at.iter_mut().enumerate() {
            while *at != NONE && !may_go(*at) {
                *at = self.slots.after(*at);
                #[cfg(test)]
                {
                    search.looked_at += 1;
                }
            }
            if *at == NONE {
                continue;
            }
            let Row { size, used_at, reused, .. } = self.slots.row(*at);
            let weight = evict::weight(order, used_at.age_at(now), evict::class(size), reused);
            if best.is_none_or(|(most, _)| weight >= most) {
                best = Some((weight, list));
            }
        }
        let at = &mut search.at[best?.1];
        let victim = (self.slots.digest(*at), self.slots.row(*at));
        *at = self.slots.after(*at);
        Some(victim)
    }

    fn find(&self, digest: &Digest) -> Option<u32> {
        let hash = self.hasher.hash_one(digest);
        self.by_digest.find(hash, |&slot| self.slots.holds(slot, digest)).copied()
    }

    /// Takes a slot for a digest that has none; in no list yet.
    fn occupy(&mut self, digest: &Digest, row: Row) -> u32 {
        let slot = if self.free == NONE {
            self.slots.push(digest, row)
        } else {
            let slot = self.free;
            self.free = self.slots.after(slot);
            self.slots.fill(slot, digest, row);
            slot
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_of = |&slot: &u32| hasher.hash_one(slots.digest(slot));
        self.by_digest.insert_unique(hash_of(&slot), slot, hash_of);
        slot
    }

    /// Appends a slot to the list of its class.
    fn link(&mut self, slot: u32) {
        let number = list_of(self.slots.row(slot));
        self.cursors.added(number, slot);
        let list = &mut self.lists[number];
        let last = std::mem::replace(&mut list.last, slot);
        if last == NONE {
            list.first = slot;
        } else {
            self.slots.set_after(last, slot);
        }
        self.slots.set_before(slot, last);
        self.slots.set_after(slot, NONE);
    }

    fn unlink(&mut self, slot: u32) {
        let (before, after) = (self.slots.before(slot), self.slots.after(slot));
        let number = list_of(self.slots.row(slot));
        self.cursors.removed(number, slot, after);
        let list = &mut self.lists[number];
        match before {
            NONE => list.first = after,
            _ => self.slots.set_after(before, after),
        }
        match after {
            NONE => list.last = before,
            _ => self.slots.set_before(after, before),
        }
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
