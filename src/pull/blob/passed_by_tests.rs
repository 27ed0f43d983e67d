//! Large layers that the store passes by at their first pull: what their ranges cost, and when they are stored all the
//! same.

use std::sync::OnceLock;

use super::into_store::InStore;
use super::tests::{downloads, read};
use super::*;
use crate::pull::context::Priority;
use crate::pull::for_tests::{self, Parts};
use crate::reference::Repository;
use crate::store::{Member, Owner, WholeContent};

const MIB: u64 = 1024 * 1024;
/// Just large, and less than the share of a registry without a name.
const SIZE: u64 = 65 * MIB;
/// What would have to go for it.
const OTHERS: usize = 68 * MIB as usize;
const STORE: u64 = 132 * MIB;

fn layer() -> &'static [u8] {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| vec![7; SIZE as usize])
}

struct Scene {
    parts: Parts,
    context: PullContext,
    digest: Digest,
}

impl Scene {
    async fn new() -> Self {
        let (parts, app) = (Parts::with_room_for(STORE), "reg.test/app".parse::<Repository>().unwrap());
        let (repository, others) = ("other.test/base".parse::<Repository>().unwrap(), vec![9; OTHERS]);
        let (others_digest, bytes) = (Digest::of(&others), others.into());
        let (member, owner) = (Member::Blob, Owner::unlimited(repository.registry()));
        let others = WholeContent { repository, digest: others_digest, bytes, member, owner };
        parts.store.put(others).await.unwrap();
        let digest = parts.registry.push(&app, None, layer());
        parts.declare_size(&app, digest, SIZE);
        let context = for_tests::pull(&app);
        // What is verified proves the right to read: parts are given to none without one.
        let config = parts.registry.push(&app, None, b"config");
        read(parts.blobs.find(&context, config, BlobRange::Whole).await.unwrap()).await.unwrap();
        parts.blobs.settle(Duration::from_secs(10)).await;
        parts.registry.asked();
        Self { parts, context, digest }
    }

    /// The bytes, and how many requests for them upstream got.
    async fn get(&self, range: BlobRange) -> (Vec<u8>, usize) {
        let mut answer = self.parts.blobs.find(&self.context, self.digest, range).await.unwrap();
        if let BlobRange::Bytes { start, end } = range {
            answer.body.narrow(start, end);
        }
        let content = read(answer).await.unwrap();
        (content, downloads(&self.parts.registry.asked()))
    }

    /// A range must be right; returns how many requests it cost.
    async fn cost(&self, start: u64, end: u64) -> usize {
        let (content, cost) = self.get(BlobRange::Bytes { start, end }).await;
        assert!(content == layer()[start as usize..end as usize], "{start}..{end}");
        cost
    }

    async fn is_stored(&self) -> bool {
        self.parts.blobs.settle(Duration::from_secs(60)).await;
        self.parts.blobs.has(self.digest).await
    }
}

#[tokio::test]
async fn a_range_of_a_large_layer_that_is_passed_by_costs_one_request_until_another_pull_wants_it() {
    let scene = Scene::new().await;
    assert_eq!((scene.cost(0, 4_096).await, scene.cost(0, 4_096).await), (1, 0), "a small part is kept");
    for start in [0, 20 * MIB, 40 * MIB] {
        assert_eq!(scene.cost(start, start + 2 * MIB).await, 1, "from {start}");
        assert_eq!(scene.parts.blobs.downloads(), 0, "all of it is asked for as well");
        scene.parts.clock.advance(Duration::from_secs(9 * 60));
    }
    assert_eq!(scene.cost(60 * MIB, 62 * MIB).await, 1, "the same slow pull");
    assert!(!scene.is_stored().await);
    scene.parts.clock.advance(Duration::from_secs(10 * 60));
    scene.cost(20 * MIB, 22 * MIB).await;
    assert!(scene.is_stored().await);
}

#[tokio::test]
async fn a_large_layer_of_which_a_little_was_read_by_parts_is_passed_by_at_its_first_pull() {
    let scene = Scene::new().await;
    assert_eq!(scene.cost(0, 4_096).await, 1);
    let (content, cost) = scene.get(BlobRange::Whole).await;
    assert!(content == layer() && cost == 1);
    assert!(!scene.is_stored().await, "what others need made way for it");
    assert_eq!(scene.cost(0, 4_096).await, 0, "its part is lost");
}

#[tokio::test]
async fn a_large_layer_of_which_much_was_read_by_parts_is_completed_at_its_first_pull() {
    let scene = Scene::new().await;
    for part in 0..16 {
        scene.cost(part * MIB, (part + 1) * MIB).await;
    }
    // A reader that reads for hours has a right that is proved no more.
    scene.parts.clock.advance(Duration::from_secs(301));
    scene.cost(16 * MIB, 17 * MIB).await;
    assert!(scene.is_stored().await);
}

#[tokio::test]
async fn what_is_fetched_ahead_of_a_pod_pushes_out_no_more_than_the_pods_own_pull_would() {
    let scene = Scene::new().await;
    let Scene { parts, context, digest } = &scene;
    let ahead = context.clone().with_priority(Priority::Ahead);
    let fetched = parts.blobs.fetch_into_store(&ahead, *digest, |_, _| {}).await;
    assert!(matches!(fetched, Err(Error::NotStored(_))), "{fetched:?}");
    assert!(!scene.is_stored().await, "what others need made way for it");
    let (content, _) = scene.get(BlobRange::Whole).await;
    assert!(content == layer() && !scene.is_stored().await, "it counted as a pull");
}

#[tokio::test]
async fn a_pre_pull_that_meets_a_pods_pull_of_a_large_layer_past_the_disk_stores_it_afterwards() {
    let scene = Scene::new().await;
    let Scene { parts, context, digest } = &scene;
    let pod = parts.blobs.find(context, *digest, BlobRange::Whole).await.unwrap();
    let background = context.clone().with_priority(Priority::Background);
    let (fetched, content) =
        tokio::join!(parts.blobs.fetch_into_store(&background, *digest, |_, _| {}), read(pod));
    assert!(content.unwrap() == layer());
    assert_eq!(fetched.unwrap(), InStore { size: SIZE, was_downloaded: true });
    assert!(scene.is_stored().await);
}
