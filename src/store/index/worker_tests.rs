//! The index may be destroyed in any way: its rows are rebuilt from the files. And what it must not evict, it does not.

use super::*;
use crate::store::in_use::InUse;
use crate::store::index::totals::Totals;
use crate::store::reserve::Reservations;
use crate::store::share::Owner;
use crate::support::metrics::Registry;

struct World {
    directory: tempfile::TempDir,
    totals: Arc<SharedTotals>,
    metrics: Arc<Metrics>,
    clock: Clock,
    in_use: InUse,
    pins: Pins,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for directory in [layout.blobs(), layout.index(), layout.ingest()] {
            fs::create_dir_all(directory).unwrap();
        }
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        Self {
            directory,
            totals: Arc::new(SharedTotals::new(Arc::clone(&metrics))),
            metrics,
            clock: Clock::manual(Timestamp(1_000_000)),
            in_use: InUse::default(),
            pins: Pins::restore(layout),
        }
    }

    fn layout(&self) -> Layout {
        Layout::new(self.directory.path())
    }

    fn worker(&self) -> Worker {
        Worker::open(Context {
            layout: self.layout(),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            totals: Arc::clone(&self.totals),
            open_blobs: Arc::new(OpenBlobs::new(self.in_use.clone())),
            pins: self.pins.clone(),
        })
    }

    fn blob(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        fs::write(self.layout().blob(&digest), content).unwrap();
        digest
    }

    fn totals(&self) -> (u64, u64) {
        let Totals { blobs, bytes } = self.totals.current();
        (blobs, bytes)
    }
}

fn add(content: &[u8], size: u64) -> Operation {
    let owner = Owner::unlimited(&"reg.test".parse().unwrap());
    let reserved = Some(Reservations::default().reserve(owner, size));
    Operation::Add { digest: Digest::of(content), size, owner: owner.id, reserved }
}

#[test]
fn a_clean_stop_keeps_the_rows_and_anything_else_rebuilds_them() {
    let world = World::new();
    let digest = world.blob(b"12345");
    let mut worker = world.worker();
    assert_eq!(world.totals(), (1, 5), "found by scanning");
    worker.apply(Operation::Close);
    drop(worker);

    world.clock.advance(std::time::Duration::from_secs(3_600));
    let worker = world.worker();
    let row = worker.rows.row(&digest).unwrap();
    assert_eq!(row.used_at, Timestamp(1_000_000), "the last access survived the stop");
    drop(worker);

    let worker = world.worker();
    let row = worker.rows.row(&digest).unwrap();
    assert_eq!(row.used_at, Timestamp(1_003_600), "no clean stop: made anew");
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn a_database_damaged_at_rest_never_stops_the_start() {
    for damage in 0..6_u8 {
        let world = World::new();
        world.blob(b"12345");
        let mut worker = world.worker();
        worker.apply(Operation::Close);
        drop(worker);
        let database = world.layout().index().join("sled/db");
        let mut bytes = fs::read(&database).unwrap();
        match damage {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.fill(0),
            3 => bytes.fill(0xff),
            4 => bytes.iter_mut().step_by(97).for_each(|b| *b ^= 1),
            _ => bytes.iter_mut().skip(512).for_each(|b| *b = b.wrapping_add(1)),
        }
        fs::write(&database, bytes).unwrap();
        let mut worker = world.worker();
        worker.apply(add(b"x", 1));
    }
}

#[test]
fn a_file_in_place_of_the_database_leaves_the_rows_in_memory() {
    let world = World::new();
    world.blob(b"12345");
    fs::write(world.layout().index().join("sled"), b"not a directory").unwrap();
    fs::write(world.layout().index().join("clean"), CLEAN).unwrap();
    let mut worker = world.worker();
    assert_eq!(world.totals(), (1, 5));
    let added = world.blob(b"1234567");
    worker.apply(add(b"1234567", 7));
    assert_eq!(world.totals(), (2, 12));
    fs::remove_file(world.layout().blob(&added)).unwrap();
    worker.apply(Operation::Remove(added));
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn a_blob_that_was_evicted_before_it_was_added_is_not_counted() {
    let world = World::new();
    let digest = world.blob(b"12345");
    // The count finds what a download is just committing.
    let mut worker = world.worker();
    let (done, _wait) = crate::support::sync::mpsc::sync_channel(1);
    worker.apply(Operation::Evict { wanted: 5, only: None, done });
    worker.apply(add(b"12345", 5));
    assert_eq!(world.totals(), (0, 0));
    assert!(worker.rows.row(&digest).is_none());
}

#[test]
fn junk_in_the_blob_directory_is_not_counted() {
    let world = World::new();
    world.blob(b"12345");
    fs::write(world.layout().blobs().join("lost+found"), b"junk").unwrap();
    fs::create_dir(world.layout().blobs().join(Digest::of(b"directory").hex())).unwrap();
    let _worker = world.worker();
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn pinned_blobs_and_blobs_being_read_are_not_evicted() {
    let world = World::new();
    let pinned = world.blob(b"pinned");
    let read = world.blob(b"being read");
    let idle = world.blob(b"idle");
    let pin = crate::store::pins::Pin {
        repository: "reg.test/app".parse().unwrap(),
        reference: "v1".to_owned(),
        root: pinned,
        digests: vec![pinned],
        owner: Some("test".to_owned()),
    };
    world.pins.add(pin).unwrap();
    let _mark = world.in_use.mark(read);
    let mut worker = world.worker();
    let (done, _wait) = crate::support::sync::mpsc::sync_channel(1);
    worker.apply(Operation::Evict { wanted: u64::MAX, only: None, done });
    let exists = |digest| world.layout().blob(&digest).exists();
    assert!(exists(pinned) && exists(read) && !exists(idle));
    assert_eq!(world.totals(), (2, 16));
    assert_eq!((world.metrics.evicted.get(), world.metrics.evicted_bytes.get()), (1, 4));
}

#[test]
fn a_blob_that_was_not_found_is_forgotten_unless_it_has_been_fetched_again() {
    let world = World::new();
    let digest = world.blob(b"12345");
    let mut worker = world.worker();
    worker.apply(Operation::Recheck(digest));
    assert_eq!(world.totals(), (1, 5), "it is there");
    fs::remove_file(world.layout().blob(&digest)).unwrap();
    worker.apply(Operation::Recheck(digest));
    assert_eq!(world.totals(), (0, 0));
    world.blob(b"12345");
    worker.apply(Operation::Recheck(digest));
    assert_eq!(world.totals(), (1, 5), "it is there again");
}

#[test]
fn a_file_that_cannot_be_removed_stays_counted_and_is_tried_again() {
    let world = World::new();
    let stuck = world.blob(b"stuck");
    let mut worker = world.worker();
    // As old as the other, and before it in the order.
    let file = world.layout().blob(&stuck);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let other = world.blob(b"other");
    worker.apply(add(b"other", 5));
    let evict = |worker: &mut Worker, wanted| {
        let (done, _wait) = crate::support::sync::mpsc::sync_channel(1);
        worker.apply(Operation::Evict { wanted, only: None, done });
    };
    evict(&mut worker, 1);
    assert!(!world.layout().blob(&other).exists(), "the other goes instead");
    assert_eq!(world.totals(), (1, 5));
    assert_eq!((world.metrics.evicted.get(), world.metrics.eviction_failures.get()), (1, 1));
    fs::remove_dir(&file).unwrap();
    fs::write(&file, b"stuck").unwrap();
    evict(&mut worker, 1);
    assert_eq!(world.totals(), (0, 0));
    assert!(!file.exists());
}

#[test]
fn what_an_operator_removed_or_added_while_the_daemon_was_stopped_is_seen_at_a_clean_start() {
    let world = World::new();
    let removed = world.blob(b"12345");
    let kept = world.blob(b"123");
    world.worker().apply(Operation::Close);
    fs::remove_file(world.layout().blob(&removed)).unwrap();
    let added = world.blob(b"1234567");
    world.clock.advance(std::time::Duration::from_secs(60));
    let worker = world.worker();
    assert_eq!(world.totals(), (2, 10));
    assert!(worker.rows.row(&removed).is_none() && worker.rows.row(&added).is_some());
    assert_eq!(worker.rows.row(&kept).unwrap().used_at, Timestamp(1_000_000), "the rows were kept");
}

#[test]
fn a_new_database_is_filled_between_operations_and_has_every_row_at_the_next_start() {
    let world = World::new();
    let blobs: Vec<Digest> = (0..200_u32).map(|n| world.blob(&n.to_le_bytes())).collect();
    let mut worker = world.worker();
    assert_eq!(worker.unwritten.len(), 200);
    worker.fill(FILL_ROWS);
    worker.apply(Operation::Remove(blobs[0]));
    world.blob(b"new");
    worker.apply(add(b"new", 3));
    fs::remove_file(world.layout().blob(&blobs[0])).unwrap();
    worker.apply(Operation::Close);
    drop(worker);
    let worker = world.worker();
    assert_eq!((worker.unwritten.len(), worker.rows.len()), (0, 200));
    assert_eq!(world.metrics.index_rebuilds.get(), 0);
}

#[test]
fn the_blobs_of_one_registry_are_evicted_alone_also_after_the_index_was_lost() {
    let world = World::new();
    let registry = |name: &str| name.parse::<crate::reference::Registry>().unwrap();
    let (ours, theirs) = (registry("reg.test"), registry("evil.test"));
    for (registry, content) in [(&ours, &b"ours"[..]), (&theirs, b"theirs")] {
        let digest = world.blob(content);
        let received = world.layout().received(registry, &digest);
        fs::create_dir_all(received.parent().unwrap()).unwrap();
        fs::write(received, b"").unwrap();
    }
    let mut worker = world.worker();
    assert_eq!(world.totals.of(OwnerId::of(&theirs)), 6);
    let (done, _wait) = crate::support::sync::mpsc::sync_channel(1);
    worker.apply(Operation::Evict { wanted: u64::MAX, only: Some(OwnerId::of(&theirs)), done });
    assert_eq!((world.totals(), world.totals.of(OwnerId::of(&theirs))), ((1, 4), 0));
    assert!(world.layout().blob(&Digest::of(b"ours")).exists());
}

#[test]
fn a_registry_that_delivers_what_another_one_delivered_does_not_become_its_owner() {
    let world = World::new();
    let mut worker = world.worker();
    worker.apply(add(b"x", 5));
    let stranger = Owner::limited(&"evil.test".parse().unwrap());
    let reserved = Some(Reservations::default().reserve(stranger, 5));
    worker.apply(Operation::Add { digest: Digest::of(b"x"), size: 5, owner: stranger.id, reserved });
    assert_eq!(world.totals.of(stranger.id), 0);
}

#[test]
fn what_is_pinned_or_being_read_does_not_count_as_evictable() {
    let world = World::new();
    let (read, _idle) = (world.blob(b"being read"), world.blob(b"idle"));
    let mark = world.in_use.mark(read);
    let mut worker = world.worker();
    let evictable = |worker: &mut Worker| {
        let (answer, wait) = crate::support::sync::mpsc::sync_channel(1);
        worker.apply(Operation::CountEvictable { only: None, answer });
        wait.recv().unwrap()
    };
    assert_eq!(evictable(&mut worker), 4);
    drop(mark);
    assert_eq!(evictable(&mut worker), 14);
}
