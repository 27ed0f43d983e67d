//! Blobs against a registry of the tests' own.

use futures_util::future::join_all;

use super::*;
use crate::pull::for_tests::{self, Parts};
use crate::support::body_chunk::BodyChunk;

/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [7; 300_000];

async fn read(answer: BlobAnswer) -> Result<Vec<u8>, Error> {
    let BlobAnswer { mut body, .. } = answer;
    let mut content = Vec::new();
    while let Some(chunk) = body.next().await {
        match chunk? {
            BodyChunk::Memory(bytes) => content.extend_from_slice(&bytes),
            BodyChunk::File(range) => {
                let mut bytes = vec![0; range.len];
                std::os::unix::fs::FileExt::read_exact_at(&*range.file, &mut bytes, range.offset).unwrap();
                content.extend(bytes);
            }
        }
    }
    Ok(content)
}

async fn pull(parts: &Parts, context: &PullContext, digest: Digest) -> Result<Vec<u8>, Error> {
    read(parts.blobs.find(context, digest, BlobRange::Whole).await?).await
}

fn downloads(asked: &[String]) -> usize {
    asked.iter().filter(|question| question.starts_with("download")).count()
}

#[tokio::test]
async fn any_number_of_readers_cost_one_download_and_the_next_none() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let context = for_tests::pull(&app);
    let read_all = join_all((0..10).map(|_| pull(&parts, &context, digest))).await;
    assert!(read_all.into_iter().all(|content| content.unwrap() == LAYER));
    assert_eq!(downloads(&parts.registry.asked()), 1);
    parts.blobs.settle(Duration::from_secs(10)).await;
    let answer = parts.blobs.find(&context, digest, BlobRange::Whole).await.unwrap();
    assert_eq!(answer.source, AnswerSource::Hit);
    assert_eq!(read(answer).await.unwrap(), LAYER);
    assert!(parts.registry.asked().is_empty());
}

#[tokio::test]
async fn wrong_bytes_never_make_a_complete_body_and_are_not_stored() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    static WRONG: [u8; 300_000] = [8; 300_000];
    parts.registry.damage(&app, digest, &WRONG);
    assert!(pull(&parts, &for_tests::pull(&app), digest).await.is_err());
    assert!(!parts.blobs.has(digest).await.unwrap());
}

#[tokio::test]
async fn a_blob_of_one_tenant_is_not_served_to_another_from_disk_or_in_flight() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    parts.registry.allow(&app, &["alice"]);
    let [alice, bob] = ["alice", "bob"].map(|user| parts.pull_as(user, &app));
    let (for_alice, for_bob) = tokio::join!(pull(&parts, &alice, digest), pull(&parts, &bob, digest));
    assert_eq!(for_alice.unwrap(), LAYER);
    assert!(for_bob.unwrap_err().is_denied());
    parts.blobs.settle(Duration::from_secs(10)).await;
    assert!(pull(&parts, &bob, digest).await.unwrap_err().is_denied());
    assert!(parts.blobs.size(&bob, digest).await.unwrap_err().is_denied());
}

#[tokio::test]
async fn bytes_on_disk_from_another_registry_prove_nothing() {
    let parts = Parts::new();
    let [ours, evil]: [crate::reference::Repository; 2] =
        ["reg.test/app", "evil.test/app"].map(|name| name.parse().unwrap());
    let digest = parts.registry.push(&ours, None, &LAYER);
    pull(&parts, &for_tests::pull(&ours), digest).await.unwrap();
    parts.blobs.settle(Duration::from_secs(10)).await;
    assert!(pull(&parts, &for_tests::pull(&evil), digest).await.is_err());
}

#[tokio::test]
async fn a_blob_is_fetched_into_the_store_once() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let context = for_tests::pull(&app).in_background();
    for downloaded in [true, false] {
        let fetched = parts.blobs.fetch_into_store(&context, digest, |_, _| {}).await.unwrap();
        assert_eq!(fetched, (LAYER.len() as u64, downloaded));
    }
    parts.blobs.prefetch(&context, digest).await;
    assert_eq!(downloads(&parts.registry.asked()), 1);
}
