//! Parts of blobs: what they cost, and that one that covers the blob is treated as the whole.

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::tests::{downloads, read, refuse_downloads};
use super::*;
use crate::pull::for_tests::{self, Parts};
use crate::reference::Repository;
use crate::support::time_for_tests::{as_time_passes, threads_rest};

/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [7; 300_000];
const SIZE: u64 = LAYER.len() as u64;

struct Scene {
    parts: Parts,
    app: Repository,
    digest: Digest,
}

impl Scene {
    fn new() -> Self {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &LAYER);
        Self { parts, app, digest }
    }

    /// With a store whose disk has failed a moment ago.
    async fn without_room() -> Self {
        let scene = Self::new();
        refuse_downloads(&scene.parts);
        let other = scene.parts.registry.push(&scene.app, None, b"another blob");
        let context = for_tests::pull(&scene.app);
        read(scene.parts.blobs.find(&context, other, BlobRange::Whole).await.unwrap()).await.unwrap();
        scene.parts.registry.asked();
        scene
    }

    /// As a manifest declares it.
    fn declare(&self) {
        self.parts.declare_size(&self.app, self.digest, SIZE);
    }

    async fn get(&self, range: BlobRange) -> Result<Vec<u8>, Error> {
        read(self.open(range).await?).await
    }

    async fn open(&self, range: BlobRange) -> Result<BlobAnswer, Error> {
        let context = for_tests::pull(&self.app);
        let mut answer = self.parts.blobs.find(&context, self.digest, range).await?;
        let size = answer.size.expect("a range is answered with the size");
        match range {
            BlobRange::Whole => {}
            BlobRange::From(start) => answer.body.narrow(start, size),
            BlobRange::Last(count) => answer.body.narrow(size.saturating_sub(count), size),
            BlobRange::Bytes { start, end } => answer.body.narrow(start, end.min(size)),
        }
        Ok(answer)
    }
}

#[tokio::test]
async fn without_room_clients_that_ask_for_all_of_a_blob_by_range_share_one_verified_download() {
    let covering = [BlobRange::From(0), BlobRange::Bytes { start: 0, end: SIZE }, BlobRange::Last(SIZE)];
    for range in covering {
        let scene = Scene::without_room().await;
        scene.declare();
        let gate = scene.parts.registry.hold_after(0);
        let clients = join_all((0..20).map(|_| scene.open(range))).await;
        gate.add_permits(1_000);
        for content in join_all(clients.into_iter().map(|client| read(client.unwrap()))).await {
            assert!(content.unwrap() == LAYER, "{range:?}");
        }
        assert_eq!(scene.parts.registry.asked(), ["download as -"], "{range:?}");
        static WRONG: [u8; 300_000] = [8; 300_000];
        scene.parts.registry.damage(&scene.app, scene.digest, &WRONG);
        assert!(scene.get(range).await.is_err(), "{range:?}");
    }
}

#[tokio::test]
async fn a_range_that_turns_out_to_be_the_whole_is_verified() {
    let scene = Scene::without_room().await;
    let range = BlobRange::Bytes { start: 0, end: SIZE + 5 };
    assert!(scene.get(range).await.unwrap() == LAYER);
    static WRONG: [u8; 300_000] = [8; 300_000];
    scene.parts.registry.damage(&scene.app, scene.digest, &WRONG);
    assert!(scene.get(range).await.is_err());
}

#[tokio::test]
async fn without_room_the_rest_of_a_blob_costs_one_request_and_so_does_its_end() {
    let scene = Scene::without_room().await;
    assert!(scene.get(BlobRange::From(100_000)).await.unwrap() == LAYER[100_000..]);
    assert_eq!(scene.parts.registry.asked(), ["download as -"]);
    scene.declare();
    assert!(scene.get(BlobRange::Last(100)).await.unwrap() == LAYER[SIZE as usize - 100..]);
    assert_eq!(scene.parts.registry.asked(), ["download as -"]);
}

#[tokio::test]
async fn a_little_of_a_blob_costs_a_little_until_much_of_it_is_read() {
    let scene = Scene::new();
    scene.declare();
    let parts = [
        BlobRange::Bytes { start: 1_000, end: 5_096 },
        BlobRange::Last(4_096),
        BlobRange::From(SIZE - 4_096),
        BlobRange::Bytes { start: 5_096, end: 60_000 },
    ];
    let mut asked = Vec::new();
    for range in parts {
        scene.get(range).await.unwrap();
        let of_range = scene.parts.registry.asked();
        assert!(downloads(&of_range) <= 1, "{range:?}: {of_range:?}");
        asked.extend(of_range);
        assert_eq!(scene.parts.blobs.downloads(), 0, "all of it is downloaded for {range:?}");
    }
    // The first part proves no right by itself.
    assert_eq!(asked.iter().filter(|asked| asked.starts_with("confirm blob")).count(), 1, "{asked:?}");
    assert!(!scene.parts.blobs.has(scene.digest).await);
    let further = BlobRange::Bytes { start: 60_000, end: 90_000 };
    assert!(scene.get(further).await.unwrap() == LAYER[60_000..90_000]);
    scene.parts.blobs.settle(Duration::from_secs(10)).await;
    let asked = scene.parts.registry.asked();
    assert!(scene.parts.blobs.has(scene.digest).await, "a quarter of it was read: {asked:?}");
    assert_eq!(downloads(&asked), 1);
}

#[tokio::test]
async fn a_manifest_that_lies_about_a_size_spoils_no_range() {
    for declared in [SIZE - 1_000, SIZE + 1_000] {
        let scene = Scene::without_room().await;
        scene.parts.declare_size(&scene.app, scene.digest, declared);
        for range in [BlobRange::Last(100), BlobRange::From(SIZE - 100), BlobRange::From(SIZE - 2_000)] {
            let len = match range {
                BlobRange::From(start) => SIZE - start,
                _ => 100,
            };
            assert!(scene.get(range).await.unwrap() == LAYER[(SIZE - len) as usize..], "{range:?}");
        }
    }
}

#[tokio::test]
async fn no_byte_beyond_the_end_of_a_blob_is_taken_from_a_registry_that_sends_more() {
    const START: u64 = 95_000;
    let scene = Scene::new();
    // The last chunk, which alone is not full, has bytes of the blob, and others.
    let padded = |chunk: Bytes| match chunk.len() {
        10_000 => chunk,
        _ => [&chunk[..], &[0; 20_000]].concat().into(),
    };
    scene.parts.registry.change_bodies(move |_, body| Box::pin(body.map_ok(padded)));
    let context = for_tests::pull(&scene.app);
    let mut body = scene.parts.blobs.0.source.open(&context, scene.digest, START, None).await.unwrap();
    let mut content = Vec::new();
    while let Some(bytes) = body.next().await {
        content.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!((body.at(), content.len() as u64), (SIZE, SIZE - START));
    assert!(content == LAYER[START as usize..]);
}

#[tokio::test]
async fn a_piece_without_a_byte_from_a_registry_ends_no_body() {
    /// So long that its last bytes are far ahead of a download that has just begun.
    static LARGE: [u8; 9_000_000] = [7; 9_000_000];
    const LAST: u64 = 50_000;
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LARGE);
    let scene = Scene { parts, app, digest };
    let empty = || stream::iter([Ok(Bytes::new())]);
    scene.parts.registry.change_bodies(move |_, body| Box::pin(empty().chain(body)));
    let gate = scene.parts.registry.hold_after(100_000);
    let whole = scene.open(BlobRange::Whole).await.unwrap();
    assert!(scene.get(BlobRange::Last(LAST)).await.unwrap() == LARGE[LARGE.len() - LAST as usize..]);
    assert_eq!(downloads(&scene.parts.registry.asked()), 2, "it is asked for by itself");
    gate.add_permits(10_000);
    assert!(read(whole).await.unwrap() == LARGE);
}

#[tokio::test(start_paused = true)]
async fn parts_that_nobody_asks_for_any_more_give_their_room_back() {
    let scene = Scene::new();
    scene.declare();
    as_time_passes(scene.get(BlobRange::Bytes { start: 1_000, end: 5_096 })).await.unwrap();
    let ingest = scene.parts.directory.path().join("store/ingest");
    // Records are written there too, for a moment.
    let kept = async || {
        threads_rest().await;
        std::fs::read_dir(&ingest).unwrap().count()
    };
    assert_eq!(kept().await, 1);
    as_time_passes(tokio::time::sleep(Duration::from_secs(65))).await;
    assert_eq!(kept().await, 1, "it is asked for still");
    tokio::time::advance(Duration::from_secs(30 * 60)).await;
    as_time_passes(tokio::time::sleep(Duration::from_secs(65))).await;
    assert_eq!(kept().await, 0);
}
