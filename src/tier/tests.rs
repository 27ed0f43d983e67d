//! The tier over an object store in memory, in a time of the test's own.

use std::time::Duration;

use bytes::Bytes;

use super::for_tests::{FakeObjects, MIB, Op, look, read, registry, send, write};
use super::{ErrorKind, Fault, Lookup};
use crate::reference::{Digest, Registry};
use crate::support::byte_budget::ByteBudget;
use crate::support::clock::Timestamp;

#[tokio::test]
async fn parts_are_equal_but_the_last_and_nothing_is_there_before_the_end() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    for (len, parts) in [(0, 0), (1, 0), (8 * MIB, 0), (8 * MIB + 1, 2), (16 * MIB, 2), (20 * MIB, 3)] {
        let before = objects.parts().len();
        let content = vec![7; len];
        let digest = write(&tier, &content).await;
        assert_eq!(look(&tier, digest).await.unwrap(), content);
        let written = objects.parts()[before..].to_vec();
        assert_eq!(written.len(), parts, "{len}");
        assert!(
            written.iter().rev().skip(1).all(|part| *part == 8 * MIB) && !written.contains(&0),
            "{written:?}"
        );
    }
    let digest = Digest::of(b"given up");
    let upload = tier.begin_upload(&registry(), digest, 20 * MIB as u64).await.unwrap();
    send(upload, &vec![7; 20 * MIB], false).await;
    tokio::task::yield_now().await;
    assert_eq!((look(&tier, digest).await, objects.aborted()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_fails_is_left_alone_and_asked_again_later() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    let digest = write(&tier, b"content").await;
    objects.fail(Some(ErrorKind::Throttled));
    for _ in 0..10 {
        assert!(matches!(tier.blob(&registry(), digest).await, Lookup::Unavailable));
    }
    let requests = objects.requests();
    assert_eq!(tier.status().unwrap().reading_fails.unwrap().kind, "throttled");
    objects.fail(None);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(look(&tier, digest).await.unwrap(), b"content");
    assert_eq!(objects.requests(), requests + 1);
    assert_eq!(tier.status().unwrap().reading_fails, None);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_object_is_deleted_and_not_read_again_for_a_while() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    let digest = write(&tier, b"content").await;
    tier.record_fault(&registry(), digest, Fault::Wrong);
    tier.finish(Duration::from_secs(1)).await;
    assert!(objects.keys("blobs").is_empty());
    let late = objects.tier_with(|config| config.write = false);
    objects.replace("larder/v1/blobs/x", "other");
    late.record_fault(&registry(), digest, Fault::Wrong);
    late.finish(Duration::from_secs(1)).await;
    assert_eq!(objects.keys("blobs").len(), 1, "a node that may not write deletes nothing");
}

#[tokio::test(start_paused = true)]
async fn manifests_and_small_blobs_do_not_wait_for_layers() {
    let objects = FakeObjects::default();
    let tier = objects.tier_with(|config| config.uploads = 1);
    let layer = Digest::of(b"layer");
    let upload = tier.begin_upload(&registry(), layer, 20 * MIB as u64).await.unwrap();
    let _permit = upload.permit().await.unwrap();
    let begun = tokio::time::Instant::now();
    for at in 0..20_u8 {
        let content = Bytes::copy_from_slice(&[at; 100]);
        tier.write_manifest(&registry(), Digest::of(&content), content);
    }
    write(&tier, b"small").await;
    tier.finish(Duration::from_secs(1)).await;
    assert_eq!((objects.keys("manifests").len(), objects.keys("blobs").len()), (20, 1));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn no_more_parts_are_in_memory_than_there_are_permits() {
    let objects = FakeObjects::default();
    let tier = objects.tier_with(|config| config.uploads = 2);
    let mut uploads = Vec::new();
    for at in 0..3_u8 {
        uploads.push(tier.begin_upload(&registry(), Digest::of(&[at]), 20 * MIB as u64).await.unwrap());
    }
    let first = uploads[0].permit().await.unwrap();
    let _second = uploads[1].permit().await.unwrap();
    let third = tokio::time::timeout(Duration::from_secs(60), uploads[2].permit()).await;
    assert!(third.is_err(), "a third part would be read");
    uploads[0].send(vec![7; 8 * MIB], first).await.unwrap();
    assert!(uploads[2].permit().await.is_some(), "the first part is sent");
    // That one is in memory no more: the next takes its permit, and a part that waits for minutes is given up.
    let _third = uploads[2].permit().await.unwrap();
    assert!(uploads[0].permit().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_stall_blob_after_blob_make_a_node_leave_the_tier_alone_for_longer_each_time() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    let mut digests = Vec::new();
    for at in 0..5_u8 {
        digests.push(write(&tier, &vec![at; 2 * MIB]).await);
    }
    objects.stall_after(Some(MIB));
    for (at, digest) in digests.iter().enumerate() {
        let pause = Duration::from_secs(1 << at);
        assert_eq!(look(&tier, *digest).await, None);
        assert_eq!(objects.asked(Op::Get, "blobs"), at + 1);
        assert_eq!(tier.status().unwrap().reading_fails.unwrap().kind, "timed_out");
        tokio::time::advance(pause - Duration::from_millis(100)).await;
        assert!(matches!(tier.blob(&registry(), *digest).await, Lookup::Unavailable), "after {at}");
        tokio::time::advance(pause).await;
    }
    objects.stall_after(None);
    assert_eq!(look(&tier, digests[0]).await.unwrap().len(), 2 * MIB);
    assert!(tier.status().unwrap().reading_fails.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_is_slower_than_the_registry_costs_seconds_and_is_passed_by_for_that_registry() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    let content = vec![7; 20 * MIB];
    let digest = write(&tier, &content).await;
    let other: Registry = "other.test".parse().unwrap();
    // 2 MB/s, in chunks of 10 kB.
    objects.pause_before_chunks(Duration::from_millis(5));
    assert_eq!(look(&tier, digest).await.unwrap(), content, "faster than nothing that is known");
    tier.record_pace(&registry(), 100_000_000, Duration::from_secs(1));
    let Lookup::Found(found) = tier.blob(&registry(), digest).await else { panic!("it is there") };
    let begun = tokio::time::Instant::now();
    assert_eq!(read(found).await, Err(ErrorKind::Slower));
    let lost = begun.elapsed();
    assert!(lost >= Duration::from_secs(5) && lost < Duration::from_secs(6), "{lost:?}");
    assert!(matches!(tier.blob(&registry(), digest).await, Lookup::Unavailable));
    assert!(matches!(tier.blob(&other, digest).await, Lookup::Absent), "another registry may be slower");
    tokio::time::advance(Duration::from_secs(300)).await;
    objects.pause_before_chunks(Duration::ZERO);
    assert_eq!(look(&tier, digest).await.unwrap(), content, "it is tried again");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_break_off_make_a_node_leave_the_tier_alone() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    let digests = [write(&tier, &[1; 2 * MIB]).await, write(&tier, &[2; 2 * MIB]).await];
    let small = write(&tier, b"a small").await;
    objects.break_off_after(Some(MIB));
    assert_eq!(look(&tier, digests[0]).await, None);
    assert!(matches!(tier.blob(&registry(), digests[1]).await, Lookup::Unavailable));
    assert!(tier.status().unwrap().reading_fails.is_some());
    objects.break_off_after(None);
    tokio::time::advance(Duration::from_secs(2)).await;
    // As every pull begins with one: it takes the test from no layer.
    assert_eq!(look(&tier, small).await.unwrap().len(), 7);
    assert_eq!(look(&tier, digests[1]).await.unwrap().len(), 2 * MIB);
    assert!(tier.status().unwrap().reading_fails.is_none());
}

#[tokio::test]
async fn what_was_written_a_moment_ago_and_what_is_not_ours_is_not_deleted() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    write(&tier, b"content").await;
    objects.replace("other/object", "x");
    objects.replace("larder/v0/blobs/sha256/ab/x", "x");
    let kept = tier.collect(Duration::from_secs(1)).await.unwrap();
    assert_eq!((kept.deleted, kept.kept, kept.kept_bytes), (0, 1, 7));
    assert!(objects.keys("probe").is_empty());
    let reader = objects.tier_with(|config| config.write = false);
    assert_eq!(reader.collect(Duration::ZERO).await.unwrap_err().kind, ErrorKind::Denied);
}

#[tokio::test]
async fn what_no_node_has_used_for_a_while_is_deleted_and_nothing_else_is() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    let mut keys = Vec::new();
    for content in [&b"unused"[..], b"used", b"new", b"used before"] {
        let digest = write(&tier, content).await;
        keys.extend(objects.keys("blobs").into_iter().filter(|key| key.contains(&digest.hex())));
    }
    let days = |days: u64| Timestamp(days * 86_400);
    objects.set_now(days(100));
    for (key, written, used) in
        [(&keys[0], 1, None), (&keys[1], 1, Some(90)), (&keys[2], 99, None), (&keys[3], 1, Some(50))]
    {
        objects.date(key, days(written));
        if let Some(used) = used {
            let mark = key.replace("/blobs/", "/used/");
            objects.replace(&mark, "");
            objects.date(&mark, days(used));
        }
    }
    let collected = tier.collect(30 * Duration::from_secs(86_400)).await.unwrap();
    assert_eq!((collected.deleted, collected.deleted_bytes, collected.kept), (2, 17, 2));
    assert_eq!(
        keys.iter().map(|key| objects.content(key).is_some()).collect::<Vec<_>>(),
        [false, true, true, false]
    );
    assert_eq!(objects.keys("used"), [keys[1].replace("/blobs/", "/used/")]);
}

#[tokio::test]
async fn records_marks_and_probes_that_are_of_no_use_any_more_do_not_fill_the_store() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    write(&tier, b"content").await;
    let blob = objects.keys("blobs").remove(0);
    let mark = blob.replace("/blobs/", "/used/");
    let orphan = "larder/v1/used/sha256/ab/x/y";
    let (record, probe) = ("larder/v1/names/ab/abcd", "larder/v1/probe/01");
    let now = Timestamp(100 * 86_400);
    for key in [&mark, orphan, record, probe] {
        objects.replace(key, "");
    }
    // The time of the store is that of an object that is written now: here the usual one.
    let day = Duration::from_secs(86_400);
    objects.set_now(now);
    objects.date(&blob, now);
    for (at, left) in [(now, 4), (Timestamp(1), 1)] {
        for key in [&mark, orphan, record, probe] {
            objects.date(key, at);
        }
        tier.collect(30 * day).await.unwrap();
        let kinds = ["used", "names", "probe"];
        assert_eq!(kinds.iter().flat_map(|kind| objects.keys(kind)).count(), left, "{at:?}");
    }
    assert_eq!((objects.keys("used"), objects.keys("blobs")), (vec![mark], vec![blob]));
}

#[tokio::test]
async fn a_store_that_answers_a_miss_with_refused_access_is_no_tier_that_works() {
    let objects = FakeObjects::default();
    objects.hide_absence();
    let failed = objects.tier().probe().await.unwrap_err();
    assert_eq!(
        (failed.step.as_str(), failed.error.kind),
        ("look for an object that is not there", ErrorKind::Denied)
    );
}

#[tokio::test]
async fn a_round_trip_names_the_step_that_fails() {
    let objects = FakeObjects::default();
    assert!(objects.tier().probe().await.unwrap().creates_once);
    assert!(objects.keys("probe").is_empty());
    objects.create_twice();
    assert!(!objects.tier().probe().await.unwrap().creates_once);
    objects.fail_at(Op::Put, "probe", ErrorKind::Denied, 1);
    let failed = objects.tier().probe().await.unwrap_err();
    assert_eq!((failed.step.as_str(), failed.error.kind), ("write", ErrorKind::Denied));
    objects.fail(Some(ErrorKind::Denied));
    let failed = objects.tier().probe().await.unwrap_err();
    assert_eq!(
        (failed.step.as_str(), failed.error.kind),
        ("look for an object that is not there", ErrorKind::Denied)
    );
}

/// Room for one large manifest.
fn memory() -> ByteBudget<String> {
    ByteBudget::new(MIB, MIB)
}

#[tokio::test(start_paused = true)]
async fn however_many_large_manifests_are_asked_for_their_memory_is_bounded() {
    let (objects, memory, registry) = (FakeObjects::default(), memory(), registry());
    let tier = objects.tier();
    let mut digests = Vec::new();
    for first in [1_u8, 2] {
        let content = Bytes::from(vec![first; MIB]);
        digests.push(Digest::of(&content));
        tier.write_manifest(&registry, Digest::of(&content), content);
    }
    tier.finish(Duration::from_secs(1)).await;
    let tier = objects.tier();
    let read = |digest| tier.manifest(&registry, digest, 4 * MIB, &memory);
    let (first, _) = read(digests[0]).await.unwrap();
    assert!(read(digests[1]).await.is_none(), "there is memory for one");
    drop(first);
    assert!(read(digests[1]).await.is_some());
    objects.pause_before_chunks(Duration::from_secs(1));
    let begun = tokio::time::Instant::now();
    assert!(tier.manifest(&registry, digests[1], MIB - 1, &memory).await.is_none());
    assert!(begun.elapsed() < Duration::from_secs(1), "it was read although it is too long");
}

#[tokio::test(start_paused = true)]
async fn manifests_that_stall_after_their_first_bytes_do_not_cost_each_pull_their_whole_wait() {
    let (objects, memory, registry) = (FakeObjects::default(), memory(), registry());
    let tier = objects.tier();
    let mut digests = Vec::new();
    for first in 0..3_u8 {
        let content = Bytes::from(vec![first; 30_000]);
        digests.push(Digest::of(&content));
        tier.write_manifest(&registry, Digest::of(&content), content);
    }
    tier.finish(Duration::from_secs(1)).await;
    let tier = objects.tier();
    objects.stall_after(Some(10_000));
    objects.pause_before_chunks(Duration::from_millis(100));
    for (at, digest) in digests.into_iter().enumerate() {
        let asked = objects.asked(Op::Get, "manifests");
        assert!(tier.manifest(&registry, digest, MIB, &memory).await.is_none());
        assert_eq!(objects.asked(Op::Get, "manifests"), asked + 1);
        assert_eq!(tier.status().unwrap().reading_fails.unwrap().kind, "timed_out");
        let pause = Duration::from_secs(1 << at);
        tokio::time::advance(pause - Duration::from_millis(100)).await;
        let other = Digest::of(b"other");
        assert!(tier.manifest(&registry, other, MIB, &memory).await.is_none());
        assert_eq!(objects.asked(Op::Get, "manifests"), asked + 1, "it is asked after {at}");
        tokio::time::advance(pause).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_too_long_does_not_stay_for_ever() {
    let objects = FakeObjects::default();
    let (digest, right) = (Digest::of(b"manifest"), Bytes::from_static(b"manifest"));
    let second = Duration::from_secs(1);
    let first = objects.tier();
    first.write_manifest(&registry(), digest, right.clone());
    first.finish(second).await;
    let key = objects.keys("manifests").remove(0);
    objects.replace(&key, vec![b' '; 5 * MIB]);
    let other = objects.tier();
    assert!(other.manifest(&registry(), digest, 4 * MIB, &memory()).await.is_none());
    other.finish(second).await;
    assert!(objects.content(&key).is_none(), "it is deleted");
    // Where it may not be deleted, it is replaced.
    objects.replace(&key, vec![b' '; 5 * MIB]);
    other.write_manifest(&registry(), digest, right.clone());
    other.finish(second).await;
    assert_eq!(objects.content(&key).unwrap(), right);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_only_writes_replaces_what_has_another_length() {
    let objects = FakeObjects::default();
    let digest = write(&objects.tier(), b"content").await;
    let writer = objects.tier_with(|config| config.read = false);
    assert!(writer.begin_upload(&registry(), digest, 7).await.is_none(), "it is there");
    objects.replace(&objects.keys("blobs").remove(0), "short");
    let writer = objects.tier_with(|config| config.read = false);
    assert!(writer.begin_upload(&registry(), digest, 7).await.is_some());
    let manifest = Bytes::from_static(b"manifest");
    for _ in 0..2 {
        let writer = objects.tier_with(|config| config.read = false);
        writer.write_manifest(&registry(), Digest::of(&manifest), manifest.clone());
        writer.finish(Duration::from_secs(1)).await;
        let key = objects.keys("manifests").remove(0);
        assert_eq!(objects.content(&key).unwrap(), manifest);
        objects.replace(&key, "wrong");
    }
}

#[tokio::test(start_paused = true)]
async fn what_asks_nothing_of_a_tier_that_failed_does_not_take_its_test() {
    let objects = FakeObjects::default();
    let tier = objects.tier();
    let digest = write(&tier, &vec![1; 2 * MIB]).await;
    objects.break_off_after(Some(100));
    assert_eq!(look(&tier, digest).await, None);
    objects.break_off_after(None);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(matches!(tier.blob(&registry(), Digest::of(b"absent")).await, Lookup::Absent));
    assert!(look(&tier, digest).await.is_some(), "a miss is no test of bodies");
    objects.fail(Some(ErrorKind::Throttled));
    tier.write_manifest(&registry(), Digest::of(b"x"), Bytes::from_static(b"x"));
    tier.finish(Duration::from_secs(1)).await;
    objects.fail(None);
    tokio::time::advance(Duration::from_secs(2)).await;
    let wanted = Digest::of(b"wanted");
    assert!((0..2).all(|_| tier.wants(&registry(), wanted, 6)), "a wish is no test of writes");
    assert!(tier.begin_upload(&registry(), wanted, 6).await.is_some());
    assert!(tier.begin_upload(&registry(), wanted, 6).await.is_none(), "one upload tests it");
}
