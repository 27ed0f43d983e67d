//! A disk that hangs: no client waits for it longer than it takes to know, and upstream is asked as if there were none.

use futures_util::future::join_all;

use super::tests::{downloads, pull};
use super::*;
use crate::pull::for_tests::{self, Parts};
use crate::reference::Repository;
use crate::store::HANGS_AFTER;
use crate::support::time_for_tests::as_time_passes;

/// Larger than the tail that is withheld, and than one read.
static LAYER: [u8; 1_500_000] = [7; 1_500_000];
/// Withheld whole.
static CONFIG: [u8; 1_000] = [9; 1_000];

/// A store that has both blobs.
async fn with_both() -> (Parts, PullContext, [Digest; 2]) {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let context = for_tests::pull(&app);
    let digests = [&LAYER[..], &CONFIG[..]].map(|content| parts.registry.push(&app, None, content));
    for digest in digests {
        as_time_passes(pull(&parts, &context, digest)).await.unwrap();
    }
    as_time_passes(parts.blobs.settle(Duration::from_secs(10))).await;
    assert_eq!(downloads(&parts.registry.asked()), 2);
    (parts, context, digests)
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_gives_nothing_back_holds_up_one_pull_for_seconds_and_loses_no_blob() {
    let (parts, context, [layer, config]) = with_both().await;
    let hangs = parts.store.hang_reads();
    let start = tokio::time::Instant::now();
    assert!(as_time_passes(pull(&parts, &context, layer)).await.unwrap() == LAYER);
    assert!(start.elapsed() < 2 * HANGS_AFTER, "{:?}", start.elapsed());
    assert!(parts.store.is_disk_hanging());
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        assert!(as_time_passes(pull(&parts, &context, layer)).await.unwrap() == LAYER);
        assert!(as_time_passes(pull(&parts, &context, config)).await.unwrap() == CONFIG);
    }
    assert!(start.elapsed() < HANGS_AFTER, "it is known that it hangs");
    drop(hangs);
    as_time_passes(tokio::time::sleep(Duration::from_secs(30))).await;
    parts.registry.asked();
    assert!(as_time_passes(pull(&parts, &context, layer)).await.unwrap() == LAYER);
    assert!(as_time_passes(pull(&parts, &context, config)).await.unwrap() == CONFIG);
    assert_eq!(downloads(&parts.registry.asked()), 0, "a sound blob was set aside");
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_stored_blob_that_the_disk_does_not_give_share_one_download() {
    let (parts, context, [layer, _]) = with_both().await;
    let mut bodies = Vec::new();
    for _ in 0..5 {
        let answer = parts.blobs.find(&context, layer, BlobRange::Whole);
        let BlobAnswer { mut body, .. } = as_time_passes(answer).await.unwrap();
        let got = as_time_passes(body.next()).await.unwrap().unwrap().len();
        bodies.push((body, got));
    }
    parts.registry.asked();
    let hangs = parts.store.hang_reads();
    let rest = bodies.into_iter().map(|(mut body, mut got)| async move {
        while let Some(chunk) = body.next().await {
            got += chunk.unwrap().len();
        }
        got
    });
    assert_eq!(as_time_passes(join_all(rest)).await, [LAYER.len(); 5]);
    assert_eq!(downloads(&parts.registry.asked()), 1);
    drop(hangs);
}

#[tokio::test(start_paused = true)]
async fn what_was_received_a_moment_ago_and_is_not_given_back_cuts_no_body() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let (context, gate) = (for_tests::pull(&app), parts.registry.hold_after(1_000_000));
    let answer = parts.blobs.find(&context, digest, BlobRange::Whole);
    let BlobAnswer { mut body, .. } = as_time_passes(answer).await.unwrap();
    let mut got = as_time_passes(body.next()).await.unwrap().unwrap().len();
    let hangs = parts.store.hang_reads();
    let rest = async {
        while let Some(chunk) = body.next().await {
            got += chunk.unwrap().len();
        }
        got
    };
    let opened = async {
        tokio::time::sleep(HANGS_AFTER + Duration::from_secs(1)).await;
        gate.add_permits(10_000);
    };
    let (got, ()) = as_time_passes(async { tokio::join!(rest, opened) }).await;
    assert_eq!(got, LAYER.len());
    drop(hangs);
}

#[tokio::test(start_paused = true)]
async fn after_a_writer_that_hangs_was_left_to_itself_further_clients_share_a_new_download() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let (context, gate) = (for_tests::pull(&app), parts.registry.hold_after(500_000));
    let answer = parts.blobs.find(&context, digest, BlobRange::Whole);
    let BlobAnswer { mut body, .. } = as_time_passes(answer).await.unwrap();
    as_time_passes(body.next()).await.unwrap().unwrap();
    let hangs = parts.store.hang();
    gate.add_permits(10_000);
    as_time_passes(async { while body.next().await.is_some() {} }).await;
    parts.registry.asked();
    let five = (0..5).map(|_| pull(&parts, &context, digest));
    for got in as_time_passes(join_all(five)).await {
        assert!(got.unwrap() == LAYER);
    }
    assert_eq!(downloads(&parts.registry.asked()), 1);
    drop(hangs);
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_blob_that_make_way_while_the_disk_hangs_stop_no_other_task() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let context = for_tests::pull(&app);
    static OTHER: [u8; 1_500_000] = [3; 1_500_000];
    let blobs = [&LAYER[..], &OTHER[..]].map(|content| parts.registry.push(&app, None, content));
    let part = async |digest| {
        parts.declare_size(&app, digest, LAYER.len() as u64);
        let range = BlobRange::Bytes { start: 700_000, end: 701_000 };
        let mut answer = as_time_passes(parts.blobs.find(&context, digest, range)).await.unwrap();
        answer.body.narrow(700_000, 701_000);
        as_time_passes(answer.body.next()).await.unwrap().unwrap().len()
    };
    assert_eq!(part(blobs[0]).await, 1_000);
    let kept = || std::fs::read_dir(parts.directory.path().join("store/ingest")).unwrap().count();
    // Records are written there too, for a moment.
    let settles_at = async |files| {
        as_time_passes(async {
            while kept() != files {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    };
    settles_at(1).await;
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let hangs = parts.store.hang_removals();
    // The parts of the first make way; their file is not removed before the disk goes on.
    assert_eq!(part(blobs[1]).await, 1_000);
    settles_at(2).await;
    drop(hangs);
    settles_at(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_joins_a_download_for_the_store_alone_goes_past_a_disk_that_refuses_that() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let context = for_tests::pull(&app);
    for priority in [Priority::Ahead, Priority::Background] {
        let for_store = context.clone().with_priority(priority);
        let hangs = parts.store.hang();
        let fetch = parts.blobs.fetch_into_store(&for_store, digest, |_, _| {});
        let join = async {
            while parts.blobs.downloads() == 0 {
                tokio::task::yield_now().await;
            }
            pull(&parts, &context, digest).await
        };
        let (fetched, content) = as_time_passes(async { tokio::join!(fetch, join) }).await;
        let error = fetched.unwrap_err();
        assert!(
            matches!(error, Error::NotStored(_)) && !error.to_string().contains("log"),
            "{error} says nothing"
        );
        assert!(content.unwrap() == LAYER);
        drop(hangs);
        as_time_passes(tokio::time::sleep(Duration::from_secs(30))).await;
    }
}
