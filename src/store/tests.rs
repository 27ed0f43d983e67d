//! The store as a whole: nothing unverified is a blob, no damaged byte leaves, nothing half written survives a start.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::for_tests::SMALL;
use super::*;
use crate::reference::{MediaType, Repository};
use crate::support::body_chunk::BodyChunk;
use crate::support::clock::Timestamp;
use crate::support::metrics::Registry as MetricsRegistry;

pub(super) struct World {
    pub(super) directory: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) metrics: Arc<Metrics>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    pub(super) fn at(directory: tempfile::TempDir) -> Self {
        let metrics = metrics();
        let store = open_with(directory.path(), unlimited(), Arc::clone(&metrics)).unwrap();
        Self { directory, store, metrics }
    }

    /// Closes the store and opens it again, as a restart does.
    pub(super) fn restarted(self) -> Self {
        self.store.0.index.close();
        drop(self.store);
        Self::at(self.directory)
    }

    pub(super) async fn put(&self, repository: &Repository, content: &[u8]) -> Digest {
        self.store.put(for_tests::content(repository, content, Member::Blob)).await.unwrap();
        Digest::of(content)
    }

    pub(super) async fn content(&self, digest: Digest) -> Option<Bytes> {
        let blob = self.store.blob(digest).await?;
        blob.read_all(1 << 20).await.ok()
    }

    pub(super) fn file(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    pub(super) fn blob_file(&self, digest: Digest) -> PathBuf {
        self.file(&format!("blobs/sha256/{}", digest.hex()))
    }
}

#[test]
fn a_blob_that_is_looked_up_for_the_first_time_costs_one_trip_to_another_thread_and_then_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let world = World::new();
        let (app, other) = (repository("reg.test/a"), repository("reg.test/b"));
        let digest = world.put(&app, b"small").await;
        // Nothing of it is in memory.
        let world = world.restarted();
        // Keeps the only thread that may block busy.
        let hold = || {
            let (release, held) = std::sync::mpsc::channel::<()>();
            drop(tokio::task::spawn_blocking(move || held.recv()));
            release
        };
        let before = hold();
        let mut first = Box::pin(world.store.received_blob(&app, digest));
        tokio::select! {
            biased;
            _ = &mut first => panic!("without the disk"),
            () = std::future::ready(()) => {}
        }
        let after = hold();
        drop(before);
        let found = tokio::time::timeout(Duration::from_secs(20), first).await;
        assert_eq!(
            found.expect("it needs a second trip").map(|(_, member)| member),
            Some(Some(Member::Blob))
        );
        let again = world.store.received_blob(&app, digest);
        let found = tokio::time::timeout(Duration::from_secs(20), again).await;
        assert_eq!(found.expect("it needs a trip again").map(|(_, member)| member), Some(Some(Member::Blob)));
        drop(after);
        let elsewhere = world.store.received_blob(&other, digest).await;
        assert_eq!(elsewhere.map(|(_, member)| member), Some(None), "what one may serve another may not");
        let stranger = repository("evil.test/a");
        assert!(world.store.received_blob(&stranger, digest).await.is_none(), "it never sent the bytes");
    });
}

#[tokio::test]
async fn a_store_on_a_filesystem_that_is_mounted_read_only_says_so_before_anything_is_pulled() {
    let (directory, clock, metrics) =
        (tempfile::tempdir().unwrap(), Clock::manual(Timestamp(1_000)), metrics());
    let config = Config { path: directory.path().to_owned(), budget: unlimited() };
    let store = Store::open_with(&config, &clock, &metrics, SMALL, |_| true).unwrap();
    assert_eq!(store.write_failure(), Some(WriteFailure::ReadOnly));
    assert!(!store.is_caching() && metrics.caching.get() == 0);
    // It can be written after all: mounted anew.
    clock.advance(Duration::from_secs(11));
    let app = repository("reg.test/a");
    store.put(for_tests::content(&app, b"new", Member::Blob)).await.unwrap();
    assert!(store.write_failure().is_none() && metrics.caching.get() == 1);
}

pub(super) fn open(path: &Path) -> Result<Store, Error> {
    open_within(path, unlimited())
}

pub(super) fn open_within(path: &Path, budget: Budget) -> Result<Store, Error> {
    open_with(path, budget, metrics())
}

fn open_with(path: &Path, budget: Budget, metrics: Arc<Metrics>) -> Result<Store, Error> {
    let config = Config { path: path.to_owned(), budget };
    Store::open_with(&config, &Clock::manual(Timestamp(1_000)), &metrics, SMALL, open::is_read_only)
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

pub(super) fn owner() -> Owner {
    Owner::unlimited(&"reg.test".parse().unwrap())
}

pub(super) fn bytes(len: usize) -> Vec<u8> {
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

pub(super) fn content_of(chunk: BodyChunk) -> Vec<u8> {
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
    let put = || world.store.put(for_tests::content(&app, &content, Member::Blob));
    // What lies in the way would be moved to quarantine.
    for directory in ["ingest", "quarantine"] {
        fs::remove_dir(world.file(directory)).unwrap();
        fs::write(world.file(directory), "in the way").unwrap();
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_committed_a_moment_ago_can_be_evicted_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget { max: Amount::Bytes(300_000), min_free: Amount::Bytes(0) };
    let store = open_within(directory.path(), budget).unwrap();
    store.0.index.catch_up();
    let busy = store.0.index.hold_up();
    let put = |content: Vec<u8>| {
        let (store, app) = (store.clone(), repository("reg.test/a"));
        async move { store.put(for_tests::content(&app, &content, Member::Blob)).await }
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

#[tokio::test(start_paused = true)]
async fn a_command_waits_for_a_disk_that_hangs_for_seconds_and_reads_what_is_there() {
    let world = World::new();
    let (tag, app) = ("v1".parse().unwrap(), repository("reg.test/a"));
    let digest = world.put(&app, b"manifest").await;
    world.store.records().confirm_tag(&app, &tag, digest).await.unwrap();
    let held = world.store.hold_writes().await;
    let reference = crate::reference::Reference::Tag(tag);
    let contents = world.store.contents(&app, &reference);
    let (contents, ()) = tokio::join!(contents, tokio::time::advance(2 * FLUSH_WAIT));
    assert!(contents.unwrap().is_some());
    drop(held);
}
