//! Blobs against a registry of the tests' own.

use futures_util::future::join_all;

use super::into_store::InStore;
use super::*;
use crate::pull::context::Priority;
use crate::pull::for_tests::{self, Parts};
use crate::support::body_chunk::BodyChunk;

/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [7; 300_000];

pub(super) async fn read(answer: BlobAnswer) -> Result<Vec<u8>, Error> {
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

pub(super) async fn pull(parts: &Parts, context: &PullContext, digest: Digest) -> Result<Vec<u8>, Error> {
    read(parts.blobs.find(context, digest, BlobRange::Whole).await?).await
}

pub(super) fn downloads(asked: &[String]) -> usize {
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
    assert!(!parts.blobs.has(digest).await);
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
async fn what_one_tenant_received_makes_no_first_request_of_another_wait_through_an_outage() {
    let parts = Parts::new();
    let [one, two]: [crate::reference::Repository; 2] =
        ["reg.test/one", "reg.test/two"].map(|name| name.parse().unwrap());
    let digest = parts.registry.push(&one, None, &LAYER);
    parts.registry.push(&two, None, &LAYER);
    assert_eq!(pull(&parts, &for_tests::pull(&one), digest).await.unwrap(), LAYER);
    parts.blobs.settle(Duration::from_secs(10)).await;
    parts.registry.fail(Some(for_tests::outage()));
    parts.registry.asked();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let context = for_tests::pull(&two).as_anonymous().answered_within(Duration::from_secs(25));
    assert!(parts.blobs.find(&context, digest, BlobRange::Whole).await.is_err());
    let asked = parts.registry.asked();
    assert!(asked.len() <= 3, "{asked:?}");
    assert_eq!(begun.elapsed(), Duration::ZERO, "its client asks the registry itself");
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
    let context = for_tests::pull(&app).with_priority(Priority::Background);
    for downloaded in [true, false] {
        let fetched = parts.blobs.fetch_into_store(&context, digest, |_, _| {}).await.unwrap();
        let expected = InStore { size: LAYER.len() as u64, was_downloaded: downloaded };
        assert_eq!(fetched, expected);
    }
    parts.blobs.prefetch(&context, digest, LAYER.len() as u64).await;
    assert_eq!(downloads(&parts.registry.asked()), 1);
}

/// Flips a byte of a stored blob, in the file that its readers have open.
pub(super) fn damage(parts: &Parts, digest: Digest, at: usize) {
    let path = for_tests::blob_file(&parts.directory, digest);
    let mut content = std::fs::read(&path).unwrap();
    content[at] ^= 1;
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn a_byte_that_changed_on_disk_after_the_download_is_not_sent_to_its_slow_readers() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let context = for_tests::pull(&app);
    let slow = parts.blobs.find(&context, digest, BlobRange::Whole).await.unwrap();
    parts.blobs.settle(Duration::from_secs(10)).await;
    damage(&parts, digest, LAYER.len() - 1);
    assert!(read(slow).await.unwrap() == LAYER);
    assert_eq!(downloads(&parts.registry.asked()), 2, "it was fetched anew");
    parts.blobs.settle(Duration::from_secs(10)).await;
    assert!(pull(&parts, &context, digest).await.unwrap() == LAYER);
    assert!(parts.registry.asked().is_empty());
}

/// The file that a download is written to.
fn ingest_file(parts: &Parts) -> std::path::PathBuf {
    let ingest = parts.directory.path().join("store/ingest");
    let mut files = std::fs::read_dir(ingest).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.is_file()).expect("a download under way")
}

#[tokio::test]
async fn a_download_that_the_disk_does_not_give_back_is_gone_on_with_once_it_is_verified() {
    static LARGE: [u8; 1_000_000] = [7; 1_000_000];
    let flip = |file: &std::fs::File, sent: usize| {
        for at in [5, sent + 5] {
            std::os::unix::fs::FileExt::write_all_at(file, &[8], at as u64).unwrap();
        }
    };
    for is_cut_off in [false, true] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &LARGE);
        let gate = parts.registry.hold_after(500_000);
        let context = for_tests::pull(&app);
        let mut slow = parts.blobs.find(&context, digest, BlobRange::Whole).await.unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(ingest_file(&parts)).unwrap();
        while file.metadata().unwrap().len() < 490_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let sent = slow.body.next().await.unwrap().unwrap().len();
        // Neither the next bytes nor all that were sent can be read back.
        if is_cut_off {
            file.set_len(1_000).unwrap()
        } else {
            flip(&file, sent)
        }
        let open = async {
            tokio::task::yield_now().await;
            gate.add_permits(1_000);
        };
        let (rest, ()) = tokio::join!(read(slow), open);
        assert!(rest.unwrap() == LARGE[sent..]);
        parts.blobs.settle(Duration::from_secs(10)).await;
        assert!(pull(&parts, &context, digest).await.unwrap() == LARGE);
    }
}

#[tokio::test]
async fn a_damaged_blob_on_a_disk_that_takes_no_writes_comes_from_upstream_and_is_verified_as_a_whole() {
    static WRONG: [u8; 300_000] = [8; 300_000];
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let context = for_tests::pull(&app);
    pull(&parts, &context, digest).await.unwrap();
    parts.blobs.settle(Duration::from_secs(10)).await;
    let store = parts.directory.path().join("store");
    for directory in ["ingest", "quarantine"] {
        let _ = std::fs::remove_dir_all(store.join(directory));
        std::fs::write(store.join(directory), "in the way").unwrap();
    }
    damage(&parts, digest, 200_000);
    parts.registry.asked();
    for _ in 0..2 {
        assert!(pull(&parts, &context, digest).await.unwrap() == LAYER);
        let asked = downloads(&parts.registry.asked());
        assert!((1..=2).contains(&asked), "{asked} downloads");
    }
    // The bytes before the damage were right, and those behind it are wrong: only the whole tells.
    std::fs::remove_file(for_tests::blob_file(&parts.directory, digest)).unwrap();
    parts.registry.damage(&app, digest, &WRONG);
    assert!(pull(&parts, &context, digest).await.is_err());
}

#[tokio::test]
async fn the_end_of_a_repaired_body_is_withheld_until_it_is_right_together_with_what_was_sent() {
    static WRONG: [u8; 300_000] = [8; 300_000];
    for behind in [LAYER.len() - 1, 100_000] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &LAYER);
        let context = for_tests::pull(&app);
        pull(&parts, &context, digest).await.unwrap();
        parts.blobs.settle(Duration::from_secs(10)).await;
        let store = parts.directory.path().join("store");
        // What lies in the way would be moved to quarantine.
        for directory in ["ingest", "quarantine"] {
            std::fs::remove_dir_all(store.join(directory)).unwrap();
            std::fs::write(store.join(directory), "in the way").unwrap();
        }
        damage(&parts, digest, behind);
        parts.registry.damage(&app, digest, &WRONG);
        assert!(pull(&parts, &context, digest).await.is_err(), "{behind}");
    }
}

/// A store that takes nothing, because something lies where downloads are written.
pub(super) fn refuse_downloads(parts: &Parts) {
    // What lies in the way would be moved to quarantine.
    for directory in ["ingest", "quarantine"] {
        let directory = parts.directory.path().join("store").join(directory);
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::write(directory, "in the way").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_past_the_disk_whose_clients_read_slowly_is_not_ended_as_one_without_clients() {
    static LARGE: [u8; 3_000_000] = [7; 3_000_000];
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LARGE);
    refuse_downloads(&parts);
    let context = for_tests::pull(&app);
    let read_slowly = || async {
        let mut answer = parts.blobs.find(&context, digest, BlobRange::Whole).await.unwrap();
        let mut len = 0;
        while let Some(chunk) = answer.body.next().await {
            len += chunk.unwrap().len();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        len
    };
    let read = tokio::join!(read_slowly(), read_slowly());
    assert_eq!(read, (LARGE.len(), LARGE.len()));
    assert_eq!(downloads(&parts.registry.asked()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_download_past_the_disk_ends_when_its_last_client_has_left() {
    static LARGE: [u8; 3_000_000] = [7; 3_000_000];
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LARGE);
    refuse_downloads(&parts);
    let mut answer = parts.blobs.find(&for_tests::pull(&app), digest, BlobRange::Whole).await.unwrap();
    answer.body.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(parts.blobs.downloads(), 1, "a client that pauses");
    drop(answer);
    parts.blobs.settle(Duration::from_secs(10)).await;
    assert_eq!(parts.blobs.downloads(), 0);
}
