//! Blobs that the store does not take: their ends, and what a mirror delivers of them, are withheld all the same.

use bytes::Bytes;
use futures_util::future::join_all;

use super::tests::{damage, downloads, pull, read, refuse_downloads};
use super::*;
use crate::pull::for_tests::{self, MirrorBody, Parts};
use crate::reference::Repository;
use crate::support::time_for_tests::as_time_passes;
use crate::upstream::DeliveryFault;

/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [7; 300_000];
/// Several windows.
static LARGE: [u8; 3_000_000] = [7; 3_000_000];
/// Withheld whole.
static CONFIG: [u8; 1_000] = [9; 1_000];

fn without_room() -> (Parts, Repository) {
    (Parts::without_room(), "reg.test/app".parse().unwrap())
}

fn wrong(content: &[u8], at: usize) -> Bytes {
    let mut wrong = content.to_vec();
    wrong[at] ^= 1;
    wrong.into()
}

#[tokio::test]
async fn a_small_blob_that_is_wrong_is_an_error_before_any_header() {
    let (parts, app) = without_room();
    let digest = parts.registry.push(&app, None, &CONFIG);
    parts.registry.damage(&app, digest, &[8; 1_000]);
    assert!(parts.blobs.find(&for_tests::pull(&app), digest, BlobRange::Whole).await.is_err());
    assert_eq!(downloads(&parts.registry.asked()), 1, "the only endpoint is not asked again");
}

#[tokio::test]
async fn what_a_mirror_has_wrong_is_noticed_by_no_client() {
    for (content, at) in [(&CONFIG[..], 0), (&LAYER[..], 0), (&LARGE[..], 1_500_000)] {
        let (parts, app) = without_room();
        let bytes: &'static [u8] = content;
        let digest = parts.registry.push(&app, None, bytes);
        parts.registry.mirror(&app, digest, MirrorBody::whole(wrong(content, at)));
        let context = for_tests::pull(&app);
        for got in join_all((0..5).map(|_| pull(&parts, &context, digest))).await {
            assert!(got.unwrap() == content);
        }
        assert_eq!(parts.registry.faults(), [("mirror".to_owned(), DeliveryFault::Digest)]);
    }
}

#[tokio::test]
async fn a_repaired_body_goes_on_with_content_of_unknown_size_and_is_whole_only_if_that_is_right() {
    for is_right in [true, false] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
        let digest = parts.registry.push(&app, None, &LAYER);
        let context = for_tests::pull(&app);
        pull(&parts, &context, digest).await.unwrap();
        parts.blobs.settle(Duration::from_secs(10)).await;
        refuse_downloads(&parts);
        damage(&parts, digest, 200_000);
        let sent = if is_right { Bytes::from_static(&LAYER) } else { wrong(&LAYER, 250_000) };
        let body = MirrorBody { size: None, ..MirrorBody::whole(sent) };
        parts.registry.mirror(&app, digest, body);
        if !is_right {
            parts.registry.damage(&app, digest, &[8; 300_000]);
        }
        let got = pull(&parts, &context, digest).await;
        assert_eq!(got.is_ok_and(|content| content == LAYER), is_right);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_alone_costs_one_download_however_long_it_takes() {
    let (parts, app) = without_room();
    let digest = parts.registry.push(&app, None, &LARGE);
    let answer = parts.blobs.find(&for_tests::pull(&app), digest, BlobRange::Whole).await.unwrap();
    let BlobAnswer { mut body, .. } = answer;
    let mut got = 0;
    while let Some(chunk) = body.next().await {
        got += chunk.unwrap().len();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(got, LARGE.len());
    assert_eq!(downloads(&parts.registry.asked()), 1);
}

#[tokio::test]
async fn wrong_content_is_complete_for_no_client_and_costs_one_download() {
    let (parts, app) = without_room();
    let digest = parts.registry.push(&app, None, &LARGE);
    static WRONG: [u8; 3_000_000] = [8; 3_000_000];
    parts.registry.damage(&app, digest, &WRONG);
    let context = for_tests::pull(&app);
    let answers = join_all((0..5).map(|_| parts.blobs.find(&context, digest, BlobRange::Whole))).await;
    for got in join_all(answers.into_iter().map(|answer| read(answer.unwrap()))).await {
        assert!(got.is_err());
    }
    assert_eq!(downloads(&parts.registry.asked()), 1);
}

/// What was received so far is gone from the disk, and the disk takes no more.
async fn lose_what_was_received(parts: &Parts) -> Option<crate::store::Blob> {
    let files = std::fs::read_dir(parts.directory.path().join("store/ingest")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "it is being stored");
    std::fs::OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(0).unwrap();
    take_room(parts).await
}

/// A disk of 8 MB takes little more.
async fn take_room(parts: &Parts) -> Option<crate::store::Blob> {
    static OTHER: [u8; 6_500_000] = [5; 6_500_000];
    let other = for_tests::remember_blob(&parts.store, "reg.test/other", &OTHER).await;
    // It is read, and therefore not evicted.
    parts.store.blob(other).await
}

#[tokio::test]
async fn a_disk_that_gives_back_nothing_in_mid_body_cuts_no_body_and_makes_no_wrong_one_complete() {
    static BEGINS_WRONG: [u8; 3_000_000] = {
        let mut content = LARGE;
        content[0] = 8;
        content
    };
    for is_right in [true, false] {
        let (parts, app) = (Parts::with_room_for(8_000_000), "reg.test/app".parse::<Repository>().unwrap());
        let digest = parts.registry.push(&app, None, &LARGE);
        if !is_right {
            parts.registry.damage(&app, digest, &BEGINS_WRONG);
        }
        let gate = parts.registry.hold_after(1_000_000);
        let answer = parts.blobs.find(&for_tests::pull(&app), digest, BlobRange::Whole).await.unwrap();
        let BlobAnswer { mut body, .. } = answer;
        let mut got = body.next().await.unwrap().unwrap().len();
        assert!(got < 900_000, "it has to want more of what was received");
        let held = lose_what_was_received(&parts).await;
        assert!(held.is_some());
        // The rest of what was wrong from the first byte on is right, and so is all that is sent from now on.
        parts.registry.damage(&app, digest, &LARGE);
        gate.add_permits(10_000);
        let mut failed = false;
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => got += chunk.len(),
                Err(_) => failed = true,
            }
        }
        assert_eq!((got == LARGE.len(), failed), (is_right, !is_right), "{got}");
    }
}

#[tokio::test]
async fn a_download_past_the_disk_whose_last_client_has_left_ends_also_where_upstream_sends_nothing() {
    let (parts, app) = (Parts::with_room_for(8_000_000), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, &LARGE);
    let (context, gate) = (for_tests::pull(&app), parts.registry.hold_after(500_000));
    let BlobAnswer { mut body, .. } = parts.blobs.find(&context, digest, BlobRange::Whole).await.unwrap();
    let mut got = body.next().await.unwrap().unwrap().len();
    let held = take_room(&parts).await;
    assert!(held.is_some());
    gate.add_permits(150);
    // All that comes, but for the tail: the download waits for upstream then.
    while got < 1_900_000 {
        got += body.next().await.unwrap().unwrap().len();
    }
    drop(body);
    let end = async {
        while parts.blobs.downloads() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("it keeps its place");
}

#[tokio::test(start_paused = true)]
async fn a_defect_of_the_thread_that_writes_ends_the_download_and_not_only_the_writing() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, &LARGE);
    let (context, gate) = (for_tests::pull(&app), parts.registry.hold_after(500_000));
    let answer = parts.blobs.find(&context, digest, BlobRange::Whole);
    let BlobAnswer { mut body, .. } = as_time_passes(answer).await.unwrap();
    as_time_passes(body.next()).await.unwrap().unwrap();
    // To print where it panicked takes longer, on a busy machine, than a disk may take by this clock.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&"as the test wants it") {
            print(panic);
        }
    }));
    parts.store.panic_at_writes();
    gate.add_permits(10_000);
    let rest = async {
        let mut failed = false;
        while let Some(chunk) = body.next().await {
            failed = chunk.is_err();
        }
        failed
    };
    assert!(as_time_passes(rest).await, "a body that is not whole is complete");
    as_time_passes(parts.blobs.settle(Duration::from_secs(10))).await;
    assert_eq!(parts.blobs.downloads(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_holds_up_one_pull_for_seconds_and_no_further_one() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let context = for_tests::pull(&app);
    let [layer, large] = [&LAYER[..], &LARGE[..]].map(|content| parts.registry.push(&app, None, content));
    let hangs = parts.store.hang();
    assert!(as_time_passes(pull(&parts, &context, layer)).await.unwrap() == LAYER);
    assert!(!parts.store.is_caching());
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        assert!(as_time_passes(pull(&parts, &context, large)).await.unwrap() == LARGE);
    }
    assert!(start.elapsed() < crate::store::HANGS_AFTER, "nothing is tried while it hangs");
    drop(hangs);
    as_time_passes(tokio::time::sleep(Duration::from_secs(60))).await;
    assert!(as_time_passes(pull(&parts, &context, large)).await.unwrap() == LARGE);
    as_time_passes(parts.blobs.settle(Duration::from_secs(10))).await;
    assert!(as_time_passes(parts.store.blob(large)).await.is_some(), "it is stored again");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_in_mid_body_cuts_no_body_and_its_clients_share_the_rest() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, &LARGE);
    let (context, gate) = (for_tests::pull(&app), parts.registry.hold_after(1_000_000));
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let answer = parts.blobs.find(&context, digest, BlobRange::Whole);
        let BlobAnswer { mut body, .. } = as_time_passes(answer).await.unwrap();
        let first = as_time_passes(body.next()).await.unwrap().unwrap().len();
        bodies.push((body, first));
    }
    let hangs = parts.store.hang();
    gate.add_permits(10_000);
    let rest = bodies.into_iter().map(|(mut body, mut got)| async move {
        while let Some(chunk) = body.next().await {
            got += chunk.unwrap().len();
        }
        got
    });
    assert_eq!(as_time_passes(join_all(rest)).await, [LARGE.len(); 3]);
    assert_eq!(downloads(&parts.registry.asked()), 1);
    drop(hangs);
    let ingest = parts.directory.path().join("store/ingest");
    while std::fs::read_dir(&ingest).unwrap().count() > 0 {
        tokio::time::advance(Duration::from_millis(50)).await;
    }
}
