//! The store's promises: nothing unverified is a blob, nothing damaged leaves, nothing half done survives a start.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};

use bytes::Bytes;

use super::*;
use crate::reference::MediaType;
use crate::support::body_chunk::BodyChunk;
use crate::support::clock::Timestamp;
use crate::support::metrics::Registry as MetricsRegistry;

struct World {
    directory: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).unwrap();
        Self { directory, store }
    }

    /// Closes the store and opens it again, as a restart does.
    fn restarted(self) -> Self {
        self.store.0.index.close();
        drop(self.store);
        let store = open(self.directory.path()).unwrap();
        Self { directory: self.directory, store }
    }

    async fn put(&self, repository: &Repository, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        self.store.put(repository, digest, Bytes::copy_from_slice(content), Member::Blob).await.unwrap();
        digest
    }

    async fn content(&self, digest: Digest) -> Option<Bytes> {
        let blob = self.store.blob(digest).await.unwrap()?;
        blob.read_all(1 << 20).await.ok()
    }

    fn file(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn blob_file(&self, digest: Digest) -> PathBuf {
        self.file(&format!("blobs/sha256/{}", digest.hex()))
    }
}

pub(super) fn open(path: &std::path::Path) -> Result<Store, Error> {
    let budget = Budget { max: Amount::Percent(100), min_free: Amount::Bytes(0) };
    open_within(path, budget)
}

pub(super) fn open_within(path: &std::path::Path, budget: Budget) -> Result<Store, Error> {
    let metrics = Arc::new(Metrics::register(&MetricsRegistry::new()).unwrap());
    Store::open(&Config { path: path.to_owned(), budget }, Clock::manual(Timestamp(1_000)), metrics)
}

pub(super) fn repository(name: &str) -> Repository {
    let (registry, path) = name.split_once('/').unwrap();
    Repository::new(registry.parse().unwrap(), path.parse().unwrap()).unwrap()
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

fn content_of(piece: BodyChunk) -> Vec<u8> {
    match piece {
        BodyChunk::Memory(bytes) => bytes.to_vec(),
        BodyChunk::File(extent) => {
            let mut bytes = vec![0; extent.len];
            extent.file.read_exact_at(&mut bytes, extent.offset).unwrap();
            bytes
        }
    }
}

#[tokio::test]
async fn any_range_is_the_same_bytes() {
    let world = World::new();
    let content = bytes(200_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let blob = world.store.blob(digest).await.unwrap().unwrap();
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
async fn what_is_not_what_it_says_never_becomes_a_blob() {
    let world = World::new();
    let digest = Digest::of(b"right");
    for (declared, sent) in [(None, &b"wrong"[..]), (Some(5), b"righ"), (Some(5), b"wrong"), (None, b"")] {
        let mut ingest = world.store.begin(digest, declared).await.unwrap();
        ingest.write(&Bytes::from_static(sent)).unwrap();
        ingest.hash(&Bytes::from_static(sent));
        assert!(ingest.verify().is_err(), "{sent:?}");
    }
    let mut ingest = world.store.begin(digest, Some(5)).await.unwrap();
    assert!(matches!(
        ingest.write(&Bytes::from_static(b"right and more")),
        Err(Error::TooLong { limit: 5, .. })
    ));
    drop(ingest);
    assert!(world.store.begin(digest, Some(u64::MAX)).await.is_err());
    assert_eq!(world.content(digest).await, None);
    assert_eq!(fs::read_dir(world.file("ingest")).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn bytes_give_no_membership_and_membership_gives_no_bytes() {
    let world = World::new();
    let (a, b) = (repository("reg.test/a"), repository("reg.test/b"));
    let digest = world.put(&a, b"shared").await;
    assert_eq!(world.store.member(&a, digest).await, Some(Member::Blob));
    assert_eq!(world.store.member(&b, digest).await, None);
    assert!(world.store.received_from(a.registry(), digest).await);
    assert!(!world.store.received_from(&"evil.test".parse().unwrap(), digest).await);

    let absent = Digest::of(b"absent");
    let manifest = Member::Manifest(MediaType::OCI_INDEX.parse().unwrap());
    world.store.add_member(&b, absent, manifest.clone()).await.unwrap();
    assert_eq!(world.store.member(&b, absent).await, Some(manifest));
    assert_eq!(world.content(absent).await, None);
}

#[tokio::test]
async fn a_tag_outlives_a_restart_and_the_loss_of_the_index() {
    let world = World::new();
    let (repository, tag) = (repository("reg.test/a/b"), "v1".parse().unwrap());
    let digest = world.put(&repository, b"manifest").await;
    world.store.confirm_tag(&repository, &tag, digest).await.unwrap();
    let world = world.restarted();
    world.store.0.index.close();
    fs::remove_dir_all(world.file("index")).unwrap();
    let world = world.restarted();
    let expected = TagRecord { digest, confirmed_at: Timestamp(1_000) };
    assert_eq!(world.store.tag(&repository, &tag).await, Some(expected));
    assert_eq!(world.content(digest).await.as_deref(), Some(&b"manifest"[..]));
    world.store.remove_tag(&repository, &tag).await.unwrap();
    world.store.remove_tag(&repository, &tag).await.unwrap();
    assert_eq!(world.store.tag(&repository, &tag).await, None);
}

#[tokio::test]
async fn a_flipped_byte_is_noticed_and_does_not_leave() {
    let world = World::new();
    let content = bytes(200_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let mut damaged = content.clone();
    damaged[150_000] ^= 1;
    fs::write(world.blob_file(digest), damaged).unwrap();
    let blob = world.store.blob(digest).await.unwrap().unwrap();
    let sound = content_of(blob.read(0, 100).await.unwrap());
    assert_eq!(sound, content[..100], "the sound chunks may leave");
    assert!(matches!(blob.read(140_000, 200_000).await, Err(Error::Damaged { .. })));
    let another = blob.clone();
    world.store.quarantine(&blob, "test".into()).await;
    assert_eq!(world.content(digest).await, None);
    assert_eq!(fs::read_dir(world.file("quarantine")).unwrap().count(), 2, "the bytes and the reason");
    // Somebody who read it at the same time finds the damage when it has been fetched anew already.
    world.put(&repository("reg.test/a"), &content).await;
    world.store.quarantine(&another, "test".into()).await;
    assert_eq!(world.content(digest).await.as_deref(), Some(&content[..]), "what was fetched anew stays");
}

#[tokio::test]
async fn whatever_stands_in_a_blobs_place_is_not_served_and_does_not_hang() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), b"secret of another file").unwrap();
    for kind in ["empty", "longer", "directory", "symlink", "fifo", "other"] {
        let world = World::new();
        let digest = world.put(&repository("reg.test/a"), b"sound").await;
        let file = world.blob_file(digest);
        fs::remove_file(&file).unwrap();
        match kind {
            "empty" => fs::write(&file, b"").unwrap(),
            "longer" => fs::write(&file, b"sound and more").unwrap(),
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
async fn lost_checksums_are_made_anew_only_for_sound_bytes() {
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
fn what_an_earlier_process_was_writing_is_swept() {
    let world = World::new();
    fs::write(world.file("ingest/half"), b"half").unwrap();
    fs::create_dir(world.file("ingest/directory")).unwrap();
    symlink("/etc", world.file("ingest/link")).unwrap();
    let world = world.restarted();
    assert_eq!(fs::read_dir(world.file("ingest")).unwrap().count(), 0);
    assert!(std::path::Path::new("/etc").exists());
}

#[tokio::test]
async fn other_tools_find_the_tags_in_index_json() {
    let world = World::new();
    let (repository, tag) = (repository("reg.test/a/b"), "v1".parse().unwrap());
    let digest = Digest::of(b"{}");
    let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
    world.store.put(&repository, digest, Bytes::from_static(b"{}"), member).await.unwrap();
    world.store.confirm_tag(&repository, &tag, digest).await.unwrap();
    world.store.write_oci_index().await;
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(world.file("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest.to_string());
    assert_eq!(index["manifests"][0]["size"], 2);
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "reg.test/a/b:v1");
}

#[tokio::test]
async fn a_look_at_everything_finds_what_reading_would_miss_and_sets_it_aside() {
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
    assert!(world.blob_file(bad).exists(), "it only looks");
    world.store.look_at(bad).await;
    world.store.look_at(good).await;
    assert!(!world.blob_file(bad).exists() && world.blob_file(good).exists());
    assert_eq!(world.store.0.metrics.scrubbed.get(), 4);
    assert_eq!(verifier.verify(&bad, true).unwrap(), Finding::Absent);
    assert!(Verifier::open(&world.file("nowhere")).is_err());
}

#[tokio::test]
async fn the_quarantine_of_a_dying_disk_does_not_fill_it() {
    let world = World::new();
    let digest = Digest::of(b"x");
    for n in 0..40 {
        world.put(&repository("a.test/r"), b"x").await;
        world.store.clock().advance(Duration::from_secs(1 + n));
        let blob = world.store.blob(digest).await.unwrap().unwrap();
        world.store.quarantine(&blob, "a reason".to_owned()).await;
    }
    let kept = fs::read_dir(world.file("quarantine")).unwrap().count();
    assert_eq!(kept, 2 * 32, "each with its reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_a_moment_ago_makes_room_too() {
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
    // Time to be refused in; it waits for the count instead.
    tokio::time::sleep(Duration::from_millis(50)).await;
    busy.recv().unwrap();
    second.await.unwrap().unwrap();
    store.0.index.catch_up();
    assert_eq!(store.totals(), Totals { blobs: 1, bytes: 200_001 });
}

#[tokio::test]
async fn a_lack_of_room_is_said_once_in_a_while_and_a_failing_disk_each_time() {
    let world = World::new();
    let full = Error::Full { needed: 1 };
    assert!(world.store.should_log(&full));
    assert!(!world.store.should_log(&full) && !world.store.should_log(&Error::Paused));
    world.store.clock().advance(NO_ROOM_SAID_EVERY);
    assert!(world.store.should_log(&full) && !world.store.should_log(&full));
    let disk = Error::io("write", &world.file("x"))(std::io::ErrorKind::StorageFull.into());
    assert!(world.store.should_log(&disk) && world.store.should_log(&disk));
}
