//! What it costs that a file gives no more what was handed to a connection.

use tokio::time::Instant;

use super::*;
use crate::pull::blob::body::BlobBody;
use crate::pull::blob::body::answer::BlobAnswer;
use crate::pull::blob::parts::byte_range::BlobRange;
use crate::pull::blob::tests::{downloads, pull};
use crate::pull::error::Error;
use crate::pull::for_tests::{self, Parts};
use crate::reference::{Digest, Repository};
use crate::support::body_chunk::{BodyChunk, FileRange};

const SIZE: usize = 1_000_000;
const CHUNK: usize = 64 * 1024;
/// Where a part begins.
const START: usize = 200_000;
static LAYER: [u8; SIZE] = [7; SIZE];

struct Scene {
    parts: Parts,
    app: Repository,
    digest: Digest,
}

impl Scene {
    /// A stored blob.
    async fn new() -> Self {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &LAYER);
        let scene = Self { parts, app, digest };
        pull(&scene.parts, &for_tests::pull(&scene.app), digest).await.unwrap();
        scene.parts.blobs.settle(std::time::Duration::from_secs(10)).await;
        scene.parts.registry.asked();
        scene
    }

    async fn body(&self, start: usize) -> BlobBody {
        let context = for_tests::pull(&self.app);
        let found = self.parts.blobs.find(&context, self.digest, BlobRange::From(start as u64)).await;
        let BlobAnswer { mut body, .. } = found.unwrap();
        body.narrow(start as u64, SIZE as u64);
        body
    }

    /// The first range of a body from `start` on, which stays open as long as its second part lives.
    async fn handed_over(&self, start: usize) -> (FileRange, BlobBody) {
        let mut body = self.body(start).await;
        let Some(Ok(BodyChunk::File(range))) = body.next().await else { panic!("a range of a file") };
        (range, body)
    }
}

async fn fetched_again(range: &FileRange) -> Option<Bytes> {
    range.refetch.clone().unwrap().refetch(range.offset, range.len).await
}

#[tokio::test]
async fn what_is_lost_of_a_part_of_a_blob_costs_no_more_than_its_chunks() {
    let scene = Scene::new().await;
    let (range, _body) = scene.handed_over(START).await;
    // Right in the chunks of the range, and nowhere else.
    let mut content = vec![8; SIZE];
    content[START / CHUNK * CHUNK..START + range.len].fill(7);
    scene.parts.registry.damage(&scene.app, scene.digest, content.leak());
    assert_eq!(fetched_again(&range).await.unwrap(), vec![7; range.len]);
    assert_eq!(downloads(&scene.parts.registry.asked()), 1);
    // From the first byte on it is the whole, and its end is withheld until all of it is right.
    let (range, mut body) = scene.handed_over(0).await;
    assert_eq!(fetched_again(&range).await.unwrap().len(), range.len);
    assert!(is_cut_off(&mut body).await, "it is complete and wrong");
    static WRONG: [u8; SIZE] = [8; SIZE];
    scene.parts.registry.damage(&scene.app, scene.digest, &WRONG);
    let (range, _body) = scene.handed_over(START).await;
    assert_eq!(fetched_again(&range).await, None, "other bytes than the file had");
}

/// Whether the body ends with an error.
async fn is_cut_off(body: &mut BlobBody) -> bool {
    while let Some(chunk) = body.next().await {
        if chunk.is_err() {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn what_is_lost_of_a_wrong_download_is_not_followed_by_the_right_one_of_another_copy() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    static WRONG: [u8; SIZE] = [8; SIZE];
    parts.registry.damage(&app, digest, &WRONG);
    let _gate = parts.registry.hold_after(SIZE / 2);
    let scene = Scene { parts, app, digest };
    let mut body = scene.body(0).await;
    let ingest = scene.parts.directory.path().join("store/ingest");
    let mut files = std::fs::read_dir(ingest).unwrap().map(|file| file.unwrap().path());
    let file = files.find(|path| path.is_file()).unwrap();
    while file.metadata().unwrap().len() < SIZE as u64 / 2 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let range = loop {
        if let BodyChunk::File(range) = body.next().await.unwrap().unwrap() {
            break range;
        }
    };
    scene.parts.registry.damage(&scene.app, scene.digest, &LAYER);
    assert_eq!(fetched_again(&range).await, None, "the client has wrong bytes before these");
    scene.parts.registry.damage(&scene.app, scene.digest, &WRONG);
    assert_eq!(fetched_again(&range).await.unwrap(), WRONG[..range.len]);
}

#[tokio::test]
async fn a_wrong_range_in_the_place_of_a_lost_one_is_in_no_complete_body() {
    let scene = Scene::new().await;
    let mut content = vec![7; SIZE];
    content[1000] = 8;
    scene.parts.registry.damage(&scene.app, scene.digest, content.leak());
    // The disk has all that follows.
    let (range, mut body) = scene.handed_over(0).await;
    assert_eq!(fetched_again(&range).await.unwrap().len(), range.len);
    assert!(is_cut_off(&mut body).await);
    // And here all of it was handed over before the first range was lost.
    let (range, mut body) = scene.handed_over(0).await;
    assert!(!is_cut_off(&mut body).await);
    assert_eq!(fetched_again(&range).await, None);
}

#[tokio::test]
async fn what_is_lost_after_the_end_was_handed_over_comes_again() {
    let scene = Scene::new().await;
    let (range, mut body) = scene.handed_over(0).await;
    assert!(!is_cut_off(&mut body).await);
    assert_eq!(fetched_again(&range).await.unwrap(), vec![7; range.len]);
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_no_longer_for_a_whole_blob_than_a_runtime_does() {
    let scene = Scene::new().await;
    let _never = scene.parts.registry.hold_after(SIZE / 2);
    let (range, _body) = scene.handed_over(0).await;
    let begun = Instant::now();
    assert_eq!(fetched_again(&range).await, None);
    assert_eq!(begun.elapsed(), REFETCH_WAIT_MAX);
}

#[tokio::test]
async fn however_many_clients_lose_their_bytes_a_few_of_them_fetch_the_blob_again() {
    let scene = Scene::new().await;
    let mut handed_over = Vec::new();
    for _ in 0..20 {
        handed_over.push(scene.handed_over(0).await);
    }
    let all = handed_over.iter().map(|(range, _)| fetched_again(range));
    let had = futures_util::future::join_all(all).await.into_iter().flatten().count();
    assert_eq!((had, downloads(&scene.parts.registry.asked())), (8, 8));
    // Each keeps its place until its body ends.
    assert!(fetched_again(&handed_over[0].0).await.is_some());
    handed_over.drain(..10);
    assert!(fetched_again(&handed_over[9].0).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_bytes_that_cannot_be_read_back_comes_soon_or_the_body_ends() {
    const AT: u64 = SIZE as u64 / 2;
    let scene = Scene::new().await;
    let gate = scene.parts.registry.hold_after(SIZE / 4);
    let (context, blobs) = (for_tests::pull(&scene.app), &scene.parts.blobs);
    let again = async || {
        let body = blobs.0.source.open(&context, scene.digest, 0, None).await.unwrap();
        Passthrough::again(body, scene.digest, AT, None, Some(SIZE as u64), blobs.0.memory.share())
    };
    let (mut late, begun) = (again().await, Instant::now());
    assert!(matches!(late.next().await, Some(Err(Error::SentBytesLost))));
    assert_eq!(begun.elapsed(), REFETCH_WAIT_MAX);
    drop(late);
    // One whose client has got something is not cut because its registry is slow.
    let mut soon = again().await;
    gate.add_permits(50);
    assert!(soon.next().await.unwrap().is_ok());
    let rest = async { while soon.next().await.unwrap().is_ok() {} };
    assert!(timeout(REFETCH_WAIT_MAX * 2, rest).await.is_err(), "it ended early");
}
