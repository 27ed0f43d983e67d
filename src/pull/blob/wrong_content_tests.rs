//! A mirror that delivers wrong content, before a registry that delivers the right one.

use bytes::Bytes;

use super::tests::{downloads, pull};
use super::withheld_tail::TAIL;
use super::*;
use crate::pull::for_tests::{self, MirrorBody, Parts};
use crate::reference::Repository;
use crate::support::time_for_tests::as_time_passes;
use crate::upstream::DeliveryFault;

/// Larger than what is withheld past the disk while a mirror delivers it.
static LARGE: [u8; 9_000_000] = [7; 9_000_000];
/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [7; 300_000];
/// Withheld whole.
static CONFIG: [u8; 1_000] = [9; 1_000];

struct Scene {
    parts: Parts,
    app: Repository,
    digest: Digest,
    content: &'static [u8],
}

impl Scene {
    fn new(content: &'static [u8], mirrored: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, content);
        let bytes = Bytes::from(mirrored(content.to_vec()));
        parts.registry.mirror(&app, digest, MirrorBody::whole(bytes));
        Self { parts, app, digest, content }
    }

    async fn pull(&self) -> Result<Vec<u8>, Error> {
        pull(&self.parts, &for_tests::pull(&self.app), self.digest).await
    }

    /// The number of downloads, and the faults that were recorded of endpoints.
    fn cost(&self) -> (usize, Vec<(String, DeliveryFault)>) {
        (downloads(&self.parts.registry.asked()), self.parts.registry.faults())
    }

    /// The next pull gets the content from the store.
    async fn is_stored(&self) {
        self.parts.blobs.settle(Duration::from_secs(10)).await;
        self.parts.registry.asked();
        assert_eq!(self.pull().await.unwrap(), self.content);
        assert_eq!(downloads(&self.parts.registry.asked()), 0, "it was not stored");
    }
}

fn mirror(fault: DeliveryFault) -> (String, DeliveryFault) {
    ("mirror".to_owned(), fault)
}

/// The content with one wrong byte.
fn damaged(at: usize) -> impl FnOnce(Vec<u8>) -> Vec<u8> {
    move |mut bytes| {
        bytes[at] ^= 1;
        bytes
    }
}

#[tokio::test]
async fn what_a_mirror_has_wrong_of_a_withheld_part_is_noticed_by_no_client() {
    let html = |_| b"<html>sign in</html>".to_vec();
    let longer = |mut bytes: Vec<u8>| {
        bytes.push(1);
        bytes
    };
    for (scene, fault) in [
        (Scene::new(&CONFIG, damaged(0)), DeliveryFault::Digest),
        (Scene::new(&CONFIG, html), DeliveryFault::Digest),
        (Scene::new(&CONFIG, |_| Vec::new()), DeliveryFault::Digest),
        (Scene::new(&CONFIG, longer), DeliveryFault::Digest),
        (Scene::new(&LAYER, damaged(0)), DeliveryFault::Digest),
        (Scene::new(&LARGE, damaged(0)), DeliveryFault::Digest),
        (Scene::new(&LARGE, damaged(LARGE.len() / 2)), DeliveryFault::Digest),
        (Scene::new(&LARGE, damaged(LARGE.len() - 1)), DeliveryFault::Digest),
        (Scene::new(&LARGE, |mut bytes| bytes.split_off(100_000)), DeliveryFault::Digest),
    ] {
        assert_eq!(scene.pull().await.unwrap(), scene.content);
        assert_eq!(scene.cost(), (2, vec![mirror(fault)]));
        scene.is_stored().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_sent_wrong_bytes_gets_no_whole_body_and_the_next_one_gets_the_right_one() {
    for (at, may_be_whole) in [(0, false), (150_000, true), (LAYER.len() - 1, true)] {
        let scene = Scene::new(&LAYER, |bytes| bytes);
        let bytes = Bytes::from(damaged(at)(LAYER.to_vec()));
        // So slow that its client is given what has come, before it is verified.
        let body = MirrorBody { chunk_takes: Duration::from_secs(2), ..MirrorBody::whole(bytes) };
        scene.parts.registry.mirror(&scene.app, scene.digest, body);
        match as_time_passes(scene.pull()).await {
            Ok(content) => assert!(may_be_whole && content == LAYER, "a whole body of wrong content: {at}"),
            Err(error) => assert!(at < 200_000 && matches!(error, Error::ContentReplaced), "{at}: {error}"),
        }
        as_time_passes(scene.is_stored()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_a_mirror_breaks_off_goes_on_at_the_registry() {
    for (content, breaks_at) in [(&LAYER[..], 100_000), (&LAYER, 0), (&CONFIG, 500)] {
        let scene = Scene::new(content, |bytes| bytes);
        let size = Some(content.len() as u64);
        let bytes = Bytes::from_static(content);
        let body = MirrorBody { size, breaks_at: Some(breaks_at), ..MirrorBody::whole(bytes) };
        scene.parts.registry.mirror(&scene.app, scene.digest, body);
        let before = tokio::time::Instant::now();
        assert_eq!(scene.pull().await.unwrap(), content);
        assert_eq!(before.elapsed(), Duration::ZERO, "another endpoint is asked at once");
        assert_eq!(scene.cost(), (2, vec![mirror(DeliveryFault::BrokenOff)]));
    }
}

#[tokio::test]
async fn a_rest_that_does_not_belong_to_what_a_mirror_sent_is_followed_by_the_whole_from_the_registry() {
    // The mirror's first bytes are wrong, and then it breaks off.
    let scene = Scene::new(&CONFIG, |bytes| bytes);
    let bytes = Bytes::from(damaged(0)(CONFIG.to_vec()));
    let body = MirrorBody { breaks_at: Some(500), ..MirrorBody::whole(bytes) };
    scene.parts.registry.mirror(&scene.app, scene.digest, body);
    assert_eq!(scene.pull().await.unwrap(), CONFIG);
    let faults = vec![mirror(DeliveryFault::BrokenOff), mirror(DeliveryFault::Ranges)];
    assert_eq!(scene.cost(), (3, faults));
    // Its size is another one, and then it breaks off.
    let scene = Scene::new(&CONFIG, |bytes| bytes);
    let whole = MirrorBody::whole(Bytes::from_static(&CONFIG));
    let body = MirrorBody { size: Some(2_000), breaks_at: Some(500), ..whole };
    scene.parts.registry.mirror(&scene.app, scene.digest, body);
    assert_eq!(scene.pull().await.unwrap(), CONFIG);
    let faults = vec![mirror(DeliveryFault::BrokenOff), mirror(DeliveryFault::Range)];
    assert_eq!(scene.cost(), (3, faults));
}

#[tokio::test]
async fn content_that_no_endpoint_has_right_costs_one_download_from_each() {
    let scene = Scene::new(&CONFIG, damaged(0));
    scene.parts.registry.damage(&scene.app, scene.digest, &[8; 1_000]);
    assert!(scene.pull().await.is_err());
    let faults = vec![mirror(DeliveryFault::Digest), ("registry".to_owned(), DeliveryFault::Digest)];
    assert_eq!(scene.cost(), (2, faults));
    assert!(!scene.parts.blobs.has(scene.digest).await);
}

#[tokio::test]
async fn the_only_endpoint_is_not_asked_twice_for_the_same_wrong_content() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &CONFIG);
    parts.registry.damage(&app, digest, &[8; 1_000]);
    assert!(pull(&parts, &for_tests::pull(&app), digest).await.is_err());
    assert_eq!(downloads(&parts.registry.asked()), 1);
    const { assert!(CONFIG.len() < TAIL as usize && LAYER.len() > TAIL as usize) };
}

#[tokio::test]
async fn a_blob_that_a_mirror_alone_delivered_is_a_member_only_if_the_registry_says_so() {
    for has_it in [false, true] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
        let (digest, context) = (Digest::of(&LAYER), for_tests::pull(&app));
        parts.registry.mirror(&app, digest, MirrorBody::whole(Bytes::from_static(&LAYER)));
        if has_it {
            parts.registry.push(&app, None, &LAYER);
        }
        assert!(pull(&parts, &context, digest).await.unwrap() == LAYER);
        parts.blobs.settle(Duration::from_secs(10)).await;
        assert!(parts.blobs.has(digest).await, "it is kept for repositories that have it");
        assert_eq!(parts.access.membership().of(&app, digest).await.is_some(), has_it);
        assert_eq!(pull(&parts, &context, digest).await.is_ok(), has_it, "the registry says no");
    }
}
