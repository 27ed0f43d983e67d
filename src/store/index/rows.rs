//! The rows of all blobs in memory, in the order in which they would be evicted.
//!
//! Blobs of about one size are in one list, the blob that was used longest ago first; only the heads of the lists are
//! compared when a blob is to be evicted. A victim, an access and a removal therefore cost the same whatever the number
//! of blobs. A row takes 64 bytes (`slots`) and its place in the table by digest 12 at most. Not here: which blobs may not
//! be evicted, and what is on disk.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

pub(crate) use super::slots::Row;
use super::slots::{NONE, Slots};
use super::totals::Totals;
use crate::reference::Digest;
use crate::store::evict::{self, CLASSES, Order};
use crate::store::share::OwnerId;
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
}

impl Rows {
    pub(crate) fn new() -> Self {
        Self {
            slots: Slots::default(),
            by_digest: HashTable::new(),
            hasher: RandomState::new(),
            lists: [List { first: NONE, last: NONE }; LISTS],
            free: NONE,
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

    /// Begins a search for victims.
    pub(crate) fn search(&self, order: Order) -> Search {
        Search { at: self.lists.map(|list| list.first), order }
    }

    /// The next blob to evict, if any may be: of the longest idle of each size, the one that weighs most. The caller may
    /// remove what it was given before it asks again, and nothing else.
    pub(crate) fn next_victim(
        &self,
        search: &mut Search,
        now: Timestamp,
        may_go: impl Fn(&Digest, &Row) -> bool,
    ) -> Option<(Digest, Row)> {
        let mut best: Option<(u64, usize)> = None;
        for (list, at) in search.at.iter_mut().enumerate() {
            while *at != NONE && !may_go(&self.slots.digest(*at), &self.slots.row(*at)) {
                *at = self.slots.after(*at);
            }
            if *at == NONE {
                continue;
            }
            let Row { size, used_at, reused, .. } = self.slots.row(*at);
            let weight = evict::weight(search.order, used_at.age_at(now), evict::class(size), reused);
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
        let list = &mut self.lists[list_of(self.slots.row(slot))];
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
        let list = &mut self.lists[list_of(self.slots.row(slot))];
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
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_bytes(&[n; 32]).unwrap()
    }

    fn victims(rows: &Rows, now: u64, may_go: impl Fn(&Digest, &Row) -> bool) -> Vec<u8> {
        let mut search = rows.search(Order::BySize);
        std::iter::from_fn(|| rows.next_victim(&mut search, Timestamp(now), &may_go))
            .map(|(digest, _)| digest.as_bytes()[0])
            .collect()
    }

    #[test]
    fn rows_that_were_read_in_any_order_are_evicted_in_the_order_of_their_last_access() {
        let row = |used_at| Row {
            size: 10_000,
            used_at: Timestamp(used_at),
            owner: OwnerId::UNKNOWN,
            reused: false,
        };
        let rows = [(digest(1), row(30)), (digest(2), row(10)), (digest(3), row(20)), (digest(2), row(40))];
        let rows = Rows::from_unordered(rows);
        assert_eq!(victims(&rows, 100, |_, _| true), [3, 1, 2]);
        assert_eq!(victims(&rows, 100, |d, _| *d != digest(3)), [1, 2], "one that may not go is passed");
        assert_eq!(rows.totals(), Totals { blobs: 3, bytes: 30_000 });
    }

    #[derive(Debug, Clone)]
    enum Change {
        Put(u8, u64, bool),
        Remove(u8),
        Evict(bool),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => (0..20_u8, 0..40_u32, any::<bool>()).prop_map(|(n, bits, reused)| Change::Put(n, 1 << bits, reused)),
            1 => (0..20_u8).prop_map(Change::Remove),
            1 => any::<bool>().prop_map(Change::Evict),
        ]
    }

    proptest! {
        #[test]
        fn whatever_changes_a_victim_is_the_heaviest_blob_and_the_totals_are_right(
            changes in proptest::collection::vec(change(), 1..200),
        ) {
            let mut rows = Rows::new();
            let mut model: HashMap<u8, Row> = HashMap::new();
            for (n, change) in changes.into_iter().enumerate() {
                let now = Timestamp(n as u64 * 100);
                match change {
                    Change::Put(n, size, reused) => {
                        let row = Row { size, used_at: now, owner: OwnerId::UNKNOWN, reused };
                        rows.put(digest(n), row);
                        model.insert(n, row);
                    }
                    Change::Remove(n) => prop_assert_eq!(rows.remove(&digest(n)), model.remove(&n)),
                    Change::Evict(for_bytes) => {
                        let order = if for_bytes { Order::BySize } else { Order::ByCount };
                        let weight = |row: &Row| evict::weight(order, row.used_at.age_at(now), evict::class(row.size), row.reused);
                        let heaviest = model.values().map(weight).max();
                        let victim = rows.next_victim(&mut rows.search(order), now, |_, _| true);
                        prop_assert_eq!(victim.map(|(_, row)| weight(&row)), heaviest);
                        if let Some((digest, _)) = victim {
                            rows.remove(&digest);
                            model.remove(&digest.as_bytes()[0]);
                        }
                    }
                }
                let bytes = model.values().map(|row| row.size).sum();
                prop_assert_eq!(rows.totals(), Totals { blobs: model.len() as u64, bytes });
                prop_assert_eq!(rows.iter().count(), model.len());
                prop_assert!(model.iter().all(|(n, row)| rows.row(&digest(*n)) == Some(*row)));
            }
        }
    }
}
