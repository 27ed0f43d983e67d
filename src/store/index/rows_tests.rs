//! The order of victims, whatever changes, and what a search looks at.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::from_bytes(&[n; 32]).unwrap()
}

fn victims(rows: &Rows, now: u64, may_go: impl Fn(&Digest, &Row) -> bool) -> Vec<u8> {
    let mut search = rows.search(Order::BySize, None, Timestamp(now));
    std::iter::from_fn(|| rows.next_victim(&mut search, Timestamp(now), &may_go))
        .map(|(digest, _)| digest.as_bytes()[0])
        .collect()
}

#[test]
fn rows_that_were_read_in_any_order_are_evicted_in_the_order_of_their_last_access() {
    let row =
        |used_at| Row { size: 10_000, used_at: Timestamp(used_at), owner: OwnerId::UNKNOWN, reused: false };
    let rows = [(digest(1), row(30)), (digest(2), row(10)), (digest(3), row(20)), (digest(2), row(40))];
    let rows = Rows::from_unordered(rows);
    assert_eq!(victims(&rows, 100, |_, _| true), [3, 1, 2]);
    assert_eq!(victims(&rows, 100, |d, _| *d != digest(3)), [1, 2], "one that may not go is passed");
    assert_eq!(rows.totals(), Totals { blobs: 3, bytes: 30_000 });
}

#[test]
fn the_blobs_of_others_are_passed_once_and_not_for_each_batch_of_a_registry_that_evicts_its_own() {
    let (now, own) = (Timestamp(1_000), OwnerId(1));
    let name = |n: u32| Digest::of(&n.to_le_bytes());
    let row = |owner| Row { size: 1_000, used_at: Timestamp(1), owner, reused: false };
    let mut rows = Rows::new();
    (0..100_000).for_each(|n| rows.put(name(n), row(OwnerId(2))));
    (100_000..101_000).for_each(|n| rows.put(name(n), row(own)));
    let (mut looked_at, read) = (0, name(100_000));
    let sought = Some(Sought { owner: own, spares_protected: true });
    for n in 0..100 {
        let search = rows.resume(Order::BySize, sought, now);
        let mut search = search.unwrap_or_else(|| rows.search(Order::BySize, sought, now));
        for _ in 0..5 {
            let victim = rows.next_victim(&mut search, now, |digest, _| *digest != read);
            assert_eq!(victim.map(|(_, row)| row.owner), Some(own));
            rows.remove(&victim.unwrap().0);
        }
        looked_at += search.looked_at;
        rows.keep(search);
        rows.put(name(n), row(OwnerId(2)));
    }
    assert!(looked_at < 110_000, "{looked_at}");
    let later = Timestamp(now.0 + 60);
    assert!(rows.resume(Order::BySize, sought, later).is_none(), "what may go by now is looked at again");
}

#[derive(Debug, Clone)]
enum Change {
    Put(u8, u64, bool),
    Remove(u8),
    Evict(bool),
    EvictOf(u64),
}

fn owner_of(n: u8) -> OwnerId {
    OwnerId(u64::from(n % 3))
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..20_u8, 0..40_u32, any::<bool>()).prop_map(|(n, bits, reused)| Change::Put(n, 1 << bits, reused)),
        1 => (0..20_u8).prop_map(Change::Remove),
        1 => any::<bool>().prop_map(Change::Evict),
        2 => (0..3_u64).prop_map(Change::EvictOf),
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
            // Searches are kept for a while.
                let now = Timestamp(n as u64 * 5);
            match change {
                Change::EvictOf(_) => {}
                Change::Put(n, size, reused) => {
                    let row = Row { size, used_at: now, owner: owner_of(n), reused };
                    rows.put(digest(n), row);
                    model.insert(n, row);
                }
                Change::Remove(n) => prop_assert_eq!(rows.remove(&digest(n)), model.remove(&n)),
                Change::Evict(for_bytes) => {
                    let order = if for_bytes { Order::BySize } else { Order::ByCount };
                    let weight = |row: &Row| evict::weight(order, row.used_at.age_at(now), evict::class(row.size), row.reused);
                    let heaviest = model.values().map(weight).max();
                    let victim = rows.next_victim(&mut rows.search(order, None, now), now, |_, _| true);
                    prop_assert_eq!(victim.map(|(_, row)| weight(&row)), heaviest);
                    if let Some((digest, _)) = victim {
                        rows.remove(&digest);
                        model.remove(&digest.as_bytes()[0]);
                    }
                }
            }
            if let Change::EvictOf(owner) = change {
                let sought = Some(Sought { owner: OwnerId(owner), spares_protected: true });
                let order = Order::BySize;
                let weight = |row: &Row| evict::weight(order, row.used_at.age_at(now), evict::class(row.size), row.reused);
                let heaviest = model.values().filter(|row| row.owner.0 == owner).map(weight).max();
                let search = rows.resume(order, sought, now);
                let mut search = search.unwrap_or_else(|| rows.search(order, sought, now));
                let victim = rows.next_victim(&mut search, now, |_, _| true);
                prop_assert_eq!(victim.map(|(_, row)| weight(&row)), heaviest);
                if let Some((digest, row)) = victim {
                    prop_assert_eq!(row.owner.0, owner);
                    rows.remove(&digest);
                    model.remove(&digest.as_bytes()[0]);
                }
                rows.keep(search);
            }
            let bytes = model.values().map(|row| row.size).sum();
            prop_assert_eq!(rows.totals(), Totals { blobs: model.len() as u64, bytes });
            prop_assert_eq!(rows.iter().count(), model.len());
            prop_assert!(model.iter().all(|(n, row)| rows.row(&digest(*n)) == Some(*row)));
        }
    }
}
