//! The index may be destroyed in any way: its rows are rebuilt from the files. And what it must not evict, it does not.

use std::fs;

use super::*;
use crate::reference::Algorithm;
use crate::store::budget::reserve::Reservations;
use crate::store::budget::share::Owner;
use crate::store::index::evictions::STUCK_FOR;
use crate::store::index::rows_on_disk::CLEAN;
use crate::store::read::in_use::InUse;
use crate::support::clock::Timestamp;
use crate::support::metrics::Registry;

#[path = "worker_world_for_tests.rs"]
mod world;

use world::*;

#[test]
fn a_clean_stop_keeps_the_rows_and_anything_else_rebuilds_them() {
    let world = World::new();
    let digest = world.blob(b"12345");
    let mut worker = world.worker();
    assert_eq!(world.totals(), (1, 5), "found by scanning");
    worker.apply(Operation::Close);
    drop(worker);

    world.clock.advance(std::time::Duration::from_secs(3_600));
    let worker = world.worker();
    let row = worker.rows.row(&digest).unwrap();
    assert_eq!(row.used_at, Timestamp(1_000_000), "the last access survived the stop");
    drop(worker);

    let worker = world.worker();
    let row = worker.rows.row(&digest).unwrap();
    assert_eq!(row.used_at, Timestamp(1_003_600), "no clean stop: made anew");
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn a_database_damaged_at_rest_never_stops_the_start() {
    for damage in 0..6_u8 {
        let world = World::new();
        world.blob(b"12345");
        let mut worker = world.worker();
        worker.apply(Operation::Close);
        drop(worker);
        let database = world.layout().index().join("sled/db");
        let mut bytes = fs::read(&database).unwrap();
        match damage {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.fill(0),
            3 => bytes.fill(0xff),
            4 => bytes.iter_mut().step_by(97).for_each(|b| *b ^= 1),
            _ => bytes.iter_mut().skip(512).for_each(|b| *b = b.wrapping_add(1)),
        }
        fs::write(&database, bytes).unwrap();
        let mut worker = world.worker();
        assert_eq!(world.totals(), (1, 5), "damage {damage}: what is on disk counts");
        world.blob(b"x");
        worker.apply(add(b"x", 1));
        assert_eq!(world.totals(), (2, 6), "damage {damage}");
    }
}

#[test]
fn a_file_in_place_of_the_database_leaves_the_rows_in_memory() {
    let world = World::new();
    world.blob(b"12345");
    fs::write(world.layout().index().join("sled"), b"not a directory").unwrap();
    fs::write(world.layout().index().join("clean"), CLEAN).unwrap();
    let mut worker = world.worker();
    assert_eq!(world.totals(), (1, 5));
    let added = world.blob(b"1234567");
    worker.apply(add(b"1234567", 7));
    assert_eq!(world.totals(), (2, 12));
    fs::remove_file(world.layout().blob(&added)).unwrap();
    worker.apply(Operation::Remove(added));
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn a_blob_that_was_evicted_before_it_was_added_is_not_counted() {
    let world = World::new();
    let digest = world.blob(b"12345");
    // The count finds what a download is just committing.
    let mut worker = world.worker();
    evict(&mut worker, 5, None);
    worker.apply(add(b"12345", 5));
    assert_eq!(world.totals(), (0, 0));
    assert!(worker.rows.row(&digest).is_none());
}

#[test]
fn junk_in_the_blob_directory_is_not_counted() {
    let world = World::new();
    world.blob(b"12345");
    fs::write(world.layout().blobs(Algorithm::Sha256).join("lost+found"), b"junk").unwrap();
    fs::create_dir(world.layout().blobs(Algorithm::Sha256).join(Digest::of(b"directory").hex())).unwrap();
    let _worker = world.worker();
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn pinned_blobs_and_blobs_being_read_are_not_evicted() {
    let world = World::new();
    let pinned = world.blob(b"pinned");
    let read = world.blob(b"being read");
    let idle = world.blob(b"idle");
    let pin = crate::store::records::pins::Pin {
        repository: "reg.test/app".parse().unwrap(),
        reference: "v1".to_owned(),
        root: pinned,
        digests: vec![pinned],
        owner: Some("test".to_owned()),
    };
    world.pins.add(pin).unwrap();
    let _mark = world.in_use.mark(read);
    let mut worker = world.worker();
    evict(&mut worker, u64::MAX, None);
    let exists = |digest| world.layout().blob(&digest).exists();
    assert!(exists(pinned) && exists(read) && !exists(idle));
    assert_eq!(world.totals(), (2, 16));
    assert_eq!((world.metrics.evicted.get(), world.metrics.evicted_bytes.get()), (1, 4));
}

#[test]
fn a_blob_that_was_not_found_is_forgotten_unless_it_has_been_fetched_again() {
    let world = World::new();
    let digest = world.blob(b"12345");
    let mut worker = world.worker();
    worker.apply(Operation::Recheck(digest));
    assert_eq!(world.totals(), (1, 5), "it is there");
    fs::remove_file(world.layout().blob(&digest)).unwrap();
    worker.apply(Operation::Recheck(digest));
    assert_eq!(world.totals(), (0, 0));
    world.blob(b"12345");
    worker.apply(Operation::Recheck(digest));
    assert_eq!(world.totals(), (1, 5), "it is there again");
}

#[test]
fn a_file_that_cannot_be_removed_stays_counted_and_is_tried_again() {
    let world = World::new();
    let stuck = world.blob(b"stuck");
    let mut worker = world.worker();
    // As old as the other, and before it in the order.
    let file = world.layout().blob(&stuck);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let other = world.blob(b"other");
    worker.apply(add(b"other", 5));
    evict(&mut worker, 1, None);
    assert!(!world.layout().blob(&other).exists(), "the other goes instead");
    assert_eq!(world.totals(), (1, 5));
    assert_eq!((world.metrics.evicted.get(), world.metrics.eviction_failures.get()), (1, 1));
    fs::remove_dir(&file).unwrap();
    fs::write(&file, b"stuck").unwrap();
    assert_eq!(worker.evictable(None), Totals::default(), "no download may count on it");
    evict(&mut worker, 1, None);
    assert_eq!(
        (world.totals(), world.metrics.eviction_failures.get()),
        ((1, 5), 1),
        "not tried first each time"
    );
    world.clock.advance(STUCK_FOR);
    assert_eq!(worker.evictable(None), Totals { blobs: 1, bytes: 5 });
    evict(&mut worker, 1, None);
    assert_eq!(world.totals(), (0, 0));
    assert!(!file.exists());
}

#[test]
fn where_inodes_are_missing_so_many_blobs_go_and_the_small_ones_first() {
    let world = World::new();
    let large = world.blob(&[1; 100_000]);
    for n in 0..100_u8 {
        world.blob(&[n, n]);
    }
    let mut worker = world.worker();
    let wanted = Wanted { bytes: 0, blobs: 80, only: None };
    worker.apply(Operation::Evict(Box::new(Fixed(wanted))));
    while worker.evict_batch() {}
    assert_eq!(world.totals().0, 21);
    assert!(world.layout().blob(&large).exists());
}

#[test]
fn what_an_operator_removed_or_added_while_the_daemon_was_stopped_is_seen_at_a_clean_start() {
    let world = World::new();
    let removed = world.blob(b"12345");
    let kept = world.blob(b"123");
    world.worker().apply(Operation::Close);
    fs::remove_file(world.layout().blob(&removed)).unwrap();
    let added = world.blob(b"1234567");
    world.clock.advance(std::time::Duration::from_secs(60));
    let worker = world.worker();
    assert_eq!(world.totals(), (2, 10));
    assert!(worker.rows.row(&removed).is_none() && worker.rows.row(&added).is_some());
    assert_eq!(worker.rows.row(&kept).unwrap().used_at, Timestamp(1_000_000), "the rows were kept");
}

#[test]
fn a_new_database_is_filled_between_operations_and_has_every_row_at_the_next_start() {
    let world = World::new();
    let blobs: Vec<Digest> = (0..200_u32).map(|n| world.blob(&n.to_le_bytes())).collect();
    let mut worker = world.worker();
    assert_eq!(worker.on_disk.unwritten(), 200);
    worker.on_disk.fill(FILL_ROWS, &worker.rows);
    worker.apply(Operation::Remove(blobs[0]));
    world.blob(b"new");
    worker.apply(add(b"new", 3));
    fs::remove_file(world.layout().blob(&blobs[0])).unwrap();
    worker.apply(Operation::Close);
    drop(worker);
    let worker = world.worker();
    assert_eq!((worker.on_disk.unwritten(), worker.rows.len()), (0, 200));
    assert_eq!(world.metrics.index_rebuilds.get(), 0);
}

#[test]
fn the_blobs_of_one_registry_are_evicted_alone_also_after_the_index_was_lost() {
    let world = World::new();
    let registry = |name: &str| name.parse::<crate::reference::Registry>().unwrap();
    let (ours, theirs) = (registry("reg.test"), registry("evil.test"));
    for (registry, content) in [(&ours, &b"ours"[..]), (&theirs, b"theirs")] {
        let digest = world.blob(content);
        let received = world.layout().received(registry, &digest);
        fs::create_dir_all(received.parent().unwrap()).unwrap();
        fs::write(received, b"").unwrap();
    }
    let mut worker = world.worker();
    assert_eq!(world.totals.of(OwnerId::of(&theirs)).bytes, 6);
    evict(&mut worker, u64::MAX, Some(OwnerId::of(&theirs)));
    assert_eq!((world.totals(), world.totals.of(OwnerId::of(&theirs)).bytes), ((1, 4), 0));
    assert!(world.layout().blob(&Digest::of(b"ours")).exists());
}

#[test]
fn a_registry_that_delivers_what_another_one_delivered_does_not_become_its_owner() {
    let world = World::new();
    let mut worker = world.worker();
    worker.apply(add(b"x", 5));
    let stranger = Owner::limited(&"evil.test".parse().unwrap());
    let reserved = Some(Reservations::default().reserve(stranger, 5));
    worker.apply(Operation::Add { digest: Digest::of(b"x"), size: 5, owner: stranger.id, reserved });
    assert_eq!(world.totals.of(stranger.id).bytes, 0);
}

#[test]
fn what_is_pinned_or_being_read_does_not_count_as_evictable() {
    let world = World::new();
    let (read, _idle) = (world.blob(b"being read"), world.blob(b"idle"));
    let mark = world.in_use.mark(read);
    let worker = world.worker();
    assert_eq!(worker.evictable(None), Totals { blobs: 1, bytes: 4 });
    drop(mark);
    assert_eq!(worker.evictable(None), Totals { blobs: 2, bytes: 14 });
}

#[test]
fn an_eviction_is_done_in_batches_and_respects_what_has_come_to_be_read_between_them() {
    let world = World::new();
    let blobs: Vec<Digest> = (0..200_u8).map(|n| world.blob(&[n])).collect();
    let mut worker = world.worker();
    worker.apply(demand(u64::MAX, None));
    assert!(worker.evict_batch());
    assert_eq!(world.totals().0, 200 - BATCH_FILES as u64);
    let left: Vec<&Digest> = blobs.iter().filter(|digest| worker.rows.row(digest).is_some()).collect();
    let (read, removed) = (*left[0], *left[1]);
    let _mark = world.in_use.mark(read);
    fs::remove_file(world.layout().blob(&removed)).unwrap();
    worker.apply(Operation::Remove(removed));
    world.blob(b"new");
    worker.apply(add(b"new", 3));
    while worker.evict_batch() {}
    assert_eq!(world.totals(), (1, 1));
    assert!(worker.rows.row(&read).is_some() && world.layout().blob(&read).exists());
}

#[test]
fn a_large_blob_ends_its_batch() {
    let world = World::new();
    for n in 0..3_u8 {
        let file = fs::File::create(world.layout().blob(&Digest::of(&[n]))).unwrap();
        file.set_len(BATCH_BYTES - 1).unwrap();
    }
    let mut worker = world.worker();
    worker.apply(demand(u64::MAX, None));
    worker.evict_batch();
    assert_eq!(world.totals().0, 1);
}

#[test]
fn a_busy_thread_goes_on_with_an_eviction_and_an_eviction_holds_up_no_operation() {
    let world = World::new();
    for n in 0..=255_u8 {
        world.blob(&[n]);
    }
    let (queue, operations) = crate::support::sync::mpsc::sync_channel(1_000);
    queue.send(demand(u64::MAX, None)).unwrap();
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for _ in 0..3 * OPERATIONS_BETWEEN {
        let (seen, totals) = (Arc::clone(&seen), Arc::clone(&world.totals));
        let look = move |_: Evictable<'_>| seen.lock().push(totals.current().blobs);
        queue.send(Operation::Look(Box::new(look))).unwrap();
    }
    queue.send(Operation::Close).unwrap();
    world.worker().run(&operations);
    let mut seen = seen.lock().clone();
    seen.dedup();
    assert_eq!(seen, [256, 192, 128, 64]);
}

#[test]
fn what_runs_on_this_node_goes_last_and_the_budget_holds_all_the_same() {
    let world = World::new();
    let all: Vec<Digest> = [&b"aa"[..], b"bb", b"cc"].iter().map(|content| world.blob(content)).collect();
    let is_here = |digest: &Digest| world.layout().blob(digest).exists();
    let mut worker = world.worker();
    world.pins.protect([all[0], all[1]].into());
    worker.apply(Operation::EvictAhead(Box::new(Fixed(Wanted { bytes: 6, blobs: 0, only: None }))));
    while worker.evict_batch() {}
    assert_eq!(
        all.iter().map(is_here).collect::<Vec<_>>(),
        [true, true, false],
        "nothing goes ahead of need"
    );
    evict(&mut worker, 2, None);
    assert_eq!(all.iter().filter(|digest| is_here(digest)).count(), 1, "what is needed goes");
    world.pins.protect([].into());
    evict(&mut worker, 2, None);
    assert_eq!(world.totals(), (0, 0));
}
