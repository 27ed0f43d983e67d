//! Blobs from a shared tier that does what the test says.

use std::time::Duration;

use super::into_store::InStore;
use super::*;
use crate::pull::context::Priority;
use crate::pull::for_tests::{self, Parts};
use crate::reference::{Child, Repository};
use crate::support::time_for_tests::as_time_passes;
use crate::tier;
use crate::tier::for_tests::{FakeObjects, Op};
use crate::tier::{ErrorKind, Role};

static CONTENT: [u8; 3_000_000] = [7; 3_000_000];

/// A node that has written the content to the tier, and the tier.
async fn shared() -> (FakeObjects, Repository, Digest) {
    let (objects, app): (_, Repository) = (FakeObjects::default(), "reg.test/app".parse().unwrap());
    let parts = Parts::with_tier(objects.tier());
    let digest = parts.registry.push(&app, None, &CONTENT);
    assert_eq!(pulled(&parts, &app, digest).await, CONTENT);
    while objects.keys("blobs").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (objects, app, digest)
}

async fn pulled(parts: &Parts, app: &Repository, digest: Digest) -> Vec<u8> {
    let context = for_tests::pull(app);
    let mut body = parts.blobs.find(&context, digest, BlobRange::Whole).await.unwrap().body;
    let mut whole = Vec::new();
    while let Some(chunk) = body.next().await {
        whole.extend_from_slice(&chunk.unwrap().read().unwrap());
    }
    whole
}

fn downloads(parts: &Parts) -> usize {
    parts.registry.asked().iter().filter(|asked| asked.starts_with("download")).count()
}

#[tokio::test]
async fn what_the_tier_has_is_confirmed_by_the_registry_and_not_downloaded() {
    let (objects, app, digest) = shared().await;
    let other = Parts::with_tier(objects.tier());
    other.registry.push(&app, None, &CONTENT);
    assert_eq!(pulled(&other, &app, digest).await, CONTENT);
    assert_eq!(other.registry.asked(), ["confirm blob as -"]);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_gone_on_with_at_the_registry() {
    for after in [0, 1, 1_500_000, CONTENT.len() - 1] {
        let (objects, app, digest) = shared().await;
        objects.break_off_after(Some(after));
        let other = Parts::with_tier(objects.tier());
        other.registry.push(&app, None, &CONTENT);
        assert_eq!(pulled(&other, &app, digest).await, CONTENT);
        assert_eq!(downloads(&other), 1, "{after}");
    }
}

#[tokio::test]
async fn an_object_is_not_deleted_for_what_the_registry_sent_after_it() {
    let (objects, app, digest) = shared().await;
    let key = objects.keys("blobs").remove(0);
    objects.break_off_after(Some(1_500_000));
    let other = Parts::with_tier(objects.tier());
    let mut wrong = CONTENT.to_vec();
    wrong[2_000_000] ^= 1;
    other.registry.push(&app, None, &CONTENT);
    other.registry.damage(&app, digest, wrong.leak());
    let context = for_tests::pull(&app);
    let mut body = other.blobs.find(&context, digest, BlobRange::Whole).await.map(|answer| answer.body);
    if let Ok(body) = &mut body {
        while let Some(Ok(_)) = body.next().await {}
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(objects.content(&key).unwrap(), CONTENT[..]);
}

#[tokio::test]
async fn no_client_is_sent_wrong_bytes_of_the_tier() {
    let (objects, app, digest) = shared().await;
    let key = objects.keys("blobs").remove(0);
    let mut wrong = CONTENT.to_vec();
    wrong[5] ^= 1;
    objects.replace(&key, wrong);
    let other = Parts::with_tier(objects.tier());
    other.registry.push(&app, None, &CONTENT);
    assert_eq!(pulled(&other, &app, digest).await, CONTENT);
    assert!(other.registry.faults().is_empty(), "no endpoint is blamed");
}

#[tokio::test]
async fn a_tier_that_fails_changes_no_answer() {
    let (objects, app, digest) = shared().await;
    for kind in [ErrorKind::Denied, ErrorKind::Throttled, ErrorKind::TimedOut, ErrorKind::Unavailable] {
        objects.fail(Some(kind));
        let other = Parts::with_tier(objects.tier());
        other.registry.push(&app, None, &CONTENT);
        assert_eq!(pulled(&other, &app, digest).await, CONTENT);
        assert_eq!(downloads(&other), 1);
    }
}

#[tokio::test]
async fn what_the_store_does_not_take_comes_from_the_tier_and_is_not_written_there() {
    let (objects, app, digest) = shared().await;
    let full = Parts::without_room_over(objects.tier());
    full.registry.push(&app, None, &CONTENT);
    assert_eq!(pulled(&full, &app, digest).await, CONTENT);
    assert_eq!(downloads(&full), 0);
}

#[tokio::test]
async fn a_caller_that_the_registry_refuses_is_given_nothing_of_the_tier() {
    let (objects, app, digest) = shared().await;
    let other = Parts::with_tier(objects.tier());
    other.registry.push(&app, None, &CONTENT);
    other.registry.allow(&app, &["alice"]);
    let context = for_tests::pull(&app);
    let refused = other.blobs.find(&context, digest, BlobRange::Whole).await;
    assert!(matches!(refused, Err(Error::AuthenticationRequired { .. })), "{refused:?}");
    let context = other.pull_as("bob", &app);
    assert!(other.blobs.find(&context, digest, BlobRange::Whole).await.is_err());
    let context = other.pull_as("alice", &app);
    assert!(other.blobs.find(&context, digest, BlobRange::Whole).await.is_ok());
}

#[tokio::test]
async fn no_question_is_asked_for_the_sake_of_a_tier_that_is_not_read() {
    let (objects, app, digest) = shared().await;
    for (read, write) in [(false, true), (false, false), (true, true)] {
        let tier = objects.tier_with(|config| (config.read, config.write) = (read, write));
        let other = Parts::with_tier(tier.clone());
        other.registry.push(&app, None, &CONTENT);
        if read {
            // It fails, and is left alone.
            objects.fail(Some(ErrorKind::Unavailable));
            let _ = tier.blob(app.registry(), digest).await;
        }
        assert_eq!(pulled(&other, &app, digest).await, CONTENT);
        assert!(!other.registry.asked().iter().any(|asked| asked.starts_with("confirm")), "{read} {write}");
    }
}

static LAYER: [u8; 5_000_000] = [9; 5_000_000];

#[tokio::test]
async fn a_node_that_does_not_store_a_layer_keeps_no_other_node_waiting_while_its_client_reads() {
    let (objects, app): (_, Repository) = (FakeObjects::default(), "reg.test/app".parse().unwrap());
    let full = Parts::without_room_over(objects.tier());
    let digest = full.registry.push(&app, None, &LAYER);
    let _held = full.registry.hold_after(1_000_000);
    let context = for_tests::pull(&app);
    let body = full.blobs.find(&context, digest, BlobRange::Whole).await.unwrap().body;
    assert_eq!(objects.asked(Op::Put, "leases"), 1);
    for _ in 0..500 {
        if objects.keys("leases").is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(body);
    panic!("it holds the lease of a layer that it will not write");
}

#[tokio::test]
async fn a_size_that_a_manifest_states_is_told_to_no_client_that_joins() {
    let (objects, app): (_, Repository) = (FakeObjects::default(), "reg.test/app".parse().unwrap());
    let writer = objects.tier();
    let parts = Parts::with_tier(objects.tier());
    let digest = parts.registry.push(&app, None, &LAYER);
    let Role::Writer(claim) = writer.role(app.registry(), digest, LAYER.len() as u64).await else { panic!() };
    let false_size =
        Child { digest, size: 4_500_000, platform: None, is_foreign: false, is_read_whole: true };
    parts.access.membership().declare_sizes(&app, &[false_size]);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        claim.release();
    });
    let answer = parts.blobs.find(&for_tests::pull(&app), digest, BlobRange::Whole).await.unwrap();
    assert_eq!(answer.size, Some(LAYER.len() as u64));
}

#[tokio::test]
async fn what_is_fetched_ahead_does_not_wait_until_the_tier_has_it() {
    let (objects, app): (_, Repository) = (FakeObjects::default(), "reg.test/app".parse().unwrap());
    let parts = Parts::with_tier(objects.tier());
    let digest = parts.registry.push(&app, None, &LAYER);
    parts.declare_size(&app, digest, LAYER.len() as u64);
    objects.hang_at(Op::Put, "/blobs/");
    let context = for_tests::pull(&app).with_priority(Priority::Background);
    let fetched = parts.blobs.fetch_into_store(&context, digest, |_, _| {});
    let fetched = tokio::time::timeout(Duration::from_secs(30), fetched).await;
    let fetched = fetched.expect("it waits for an upload").unwrap();
    assert_eq!(fetched, InStore { size: LAYER.len() as u64, was_downloaded: true });
    assert_eq!(objects.keys("leases").len(), 1, "the copy goes on");
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_fetched_ahead_and_waits_for_another_node_is_not_thrown_away() {
    let (objects, app): (_, Repository) = (FakeObjects::default(), "reg.test/app".parse().unwrap());
    let writer = objects.tier();
    let parts = Parts::with_tier(objects.tier_with(|config| config.wait_max = Duration::from_secs(240)));
    let (digest, size) = (parts.registry.push(&app, None, &LAYER), LAYER.len() as u64);
    parts.declare_size(&app, digest, size);
    let Role::Writer(claim) = writer.role(app.registry(), digest, size).await else { panic!() };
    let written = async {
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert_eq!(tier::for_tests::write(&writer, &LAYER).await, digest);
        claim.release();
    };
    let context = for_tests::pull(&app);
    as_time_passes(async { tokio::join!(parts.blobs.prefetch(&context, digest, size), written) }).await;
    assert!(parts.blobs.has(digest).await);
    assert_eq!(downloads(&parts), 0);
}

#[tokio::test]
async fn a_download_that_fails_leaves_no_lease_for_the_length_of_an_upload() {
    static LARGE: [u8; 20_000_000] = [6; 20_000_000];
    let (objects, app): (_, Repository) = (FakeObjects::default(), "reg.test/app".parse().unwrap());
    let parts = Parts::with_tier(objects.tier());
    let digest = parts.registry.push(&app, None, &LARGE);
    let mut wrong = LARGE.to_vec();
    wrong[5] ^= 1;
    parts.registry.damage(&app, digest, wrong.leak());
    parts.declare_size(&app, digest, LARGE.len() as u64);
    objects.hang_at(Op::Put, "/blobs/");
    // Until the first part is on its way.
    let gate = parts.registry.hold_after(12_000_000);
    let context = for_tests::pull(&app);
    let mut body = parts.blobs.find(&context, digest, BlobRange::Whole).await.unwrap().body;
    while objects.asked(Op::Begin, "blobs") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(objects.keys("leases").len(), 1);
    gate.add_permits(100_000);
    while let Some(Ok(_)) = body.next().await {}
    for _ in 0..500 {
        if objects.keys("leases").is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("its lease stays until the upload has noticed");
}

#[tokio::test]
async fn slow_downloads_of_a_strangers_registry_keep_no_other_registrys_blob_from_the_tier() {
    let (objects, stranger): (_, Repository) = (FakeObjects::default(), "evil.test/app".parse().unwrap());
    let parts = Parts::with_tier(objects.tier());
    let app: Repository = "reg.test/app".parse().unwrap();
    let digest = parts.registry.push(&app, None, &CONTENT);
    let _stands_still = parts.registry.hold_after(100_000);
    let mut bodies = Vec::new();
    for n in 0..64 {
        let layer = parts.registry.push(&stranger, None, vec![n; 300_000].leak());
        let answer = parts.blobs.find(&for_tests::pull(&stranger), layer, BlobRange::Whole).await.unwrap();
        bodies.push(answer.body);
    }
    parts.registry.answer_at_once();
    assert_eq!(pulled(&parts, &app, digest).await, CONTENT);
    for _ in 0..1_000 {
        if !objects.keys("blobs").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(objects.keys("blobs").len(), 1, "what came whole, and nothing else");
}
