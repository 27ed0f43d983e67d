//! From one process to the next: what a stop leaves, what a start finds, and what other tools see meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::tests::{World, bytes, open, owner, repository};
use super::*;
use crate::reference::MediaType;
use crate::store::layout::Layout;
use crate::support::clock::Timestamp;

#[tokio::test]
async fn the_pins_of_an_earlier_process_are_there_from_the_first_moment() {
    let world = World::new();
    let (app, digest) = (repository("reg.test/a"), Digest::of(b"x"));
    for n in 0..200 {
        let reference = format!("v{n}");
        let owner = Some("test".to_owned());
        world
            .store
            .pin(Pin { repository: app.clone(), reference, root: digest, digests: vec![digest], owner })
            .await
            .unwrap();
    }
    let world = world.restarted();
    assert_eq!(world.store.pins().len(), 200);
    assert_eq!(world.store.unpin(&app, &"v7".parse().unwrap()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_tag_survives_a_restart_and_the_loss_of_the_index() {
    let world = World::new();
    let (repository, tag) = (repository("reg.test/a/b"), "v1".parse().unwrap());
    let digest = world.put(&repository, b"manifest").await;
    world.store.records().confirm_tag(&repository, &tag, digest).await.unwrap();
    let world = world.restarted();
    world.store.0.index.close();
    fs::remove_dir_all(world.file("index")).unwrap();
    let world = world.restarted();
    let expected = TagRecord { digest, confirmed_at: Timestamp(1_000) };
    assert_eq!(world.store.records().tag(&repository, &tag).await, Some(expected));
    assert_eq!(world.content(digest).await.as_deref(), Some(&b"manifest"[..]));
    world.store.records().remove_tag(&repository, &tag).await.unwrap();
    world.store.records().remove_tag(&repository, &tag).await.unwrap();
    assert_eq!(world.store.records().tag(&repository, &tag).await, None);
}

#[test]
fn a_second_daemon_is_refused_and_an_unknown_format_too() {
    let world = World::new();
    assert!(matches!(open(world.directory.path()), Err(Error::Locked(_))));
    world.store.0.index.close();
    drop(world.store);
    fs::write(world.directory.path().join("format"), "larder store 99\n").unwrap();
    assert!(
        matches!(open(world.directory.path()), Err(Error::Format { found, .. }) if found == "larder store 99")
    );
}

#[test]
fn content_that_an_earlier_process_was_receiving_is_removed() {
    let world = World::new();
    fs::write(world.file("ingest/half"), b"half").unwrap();
    fs::create_dir(world.file("ingest/directory")).unwrap();
    symlink("/etc", world.file("ingest/link")).unwrap();
    let world = world.restarted();
    assert_eq!(fs::read_dir(world.file("ingest")).unwrap().count(), 0);
    assert!(Path::new("/etc").exists());
}

#[test]
fn what_the_disk_did_not_remove_occupies_no_space_once_it_does_though_nothing_is_written() {
    let world = World::new();
    let stuck = world.file("ingest/stuck");
    // A directory stands for a file that cannot be removed: these tests run as root too.
    fs::create_dir(&stuck).unwrap();
    world.store.0.layout.remove_temporary(&stuck);
    world.store.0.maintenance.keep_within_budget();
    fs::remove_dir(&stuck).unwrap();
    fs::write(&stuck, b"half").unwrap();
    world.store.0.maintenance.keep_within_budget();
    assert!(!stuck.exists());
}

#[tokio::test]
async fn other_tools_find_the_tags_in_index_json() {
    let world = World::new();
    let (repository, tag) = (repository("reg.test/a/b"), "v1".parse().unwrap());
    let digest = Digest::of(b"{}");
    let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
    world.store.put(for_tests::content(&repository, b"{}", member)).await.unwrap();
    world.store.records().confirm_tag(&repository, &tag, digest).await.unwrap();
    maintenance::oci_index::write(
        &Layout::new(world.directory.path()),
        &records::changed_tags::TagChanges::Any,
    )
    .unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(world.file("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest.to_string());
    assert_eq!(index["manifests"][0]["size"], 2);
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "reg.test/a/b:v1");
}

#[tokio::test]
async fn a_stop_leaves_index_json_in_step_with_the_tags_and_the_index_closed() {
    let world = World::new();
    let repository = repository("reg.test/a/b");
    let digest = Digest::of(b"{}");
    let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
    world.store.put(for_tests::content(&repository, b"{}", member)).await.unwrap();
    world.store.records().confirm_tag(&repository, &"v1".parse().unwrap(), digest).await.unwrap();
    let (trigger, shutdown) = crate::support::shutdown::channel();
    trigger.fire();
    world.store.clone().maintain(shutdown).await;
    let index = fs::read_to_string(world.file("index.json")).unwrap();
    assert!(index.contains("reg.test/a/b:v1"), "{index}");
    assert!(world.file("index/clean").exists());
}

#[tokio::test]
async fn what_is_written_after_its_answer_is_seen_at_once_and_kept_by_a_stop_the_content_before_its_tag() {
    let world = World::new();
    let (app, tag) = (repository("reg.test/a"), "v1".parse().unwrap());
    let content = Bytes::from(bytes(100));
    let digest = Digest::of(&content);
    let records = world.store.records();
    let (blob_file, written) = (world.blob_file(digest), Arc::new(Mutex::new(None)));
    records.writes().later(|| std::thread::sleep(Duration::from_millis(50))).await;
    world.store.put_later(for_tests::content(&app, &content, Member::Blob), |_| {}).await;
    let seen = Arc::clone(&written);
    records.writes().later(move || *seen.lock() = Some(blob_file.exists())).await;
    records.confirm_tag_later(&app, &tag, digest).await;
    assert_eq!(records.tag(&app, &tag).await.map(|record| record.digest), Some(digest));
    records.confirm_tag_later(&app, &"gone".parse().unwrap(), digest).await;
    records.remove_tag(&app, &"gone".parse().unwrap()).await.unwrap();
    assert_eq!(*written.lock(), Some(true), "the content is durable when its tag is written");
    world.store.put_later(for_tests::content(&app, b"last", Member::Blob), |_| {}).await;
    world.store.close().await;
    let next = open(world.directory.path()).unwrap();
    assert_eq!(next.records().tag(&app, &tag).await.map(|record| record.digest), Some(digest));
    assert_eq!(
        next.records().tag(&app, &"gone".parse().unwrap()).await,
        None,
        "it was removed after it was set"
    );
    assert!(next.blob(digest).await.is_some() && next.blob(Digest::of(b"last")).await.is_some());
}

#[tokio::test]
async fn a_tag_that_is_confirmed_again_and_again_costs_the_disk_nothing_and_a_change_is_seen_at_once() {
    let world = World::new();
    let (app, tag) = (repository("reg.test/a"), "v1".parse().unwrap());
    let (old, new) = (world.put(&app, b"old").await, world.put(&app, b"new").await);
    let records = world.store.records();
    let now = async || records.tag(&app, &tag).await.map(|record| record.digest);
    records.confirm_tag(&app, &tag, old).await.unwrap();
    assert_eq!(now().await, Some(old));
    let file = world.store.0.layout.tag(&app, &tag);
    fs::remove_file(&file).unwrap();
    records.confirm_tag_later(&app, &tag, old).await;
    world.store.flush().await;
    assert!(!file.exists(), "it was written, or looked for, although it says the same");
    assert_eq!(now().await, Some(old));
    records.confirm_tag_later(&app, &tag, new).await;
    assert_eq!(now().await, Some(new));
    world.store.flush().await;
    assert_eq!(now().await, Some(new));
    records.confirm_tag(&app, &tag, old).await.unwrap();
    assert_eq!(now().await, Some(old));
    records.remove_tag(&app, &tag).await.unwrap();
    assert_eq!(now().await, None);
}

#[tokio::test]
async fn a_tag_whose_manifest_could_not_be_stored_is_known_in_memory_and_not_on_disk() {
    let world = World::new();
    let (app, tag) = (repository("reg.test/a"), "v1".parse().unwrap());
    let (old, new) = (world.put(&app, b"old").await, Digest::of(b"new"));
    let records = world.store.records();
    records.confirm_tag(&app, &tag, old).await.unwrap();
    // Other content than its digest says: it is not stored.
    let stored = Arc::new(Mutex::new(None));
    let done = Arc::clone(&stored);
    let told = move |is_stored| *done.lock() = Some(is_stored);
    let other = WholeContent { digest: new, ..for_tests::content(&app, b"other", Member::Blob) };
    world.store.put_later(other, told).await;
    records.confirm_tag_later(&app, &tag, new).await;
    world.store.flush().await;
    assert_eq!(*stored.lock(), Some(false));
    assert_eq!(records.tag(&app, &tag).await.map(|record| record.digest), Some(new));
    let on_disk = fs::read_to_string(world.store.0.layout.tag(&app, &tag)).unwrap();
    assert!(on_disk.contains(&old.to_string()), "{on_disk}");
    // Once it is there the record is written.
    world.store.put_later(for_tests::content(&app, b"new", Member::Blob), |_| {}).await;
    records.confirm_tag_later(&app, &tag, new).await;
    world.store.close().await;
    let next = open(world.directory.path()).unwrap();
    assert_eq!(next.records().tag(&app, &tag).await.map(|record| record.digest), Some(new));
}

#[tokio::test]
async fn a_download_that_outlives_the_stop_keeps_no_daemon_from_starting_and_changes_none_of_its_files() {
    let world = World::new();
    let (app, digest) = (repository("reg.test/team/app"), Digest::of(b"late"));
    let stored = world.put(&app, b"stored").await;
    let mut late = world.store.begin(digest, Some(4), owner()).await.unwrap();
    late.write(&Bytes::from_static(b"late")).unwrap();
    late.hash(&Bytes::from_static(b"late"));
    world.store.close().await;
    let next = open(world.directory.path()).unwrap();

    let store = world.store.clone();
    let committed = blocking::run(move || store.commit(late.verify()?, &app, Some(&Member::Blob))).await;
    assert!(matches!(committed, Err(Error::Closed)), "{committed:?}");
    assert!(matches!(world.store.begin(digest, Some(4), owner()).await, Err(Error::Closed)));
    let all = world.store.records().clone();
    assert!(all.revoke(None, || {}).await.is_err(), "the grants belong to the next daemon");
    assert!(next.blob(digest).await.is_none());
    assert!(next.blob(stored).await.is_some());
    next.0.index.catch_up();
    assert_eq!(next.totals().blobs, 1);
}
