//! Space is granted within the budget, nothing goes that need not, and no download waits for another one's eviction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::reference::{Algorithm, Digest};
use crate::store::budget::Amount;
use crate::store::budget::{Disk, Inodes};
use crate::store::layout::Layout;
use crate::store::metrics::Metrics;
use crate::store::read::in_use::InUse;
use crate::store::read::open_blobs::OpenBlobs;
use crate::store::records::pins::Pins;
use crate::support::clock::{Clock, Timestamp};
use crate::support::metrics::Registry;

#[path = "world_for_tests.rs"]
mod world;

use world::*;

#[test]
fn downloads_under_way_do_not_exceed_the_budget_together() {
    let world = World::new(budget(1_000, 0));
    let first = world.admission.reserve(ours(), 600).unwrap();
    assert!(matches!(world.admission.reserve(ours(), 600), Err(Error::Full { needed: 600 })));
    drop(first);
    assert!(world.admission.reserve(ours(), 600).is_ok(), "an abandoned download gives its bytes back");
}

#[test]
fn idle_blobs_are_evicted_for_new_content_but_not_for_content_that_never_fits() {
    let world = World::new(budget(1_000, 0));
    let reserved = world.admission.reserve(ours(), 600).unwrap();
    world.commit(&[1; 600], reserved);
    assert!(world.admission.reserve(ours(), 1_001).is_err());
    world.index.catch_up();
    assert_eq!(world.index.totals().bytes, 600, "nothing was evicted in vain");
    assert!(world.admission.reserve(ours(), 500).is_ok());
    assert_eq!(world.index.totals().bytes, 0);
}

#[test]
fn other_files_on_the_filesystem_refuse_new_content_and_evict_blobs() {
    let world = World::new(budget(5_000, 1_000));
    let reserved = world.admission.reserve(ours(), 600).unwrap();
    world.commit(&[1; 600], reserved);
    world.index.catch_up();
    let limits =
        StoreLimits { max_bytes: 5_000, free_bytes: 9_000, capacity_bytes: 5_000, lacks_inodes: false };
    assert_eq!(world.admission.limits(), Some(limits));
    world.free.store(100, Ordering::Relaxed);
    assert_eq!(world.admission.capacity(), 0);
    assert!(world.admission.reserve(ours(), 1).is_err());
    assert_eq!(world.admission.enforce_budget(), 600);
    assert_eq!(world.index.totals().bytes, 0);
}

#[test]
fn what_cannot_fit_beside_what_is_being_read_evicts_nothing() {
    let world = World::new(budget(1_000, 0));
    for content in [[1; 400], [2; 400]] {
        let reserved = world.admission.reserve(ours(), 400).unwrap();
        world.commit(&content, reserved);
    }
    let _read = world.in_use.mark(Digest::of(&[1; 400]));
    assert!(world.admission.check(ours(), 700).is_err());
    assert!(world.admission.reserve(ours(), 700).is_err());
    assert_eq!(world.index.totals().bytes, 800);
    assert!(world.admission.check(ours(), 600).is_ok());
    assert_eq!(world.index.totals().bytes, 800, "a check evicts nothing");
    assert!(world.admission.reserve(ours(), 600).is_ok());
    assert_eq!(world.index.totals().bytes, 400);
}

#[test]
fn bytes_in_flight_that_are_written_do_not_count_twice() {
    let world = World::new(budget(9_000, 1_000));
    let reserved = world.admission.reserve(ours(), 600).unwrap();
    world.commit(&[1; 600], reserved);
    let mut in_flight = world.admission.reserve(ours(), 4_000).unwrap();
    // Written: the filesystem has them already, and still as much as the rest and the floor need.
    in_flight.written(4_000);
    world.free.store(2_000, Ordering::Relaxed);
    in_flight.merge(world.admission.reserve(ours(), 1_000).unwrap());
    world.index.catch_up();
    assert_eq!(world.index.totals().bytes, 600, "nothing had to be evicted");
}

#[test]
fn damaged_blobs_in_quarantine_count_and_are_the_first_to_go() {
    let world = World::new(budget(1_000, 0));
    let reserved = world.admission.reserve(ours(), 400).unwrap();
    world.commit(&[1; 400], reserved);
    std::fs::create_dir(world.layout.quarantine()).unwrap();
    std::fs::write(world.layout.quarantine().join("aa.1"), [0; 500]).unwrap();
    world.admission.quarantine().measure();
    assert!(world.admission.check(ours(), 1_001).is_err());
    let _reserved = world.admission.reserve(ours(), 300).unwrap();
    world.index.catch_up();
    assert_eq!((world.index.totals().bytes, world.admission.quarantine().bytes()), (400, 0));
}

#[test]
fn a_registry_that_the_operator_did_not_name_pushes_out_its_own_blobs_once_it_has_its_share() {
    let world = World::new(budget(1_000, 0));
    let reserved = world.admission.reserve(ours(), 700).unwrap();
    world.commit(&[1; 700], reserved);
    for n in 0..20 {
        let reserved = world.admission.reserve(stranger(), 100).unwrap();
        world.commit(&[2 + n; 100], reserved);
    }
    // Our one large blob went for the stranger's share, and the rest of it lies free.
    let reserved = world.admission.reserve(ours(), 400).unwrap();
    world.commit(&[100; 400], reserved);
    for n in 0..20 {
        let reserved = world.admission.reserve(stranger(), 100).unwrap();
        world.commit(&[200 - n; 100], reserved);
    }
    world.index.catch_up();
    assert_eq!(world.index.bytes_of(ours().id), 400, "a stranger pushed out what others had stored");
}

#[test]
fn small_content_of_a_stranger_pushes_out_no_more_of_others_than_its_downloads_do() {
    let world = World::new(budget(1_000, 0));
    let reserved = world.admission.reserve(ours(), 400).unwrap();
    world.commit(&[1; 400], reserved);
    let small = Owner::limited_small(&"evil.test".parse().unwrap());
    for n in 0..40 {
        let reserved = world.admission.reserve(small, 100).unwrap();
        world.commit(&[2 + n; 100], reserved);
    }
    world.index.catch_up();
    assert_eq!(
        world.index.bytes_of(ours().id),
        400,
        "a stranger's manifests pushed out what others had stored"
    );
    // What its downloads hold at the time does not keep a manifest out while space lies free.
    let _downloads = world.admission.reserve(stranger(), 500).unwrap();
    assert!(world.admission.reserve(stranger(), 100).is_err());
    assert!(world.admission.reserve(small, 100).is_ok());
}

#[test]
fn strangers_together_do_not_push_out_all_that_others_have_stored() {
    let world = World::new(budget(1_000, 0));
    for n in 0..10 {
        let reserved = world.admission.reserve(ours(), 100).unwrap();
        world.commit(&[1 + n; 100], reserved);
    }
    for n in 0..40_u8 {
        let stranger = Owner::limited(&format!("evil{}.test", n % 8).parse().unwrap());
        if let Ok(reserved) = world.admission.reserve(stranger, 100) {
            world.commit(&[100 + n; 100], reserved);
        }
    }
    world.index.catch_up();
    let ours = world.index.bytes_of(ours().id);
    assert!(ours >= 200, "strangers left {ours} of 1,000 bytes");
}

#[test]
fn what_lay_free_and_was_taken_beyond_the_share_is_evicted_first() {
    let world = World::new(budget(1_000, 0));
    let reserved = world.admission.reserve(ours(), 100).unwrap();
    world.commit(&[1; 100], reserved);
    for n in 0..9 {
        let reserved = world.admission.reserve(stranger(), 100).unwrap();
        world.commit(&[2 + n; 100], reserved);
    }
    world.index.catch_up();
    assert_eq!(world.index.bytes_of(stranger().id), 900, "nothing else wanted the space");
    let _reserved = world.admission.reserve(ours(), 300).unwrap();
    assert_eq!((world.index.bytes_of(ours().id), world.index.bytes_of(stranger().id)), (100, 600));
}

#[test]
fn downloads_of_strangers_leave_room_that_others_can_have() {
    let world = World::new(budget(1_000, 0));
    let _first = world.admission.reserve(stranger(), 500).unwrap();
    assert!(world.admission.reserve(stranger(), 1).is_err(), "more than its share in flight");
    let other = Owner::limited(&"other.test".parse().unwrap());
    assert!(world.admission.reserve(other, 251).is_err(), "more than all of them may have in flight");
    let _second = world.admission.reserve(other, 250).unwrap();
    assert!(world.admission.reserve(ours(), 250).is_ok());
    assert!(world.admission.check(stranger(), 501).is_err());
}

#[test]
fn a_registry_that_a_reload_names_takes_nothing_of_the_share_of_those_that_have_no_name() {
    let world = World::new(budget(1_000, 0));
    for n in 0..9 {
        let reserved = world.admission.reserve(stranger(), 100).unwrap();
        world.commit(&[n; 100], reserved);
    }
    let other = Owner::limited(&"other.test".parse().unwrap());
    assert!(world.admission.reserve(other, 200).is_err(), "strangers together have their share");
    let manifest = Owner::unlimited(&"evil.test".parse().unwrap());
    drop(world.admission.reserve(manifest, 1).unwrap());
    assert!(
        world.admission.reserve(other, 200).is_err(),
        "a manifest of a stranger lifts the limit of strangers"
    );
    let named = Owner::named(&"evil.test".parse().unwrap());
    drop(world.admission.reserve(named, 1).unwrap());
    assert!(world.admission.space.excesses().is_empty(), "what it holds is evicted first for no other");
    assert!(
        world.admission.reserve(other, 200).is_ok(),
        "the only stranger is refused for what another holds"
    );
    assert_eq!(world.index.bytes_of(named.id), 800);
}

/// Fills the store of [`World`] with so many blobs of 100 bytes.
fn fill(world: &World, blobs: u8) {
    for n in 0..blobs {
        let reserved = world.admission.reserve(ours(), 100).unwrap();
        world.commit(&[n; 100], reserved);
    }
}

#[test]
fn a_slow_eviction_keeps_no_other_download_from_space_that_is_free() {
    let world = Arc::new(World::new(budget(1_000, 0)));
    fill(&world, 5);
    let busy = world.index.hold_up();
    let waiting = std::thread::spawn({
        let world = Arc::clone(&world);
        move || drop(world.admission.reserve(ours(), 600))
    });
    // It has asked by then.
    while world.admission.space.asked() < 6 {
        std::thread::yield_now();
    }
    for _ in 0..100 {
        world.admission.reserve(ours(), 500).unwrap();
    }
    assert!(!waiting.is_finished(), "it waits for the thread, and the others did not");
    busy.recv().unwrap();
    waiting.join().unwrap();
}

#[test]
fn a_download_that_has_waited_long_enough_is_refused_and_the_eviction_goes_on() {
    let world = World::new(budget(1_000, 0));
    fill(&world, 10);
    let busy = world.index.hold_up();
    assert!(matches!(world.admission.reserve(ours(), 300), Err(Error::Full { needed: 300 })));
    assert!(world.admission.check(ours(), 300).is_err(), "it is not known whether there is room");
    assert_eq!(world.index.totals().bytes, 1_000);
    busy.recv().unwrap();
    world.index.settle();
    assert_eq!(world.index.totals().bytes, 700, "for the next one");
    let _reserved = world.admission.reserve(ours(), 300).unwrap();
    assert_eq!(world.index.totals().bytes, 700, "nothing is left of what was given up");
}

#[test]
fn what_became_free_while_an_eviction_waited_is_not_evicted_as_well() {
    let world = World::new(budget(1_000, 0));
    fill(&world, 4);
    let ended = world.admission.reserve(ours(), 600).unwrap();
    let busy = world.index.hold_up();
    let claim = world.admission.claim(ours(), 600);
    drop(ended);
    busy.recv().unwrap();
    assert!(matches!(claim.recv(), Ok(Granted::Reserved(reserved)) if reserved.bytes() == 600));
    assert_eq!(world.index.totals().bytes, 400);
}

#[test]
fn a_filesystem_that_shows_later_what_was_freed_costs_no_further_blob() {
    let world = World::new(budget(9_000, 1_000));
    fill(&world, 10);
    world.free.store(900, Ordering::Relaxed);
    let claim = world.admission.claim(ours(), 100);
    assert!(matches!(claim.recv(), Ok(Granted::NotFreeYet)));
    assert_eq!(world.index.totals().bytes, 800, "as much as was missing");
    world.free.store(1_100, Ordering::Relaxed);
    assert!(world.admission.reserve(ours(), 100).is_ok());
    assert_eq!(world.admission.enforce_budget(), 0);
    assert_eq!(world.index.totals().bytes, 800);
}

#[test]
fn blobs_are_evicted_ahead_of_need_from_the_high_watermark_to_the_low_one_while_no_download_asks() {
    let world = World::new(budget(10_000, 0));
    let look = || {
        world.admission.evict_ahead();
        world.index.settle();
        world.index.totals().bytes
    };
    fill(&world, 95);
    assert_eq!((look(), look()), (9_500, 9_500), "not over the high watermark");
    fill(&world, 96);
    assert_eq!(look(), 9_600, "a download has asked since the last look");
    assert_eq!(look(), 9_000, "down to the low watermark");
    assert_eq!(look(), 9_000, "and no further");
    // What is reserved and has not come yet is no need.
    let mut reserved = world.admission.reserve(ours(), 900).unwrap();
    assert_eq!((look(), look()), (9_000, 9_000));
    reserved.written(600);
    assert_eq!(look(), 8_400);
}

#[test]
fn an_eviction_ahead_of_need_ends_when_a_download_asks_for_space() {
    let world = World::new(budget(10_000, 0));
    fill(&world, 100);
    let busy = world.index.hold_up();
    world.admission.evict_ahead();
    world.admission.evict_ahead();
    world.admission.space.note_asked();
    busy.recv().unwrap();
    world.index.settle();
    assert_eq!(world.index.totals().bytes, 10_000);
}

#[test]
fn a_filesystem_without_inodes_is_one_without_space_and_blobs_go_for_what_is_new() {
    let world = World::new(budget(9_000, 0));
    fill(&world, 10);
    // Two for each blob that goes, and eight that what is new needs: the filesystem shows them later.
    world.free_inodes.store(60, Ordering::Relaxed);
    let claim = world.admission.claim(ours(), 100);
    assert!(matches!(claim.recv(), Ok(Granted::NotFreeYet)));
    assert_eq!(world.index.totals().blobs, 6, "as many as were missing");
    world.free_inodes.store(68, Ordering::Relaxed);
    assert!(world.admission.reserve(ours(), 100).is_ok());
    assert!(!world.admission.is_short_of_inodes());

    world.free_inodes.store(50, Ordering::Relaxed);
    assert!(matches!(world.admission.check(ours(), 1), Err(Error::NoInodes)), "six blobs are not enough");
    assert!(matches!(world.admission.reserve(ours(), 1), Err(Error::NoInodes)));
    assert_eq!(world.index.totals().blobs, 6, "nothing goes in vain");
    assert!(world.admission.is_short_of_inodes() && world.admission.limits().unwrap().lacks_inodes);
    assert_eq!(world.admission.capacity(), 0);
    world.admission.enforce_budget();
    assert_eq!(world.index.totals().blobs, 1, "the store gives way before kubelet evicts a pod");
}

#[test]
fn where_all_blobs_give_back_too_few_inodes_the_node_keeps_them_and_only_bytes_over_the_budget_go() {
    let world = World::new(budget(9_000, 0));
    fill(&world, 10);
    // Twenty-two are missing, which eleven blobs would give back.
    world.free_inodes.store(38, Ordering::Relaxed);
    assert_eq!(world.admission.enforce_budget(), 0);
    world.admission.evict_ahead();
    world.index.settle();
    assert_eq!(world.index.totals().blobs, 10, "all were evicted in vain");
    world.free_inodes.store(40, Ordering::Relaxed);
    world.admission.enforce_budget();
    assert_eq!(world.index.totals().blobs, 0, "ten are enough");
}

#[test]
fn a_large_blob_that_is_asked_for_once_takes_the_place_of_no_others() {
    const LARGE: u64 = 1 << 30;
    let world = World::new(budget(u64::MAX, 0));
    fill(&world, 5);
    let large = Digest::of(b"large");
    let ask =
        |digest: Digest, bytes, at| world.admission.pass_by_unless_asked_before(digest, bytes, Timestamp(at));
    world.free.store(LARGE, Ordering::Relaxed);
    assert!(!ask(large, LARGE, 1_000), "it finds space");
    world.free.store(LARGE - 1, Ordering::Relaxed);
    assert!(!ask(Digest::of(b"small"), LARGE / 20, 1_000));
    assert!(world.admission.is_passed_by(large, LARGE, Timestamp(1_000)));
    assert!(ask(large, LARGE, 1_000), "others would have to go");
    assert!(!ask(large, LARGE, 5_000), "it is asked for again");
}
