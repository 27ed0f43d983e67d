//! The store as a whole: nothing unverified is a blob, no damaged byte leaves, nothing half written survives a start.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::reference::MediaType;
use crate::support::body_chunk::BodyChunk;
use crate::support::clock::Timestamp;
use crate::support::metrics::Registry as MetricsRegistry;

struct World {
    directory: tempfile::TempDir,
    store: Store,
    metrics: Arc<Metrics>,
}

impl World {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(directory: tempfile::TempDir) -> Self {
        let metrics = metrics();
        let store = open_with(directory.path(), unlimited(), Arc::clone(&metrics)).unwrap();
        Self { directory, store, metrics }
    }

    /// Closes the store and opens it again, as a restart does.
    fn restarted(self) -> Self {
        self.store.0.index.close();
        drop(self.store);
        Self::at(self.directory)
    }

    async fn put(&self, repository: &Repository, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        self.store.put(repository, digest, Bytes::copy_from_slice(content), Member::Blob).await.unwrap();
        digest
    }

    async fn content(&self, digest: Digest) -> Option<Bytes> {
        let blob = self.store.blob(digest).await?;
        blob.read_all(1 << 20).await.ok()
    }

    fn file(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn blob_file(&self, digest: Digest) -> PathBuf {
        self.file(&format!("blobs/sha256/{}", digest.hex()))
    }
}

pub(super) fn open(path: &Path) -> Result<Store, Error> {
    open_within(path, unlimited())
}

pub(super) fn open_within(path: &Path, budget: Budget) -> Result<Store, Error> {
    open_with(path, budget, metrics())
}

fn open_with(path: &Path, budget: Budget, metrics: Arc<Metrics>) -> Result<Store, Error> {
    Store::open(&Config { path: path.to_owned(), budget }, Clock::manual(Timestamp(1_000)), metrics)
}

fn unlimited() -> Budget {
    Budget { max: Amount::Percent(100), min_free: Amount::Bytes(0) }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register(&MetricsRegistry::new()).unwrap())
}

pub(super) fn repository(name: &str) -> Repository {
    let (registry, path) = name.split_once('/').unwrap();
    Repository::new(registry.parse().unwrap(), path.parse().unwrap()).unwrap()
}

fn owner() -> Owner {
    Owner::unlimited(&"reg.test".parse().unwrap())
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 253) as u8).collect()
}

#[tokio::test]
async fn content_survives_a_restart_byte_for_byte() {
    let world = World::new();
    let content = bytes(200_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let empty = world.put(&repository("reg.test/a"), b"").await;
    let world = world.restarted();
    assert_eq!(world.content(digest).await.as_deref(), Some(&content[..]));
    assert_eq!(world.content(empty).await.as_deref(), Some(&b""[..]));
    world.store.0.index.close();
    assert_eq!(world.store.totals(), Totals { blobs: 2, bytes: 200_000 });
}

fn content_of(chunk: BodyChunk) -> Vec<u8> {
    match chunk {
        BodyChunk::Memory(bytes) => bytes.to_vec(),
        BodyChunk::File(range) => {
            let mut bytes = vec![0; range.len];
            range.file.read_exact_at(&mut bytes, range.offset).unwrap();
            bytes
        }
    }
}

#[tokio::test]
async fn small_content_is_not_written_while_the_disk_is_paused_and_a_failure_to_write_it_begins_a_pause() {
    let world = World::new();
    let (app, content) = (repository("reg.test/a"), Bytes::from_static(b"manifest"));
    let put = || world.store.put(&app, Digest::of(&content), content.clone(), Member::Blob);
    fs::remove_dir(world.file("ingest")).unwrap();
    fs::write(world.file("ingest"), "in the way").unwrap();
    assert!(matches!(put().await, Err(Error::Io { .. })));
    assert!(!world.store.is_caching(), "the disk failed");
    fs::remove_file(world.file("ingest")).unwrap();
    assert!(matches!(put().await, Err(Error::Paused)));
    assert!(!world.file("ingest").exists(), "nothing was tried");
    world.store.clock().advance(Duration::from_secs(60));
    put().await.unwrap();
    assert!(world.store.is_caching());
}

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
async fn any_range_is_the_same_bytes() {
    let world = World::new();
    let content = bytes(200_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let blob = world.store.blob(digest).await.unwrap();
    for (start, end) in [(0, 1), (65_535, 65_537), (65_536, 131_072), (70_000, 199_999), (199_999, 200_000)] {
        let mut got = Vec::new();
        while start + (got.len() as u64) < end {
            got.extend_from_slice(&content_of(blob.read(start + got.len() as u64, end).await.unwrap()));
        }
        assert_eq!(got, content[start as usize..end as usize], "{start}..{end}");
    }
    assert!(blob.read(200_000, 300_000).await.unwrap().is_empty());
}

#[tokio::test]
async fn content_with_another_digest_or_size_never_becomes_a_blob() {
    let world = World::new();
    let digest = Digest::of(b"right");
    for (declared, sent) in [(None, &b"wrong"[..]), (Some(5), b"righ"), (Some(5), b"wrong"), (None, b"")] {
        let mut ingest = world.store.begin(digest, declared, owner()).await.unwrap();
        ingest.write(&Bytes::from_static(sent)).unwrap();
        ingest.hash(&Bytes::from_static(sent));
        assert!(ingest.verify().is_err(), "{sent:?}");
    }
    let mut ingest = world.store.begin(digest, Some(5), owner()).await.unwrap();
    assert!(matches!(
        ingest.write(&Bytes::from_static(b"right and more")),
        Err(Error::TooLong { limit: 5, .. })
    ));
    drop(ingest);
    assert!(world.store.begin(digest, Some(u64::MAX), owner()).await.is_err());
    assert_eq!(world.content(digest).await, None);
    assert_eq!(fs::read_dir(world.file("ingest")).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn bytes_give_no_membership_and_membership_gives_no_bytes() {
    let world = World::new();
    let (a, b) = (repository("reg.test/a"), repository("reg.test/b"));
    let digest = world.put(&a, b"shared").await;
    assert_eq!(world.store.records().member(&a, digest).await, Some(Member::Blob));
    assert_eq!(world.store.records().member(&b, digest).await, None);
    assert!(world.store.records().received_from(a.registry(), digest).await);
    assert!(!world.store.records().received_from(&"evil.test".parse().unwrap(), digest).await);

    let absent = Digest::of(b"absent");
    let manifest = Member::Manifest(MediaType::OCI_INDEX.parse().unwrap());
    world.store.records().add_member(&b, absent, manifest.clone()).await.unwrap();
    assert_eq!(world.store.records().member(&b, absent).await, Some(manifest));
    assert_eq!(world.content(absent).await, None);
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

#[tokio::test]
async fn a_flipped_byte_is_found_and_does_not_leave() {
    let world = World::new();
    let content = bytes(200_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let mut damaged = content.clone();
    damaged[150_000] ^= 1;
    fs::write(world.blob_file(digest), damaged).unwrap();
    let blob = world.store.blob(digest).await.unwrap();
    let intact = content_of(blob.read(0, 100).await.unwrap());
    assert_eq!(intact, content[..100], "intact chunks may leave");
    assert!(matches!(blob.read(140_000, 200_000).await, Err(Error::Damaged { .. })));
    let another = blob.clone();
    world.store.quarantine(&blob, "test".into()).await;
    assert_eq!(world.content(digest).await, None);
    assert_eq!(fs::read_dir(world.file("quarantine")).unwrap().count(), 2, "the bytes and the reason");
    // Another reader of the damaged blob finds the damage when the blob has been fetched anew already.
    world.put(&repository("reg.test/a"), &content).await;
    world.store.quarantine(&another, "test".into()).await;
    assert_eq!(world.content(digest).await.as_deref(), Some(&content[..]), "the new blob stays");
}

#[tokio::test]
async fn a_file_of_another_kind_in_place_of_a_blob_is_not_served_and_does_not_hang() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), b"secret of another file").unwrap();
    for kind in ["empty", "longer", "directory", "symlink", "fifo", "other"] {
        let world = World::new();
        let digest = world.put(&repository("reg.test/a"), b"intact").await;
        let file = world.blob_file(digest);
        fs::remove_file(&file).unwrap();
        match kind {
            "empty" => fs::write(&file, b"").unwrap(),
            "longer" => fs::write(&file, b"intact and more").unwrap(),
            "directory" => fs::create_dir(&file).unwrap(),
            "symlink" => symlink(secret.path(), &file).unwrap(),
            "fifo" => rustix::fs::mknodat(
                rustix::fs::CWD,
                &file,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )
            .unwrap(),
            _ => fs::write(&file, b"wrong").unwrap(),
        }
        assert_eq!(world.content(digest).await, None, "{kind}");
    }
}

#[tokio::test]
async fn lost_checksums_are_made_again_only_for_intact_bytes() {
    let world = World::new();
    let content = bytes(100_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let checks = world.file(&format!("checks/sha256/{}", digest.hex()));
    for damage in [&b""[..], b"LDRCHK1\nnonsense"] {
        fs::write(&checks, damage).unwrap();
        assert_eq!(world.content(digest).await.as_deref(), Some(&content[..]));
    }
    fs::remove_file(&checks).unwrap();
    fs::write(world.blob_file(digest), bytes(100_001)).unwrap();
    assert_eq!(world.content(digest).await, None);
}

#[tokio::test]
async fn a_sound_blob_whose_checksums_cannot_be_written_is_served() {
    let world = World::new();
    let content = bytes(100_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    fs::remove_dir_all(world.file("checks")).unwrap();
    fs::write(world.file("checks"), "in the way").unwrap();
    assert_eq!(world.content(digest).await.as_deref(), Some(&content[..]));
}

#[tokio::test]
async fn a_damaged_blob_that_cannot_be_moved_is_not_opened_again_and_not_counted_as_moved() {
    let world = World::new();
    let (app, content) = (repository("reg.test/a"), bytes(100_000));
    let digest = world.put(&app, &content).await;
    fs::remove_dir(world.file("quarantine")).unwrap();
    fs::write(world.file("quarantine"), "in the way").unwrap();
    let mut damaged = content.clone();
    damaged[70_000] ^= 1;
    fs::write(world.blob_file(digest), damaged).unwrap();
    let blob = world.store.blob(digest).await.unwrap();
    assert!(blob.read(65_536, 100_000).await.is_err());
    world.store.quarantine(&blob, "a test".to_owned()).await;
    assert!(world.store.blob(digest).await.is_none());
    assert_eq!((world.metrics.quarantined.get(), world.metrics.quarantine_failures.get()), (0, 1));
    // The same file cut off: what is refused is the file, and another one is looked at.
    fs::write(world.blob_file(digest), &content[..50_000]).unwrap();
    assert!(world.store.blob(digest).await.is_none());
    assert_eq!(world.metrics.quarantine_failures.get(), 2);
    drop(blob);
    world.put(&app, &content).await;
    assert_eq!(world.content(digest).await.as_deref(), Some(&content[..]), "the new file");
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

#[tokio::test]
async fn other_tools_find_the_tags_in_index_json() {
    let world = World::new();
    let (repository, tag) = (repository("reg.test/a/b"), "v1".parse().unwrap());
    let digest = Digest::of(b"{}");
    let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
    world.store.put(&repository, digest, Bytes::from_static(b"{}"), member).await.unwrap();
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
async fn the_scrub_finds_damage_that_no_reader_has_met_and_moves_it_to_quarantine() {
    let world = World::new();
    let repository = repository("a.test/r");
    let (good, bad) = (world.put(&repository, b"good").await, world.put(&repository, &[7; 100_000]).await);
    let mut content = fs::read(world.blob_file(bad)).unwrap();
    content[70_000] ^= 1;
    fs::write(world.blob_file(bad), content).unwrap();
    let verifier = Verifier::open(world.directory.path()).unwrap();
    assert_eq!(verifier.digests().len(), 2);
    assert_eq!(verifier.verify(&good, false).unwrap(), Finding::Intact(4));
    assert!(matches!(verifier.verify(&bad, false).unwrap(), Finding::Damaged(_)));
    assert!(world.blob_file(bad).exists(), "without repair it stays");
    let scrubber = world.store.0.maintenance.scrubber();
    scrubber.verify_all(&|| true);
    assert!(world.blob_file(bad).exists(), "a scrub that is stopped does nothing");
    scrubber.verify_all(&|| false);
    assert!(!world.blob_file(bad).exists() && world.blob_file(good).exists());
    assert_eq!(world.metrics.scrubbed_bytes.get(), 4);
    assert_eq!(verifier.verify(&bad, true).unwrap(), Finding::Absent);
    assert!(Verifier::open(&world.file("nowhere")).is_err());
}

#[tokio::test]
async fn the_quarantine_of_a_failing_disk_does_not_fill_it() {
    let world = World::new();
    let digest = Digest::of(b"x");
    for n in 0..40 {
        world.put(&repository("a.test/r"), b"x").await;
        world.store.clock().advance(Duration::from_secs(1 + n));
        let blob = world.store.blob(digest).await.unwrap();
        world.store.quarantine(&blob, "a reason".to_owned()).await;
    }
    let files = fs::read_dir(world.file("quarantine")).unwrap().count();
    assert_eq!(files, 2 * 32, "each with its reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_committed_a_moment_ago_can_be_evicted_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget { max: Amount::Bytes(300_000), min_free: Amount::Bytes(0) };
    let store = open_within(directory.path(), budget).unwrap();
    store.0.index.catch_up();
    let busy = store.0.index.hold_up();
    let put = |content: Vec<u8>| {
        let (store, digest) = (store.clone(), Digest::of(&content));
        async move { store.put(&repository("reg.test/a"), digest, content.into(), Member::Blob).await }
    };
    put(bytes(200_000)).await.unwrap();
    let second = tokio::spawn(put(bytes(200_001)));
    // Time in which it could be refused; it waits for the index instead.
    tokio::time::sleep(Duration::from_millis(50)).await;
    busy.recv().unwrap();
    second.await.unwrap().unwrap();
    store.0.index.catch_up();
    assert_eq!(store.totals(), Totals { blobs: 1, bytes: 200_001 });
}

#[tokio::test]
async fn a_stop_leaves_index_json_in_step_with_the_tags_and_the_index_closed() {
    let world = World::new();
    let repository = repository("reg.test/a/b");
    let digest = Digest::of(b"{}");
    let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
    world.store.put(&repository, digest, Bytes::from_static(b"{}"), member).await.unwrap();
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
    world.store.put_later(&app, digest, content.clone(), Member::Blob, |_| {}).await;
    let seen = Arc::clone(&written);
    records.writes().later(move || *seen.lock() = Some(blob_file.exists())).await;
    records.confirm_tag_later(&app, &tag, digest).await;
    assert_eq!(records.tag(&app, &tag).await.map(|record| record.digest), Some(digest));
    records.confirm_tag_later(&app, &"gone".parse().unwrap(), digest).await;
    records.remove_tag(&app, &"gone".parse().unwrap()).await.unwrap();
    assert_eq!(*written.lock(), Some(true), "the content is durable when its tag is written");
    world.store.put_later(&app, Digest::of(b"last"), Bytes::from_static(b"last"), Member::Blob, |_| {}).await;
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

/// An image of one layer: puts its config and manifest and returns the manifest's digest.
async fn put_image(world: &World, repository: &Repository, config: &[u8], layer: Digest) -> Digest {
    let config = world.put(repository, config).await;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.to_string(), "size": 1}],
    });
    world.put(repository, manifest.to_string().as_bytes()).await
}

#[tokio::test]
async fn removing_an_image_leaves_the_blobs_that_another_tag_or_a_pin_needs() {
    let world = World::new();
    let app = repository("reg.test/team/app");
    let layer = world.put(&app, b"layer").await;
    let first = put_image(&world, &app, b"first", layer).await;
    let second = put_image(&world, &app, b"second", layer).await;
    for (tag, digest) in [("v1", first), ("v2", second)] {
        world.store.records().confirm_tag(&app, &tag.parse().unwrap(), digest).await.unwrap();
    }
    let remove = async |tag: &str| {
        world.store.remove_image(&app, &Reference::Tag(tag.parse().unwrap())).await.unwrap()
    };
    let removed = remove("v1").await;
    assert_eq!((removed.tags, removed.pins, removed.blobs), (1, 0, 2), "manifest and config");
    assert!(!world.blob_file(first).exists() && world.blob_file(layer).exists());
    let images = world.store.inventory().await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!((images[0].digest, &images[0].platforms), (second, &vec![String::new()]));

    let pin = Pin {
        repository: app.clone(),
        reference: second.to_string(),
        root: second,
        digests: vec![second, Digest::of(b"second"), layer],
        owner: Some("test".to_owned()),
    };
    world.store.pin(pin).await.unwrap();
    assert_eq!(remove("v2").await, RemovedImage { tags: 1, ..RemovedImage::default() });
    let images = world.store.inventory().await.unwrap();
    assert!(images.len() == 1 && images[0].pinned && images[0].confirmed_at.is_none());
    let reader = world.store.blob(layer).await;
    let removed = world.store.remove_image(&app, &Reference::Digest(second)).await.unwrap();
    assert_eq!((removed.pins, removed.blobs), (1, 2), "the layer is being read");
    drop(reader);
    assert!(world.blob_file(layer).exists() && !world.blob_file(second).exists());
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
    assert!(all.revoke(None).await.is_err(), "the grants belong to the next daemon");
    assert!(next.blob(digest).await.is_none());
    assert!(next.blob(stored).await.is_some());
    next.0.index.catch_up();
    assert_eq!(next.totals().blobs, 1);
}
