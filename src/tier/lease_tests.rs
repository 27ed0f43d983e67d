//! Leases, claims and waits over an object store in memory, in a time of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::for_tests::{FakeObjects, MIB, Op, read, registry, write};
use super::{ClaimSlot, ErrorKind, Progress, Role, Tier};
use crate::reference::Digest;

async fn role(tier: &Tier, digest: Digest) -> Role {
    tier.role(&registry(), digest, 20).await
}

#[tokio::test(start_paused = true)]
async fn others_wait_for_the_writer_and_take_over_when_it_is_gone() {
    let objects = FakeObjects::default();
    let [one, two, three] = [objects.tier(), objects.tier(), objects.tier()];
    let digest = Digest::of(b"content");
    let Role::Writer(claim) = role(&one, digest).await else { panic!("the first one writes") };
    let Role::Waiter(found, slot) = role(&two, digest).await else { panic!("the second one waits") };
    let waiting = tokio::spawn(read(found));
    // Renewed, it holds for longer than a silent one would.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!waiting.is_finished() && !slot.is_held());
    // As after `kill -9`: nothing renews it any more.
    let lease = objects.keys("leases").remove(0);
    let frozen = objects.content(&lease).unwrap();
    claim.release();
    tokio::time::sleep(Duration::from_millis(1)).await;
    objects.replace(&lease, frozen);
    let Role::Waiter(found, third) = role(&three, digest).await else { panic!("the third one waits") };
    let mut waiting = waiting;
    let mut also_waiting = tokio::spawn(read(found));
    let gave_up = tokio::select! {
        ended = &mut waiting => ended,
        ended = &mut also_waiting => ended,
    };
    assert_eq!(gave_up.unwrap(), Err(ErrorKind::GaveUp));
    assert_ne!(slot.is_held(), third.is_held(), "one of them takes over");
    let (writer, held, other) =
        if slot.is_held() { (&two, slot, also_waiting) } else { (&three, third, waiting) };
    write(writer, b"content").await;
    held.release();
    // Of another size than the lease was about.
    assert_eq!(other.await.unwrap(), Err(ErrorKind::GaveUp));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_gets_what_the_writer_wrote() {
    let objects = FakeObjects::default();
    let [one, two] = [objects.tier(), objects.tier()];
    let digest = Digest::of(&[7; 20]);
    let Role::Writer(claim) = role(&one, digest).await else { panic!() };
    let Role::Waiter(found, slot) = role(&two, digest).await else { panic!() };
    let waiting = tokio::spawn(read(found));
    tokio::time::sleep(Duration::from_secs(5)).await;
    write(&one, &[7; 20]).await;
    claim.release();
    assert_eq!(waiting.await.unwrap(), Ok(vec![7; 20]));
    assert!(!slot.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_gives_up_is_followed_by_a_waiter() {
    let objects = FakeObjects::default();
    let [one, two] = [objects.tier(), objects.tier()];
    let digest = Digest::of(b"content");
    let Role::Writer(claim) = role(&one, digest).await else { panic!() };
    let Role::Waiter(found, slot) = role(&two, digest).await else { panic!() };
    claim.release();
    assert_eq!(read(found).await, Err(ErrorKind::GaveUp));
    assert!(slot.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_creates_twice_or_fails_makes_every_node_ask_the_registry() {
    let objects = FakeObjects::default();
    objects.create_twice();
    let [one, two] = [objects.tier(), objects.tier()];
    let digest = Digest::of(b"content");
    let first = role(&one, digest).await;
    // Both looked before either had written.
    objects.fail_at(Op::Get, "leases", ErrorKind::NotFound, 1);
    let second = role(&two, digest).await;
    assert!(matches!((first, second), (Role::Writer(_), Role::Writer(_))));
    objects.fail(Some(ErrorKind::Unsupported));
    assert!(matches!(role(&one, Digest::of(b"other")).await, Role::Alone));
    objects.fail(None);
    // A lease that is not renewed delays a node that may not write by seconds, and no longer than that.
    let reader = objects.tier_with(|config| config.write = false);
    let digest = Digest::of(b"third");
    let Role::Writer(claim) = role(&one, digest).await else { panic!() };
    let Role::Waiter(found, _) = role(&reader, digest).await else { panic!() };
    let lease = objects.keys("leases").remove(0);
    objects.remove(&lease);
    drop(claim);
    assert_eq!(read(found).await, Err(ErrorKind::GaveUp));
}

/// A lease of a writer of which nothing else is left.
async fn left_behind(objects: &FakeObjects, digest: Digest) -> String {
    let Role::Writer(claim) = role(&objects.tier(), digest).await else { panic!() };
    let lease = objects.keys("leases").remove(0);
    let frozen = objects.content(&lease).unwrap();
    claim.release();
    tokio::time::sleep(Duration::from_millis(1)).await;
    objects.replace(&lease, frozen);
    lease
}

async fn wait_of(tier: &Tier, digest: Digest) -> (Result<Vec<u8>, ErrorKind>, ClaimSlot, Duration) {
    let begun = tokio::time::Instant::now();
    let Role::Waiter(found, slot) = role(tier, digest).await else { panic!("it waits") };
    (read(found).await, slot, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_node_with_many_slow_downloads_leases_each_and_no_other_node_downloads_them() {
    let objects = FakeObjects::default();
    let one = objects.tier_with(|config| config.uploads = 1);
    let mut claims = Vec::new();
    for at in 0..20_u8 {
        let Role::Writer(claim) = role(&one, Digest::of(&[at])).await else { panic!("layer {at}") };
        claims.push(claim);
    }
    assert_eq!(objects.keys("leases").len(), 20);
    // While one part of the first one is under way.
    let upload = one.begin_upload(&registry(), Digest::of(&[0]), 20 * MIB as u64).await.unwrap();
    let _permit = upload.permit().await.unwrap();
    assert!(matches!(role(&objects.tier(), Digest::of(&[19])).await, Role::Waiter(..)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_states_what_is_received_although_nothing_is_uploaded() {
    let objects = FakeObjects::default();
    let Role::Writer(claim) = role(&objects.tier(), Digest::of(b"content")).await else { panic!() };
    claim.report(|| Progress { received: 12_000, yields: false });
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lease = objects.content(&objects.keys("leases")[0]).unwrap();
    let lease: super::lease::Lease = serde_json::from_slice(&lease).unwrap();
    assert_eq!((lease.renewals, lease.done, lease.rate), (1, 12_000, 4_000));
}

#[tokio::test(start_paused = true)]
async fn nodes_that_find_a_lease_do_not_try_to_write_it() {
    let objects = FakeObjects::default();
    let digest = Digest::of(b"content");
    let Role::Writer(_claim) = role(&objects.tier(), digest).await else { panic!() };
    for _ in 0..10 {
        assert!(matches!(role(&objects.tier(), digest).await, Role::Waiter(..)));
    }
    assert_eq!(objects.asked(Op::Put, "leases"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_may_not_write_so_often_is_looked_at() {
    let objects = FakeObjects::default();
    let digest = Digest::of(b"content");
    objects.fail_at(Op::Put, "leases", ErrorKind::Throttled, 1);
    assert!(matches!(role(&objects.tier(), digest).await, Role::Alone), "there is none");
    let tier = objects.tier();
    let digest = write(&tier, b"another").await;
    objects.fail_at(Op::Put, "leases", ErrorKind::Throttled, 1);
    assert!(matches!(role(&tier, digest).await, Role::Alone));
    assert!(
        objects.keys("blobs").len() == 1 && tier.wants(&registry(), Digest::of(b"x"), 1),
        "uploads go on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_gone_costs_a_node_that_may_not_write_one_wait() {
    let objects = FakeObjects::default();
    let digest = Digest::of(b"content");
    left_behind(&objects, digest).await;
    let reader = objects.tier_with(|config| config.write = false);
    let (waited, _, lasted) = wait_of(&reader, digest).await;
    assert_eq!(waited, Err(ErrorKind::GaveUp));
    assert!(lasted >= Duration::from_secs(12));
    assert!(matches!(role(&reader, digest).await, Role::Alone), "it is known to be silent");
    // A writer takes the lease over, and the node waits for that one.
    let (_, slot, _) = wait_of(&objects.tier(), digest).await;
    assert!(slot.is_held() && matches!(role(&reader, digest).await, Role::Waiter(..)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_may_not_be_deleted_ends_the_wait() {
    let objects = FakeObjects::default();
    let digest = Digest::of(b"content");
    left_behind(&objects, digest).await;
    let tier = objects.tier();
    objects.fail_at(Op::Delete, "leases", ErrorKind::Denied, usize::MAX);
    let (waited, slot, lasted) = wait_of(&tier, digest).await;
    assert_eq!((waited, slot.is_held()), (Err(ErrorKind::GaveUp), false));
    assert!(lasted < Duration::from_secs(20), "{lasted:?}");
    let (waited, _, lasted) = wait_of(&tier, digest).await;
    assert_eq!(waited, Err(ErrorKind::GaveUp));
    assert!(lasted < Duration::from_secs(2), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_writer_could_not_give_its_lease_back_is_found_before_it_counts_as_gone() {
    let objects = FakeObjects::default();
    let content = [7; 20];
    let digest = Digest::of(&content);
    left_behind(&objects, digest).await;
    let tier = objects.tier();
    let Role::Waiter(found, _) = role(&tier, digest).await else { panic!() };
    write(&objects.tier(), &content).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(read(found).await, Ok(content.to_vec()));
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_node_took_over_is_neither_renewed_nor_deleted() {
    let objects = FakeObjects::default();
    let Role::Writer(claim) = role(&objects.tier(), Digest::of(b"content")).await else { panic!() };
    let lease = objects.keys("leases").remove(0);
    let of_another = Bytes::from_static(br#"{"nonce":0,"renewals":5,"size":20,"done":1,"rate":1}"#);
    objects.replace(&lease, of_another.clone());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(objects.content(&lease), Some(of_another.clone()), "not renewed");
    claim.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(objects.content(&lease), Some(of_another), "not deleted");
}

#[tokio::test(start_paused = true)]
async fn one_look_that_fails_does_not_end_a_wait() {
    let objects = FakeObjects::default();
    let content = [7; 20];
    let digest = Digest::of(&content);
    let one = objects.tier();
    let Role::Writer(claim) = role(&one, digest).await else { panic!() };
    let Role::Waiter(found, _) = role(&objects.tier(), digest).await else { panic!() };
    objects.fail_at(Op::Get, "leases", ErrorKind::TimedOut, 2);
    let waiting = tokio::spawn(read(found));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished());
    write(&one, &content).await;
    claim.release();
    assert_eq!(waiting.await.unwrap(), Ok(content.to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_slow_to_send_what_it_has_is_not_waited_for_by_one_layer_after_the_other() {
    let objects = FakeObjects::default();
    let [one, two] = [objects.tier(), objects.tier()];
    let begun = tokio::time::Instant::now();
    for (content, wait_max) in [(b"one", 25), (b"two", 2)] {
        let digest = Digest::of(content);
        let Role::Writer(claim) = role(&one, digest).await else { panic!() };
        claim.report(|| Progress { received: 20, yields: true });
        let waited = wait_of(&two, digest).await;
        assert_eq!(waited.0, Err(ErrorKind::GaveUp));
        assert!(waited.2 < Duration::from_secs(wait_max), "{:?} {:?}", waited.2, begun.elapsed());
        claim.release();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_does_not_wait_for_what_another_node_downloads_in_the_background_and_puts_off() {
    let objects = FakeObjects::default();
    let [one, two] = [objects.tier(), objects.tier()];
    let digest = Digest::of(b"content");
    let Role::Writer(claim) = role(&one, digest).await else { panic!() };
    let yields = Arc::new(AtomicBool::new(false));
    claim.report({
        let yields = Arc::clone(&yields);
        move || Progress { received: 10, yields: yields.load(Ordering::Relaxed) }
    });
    // For a moment, which says little.
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    yields.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(200)).await;
    yields.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(objects.keys("leases").len(), 1);
    yields.store(true, Ordering::Relaxed);
    let (waited, slot, lasted) = wait_of(&two, digest).await;
    assert_eq!(
        (waited, slot.is_held()),
        (Err(ErrorKind::GaveUp), true),
        "it downloads the blob, and the others wait for it"
    );
    assert!(lasted < Duration::from_secs(12), "{lasted:?}");
    assert!(matches!(role(&objects.tier(), digest).await, Role::Waiter(..)));
    claim.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(objects.keys("leases").len(), 1, "the lease is not the first node's any more");
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_is_slow_to_answer_each_request_costs_a_layer_no_more_than_one_that_does_not() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    objects.answer_after(Duration::from_millis(1_600));
    let begun = tokio::time::Instant::now();
    for content in 0..10_u8 {
        assert!(matches!(role(&tier, Digest::of(&[content])).await, Role::Alone));
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(objects.requests() <= 3, "{}", objects.requests());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_deletes_nothing_makes_no_node_wait_for_a_dead_lease_for_ever() {
    let objects = FakeObjects::default();
    let digest = Digest::of(b"content");
    left_behind(&objects, digest).await;
    objects.keep_deleted();
    let (wait_max, tier) = (Duration::from_secs(40), objects.tier());
    let waited = tokio::time::timeout(wait_max * 3, wait_of(&tier, digest)).await;
    let (read, slot, took) = waited.expect("it waits on");
    assert_eq!((read, slot.is_held()), (Err(ErrorKind::GaveUp), false));
    assert!(took >= wait_max, "{took:?}");
}
