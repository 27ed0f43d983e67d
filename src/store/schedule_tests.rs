//! Reservations, the index's thread and the end of changes under many orders of the threads that use them (`make
//! model`).

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::*;
use crate::reference::Algorithm;
use crate::store::admission::Admission;
use crate::store::blobs::Blobs;
use crate::store::budget::Disk;
use crate::store::budget::reserve::Reservation;
use crate::store::disk::calls::DiskCalls;
use crate::store::disk::health::Health;
use crate::store::index::Index;
use crate::store::layout::Layout;
use crate::store::quarantine::files::QuarantineFiles;
use crate::store::read::in_use::InUse;
use crate::store::read::limits::ReadLimits;
use crate::store::read::open_blobs::OpenBlobs;
use crate::store::records::pins::Pins;
use crate::support::clock::Timestamp;
use crate::support::metrics::Registry;
use crate::support::sync::{explore, thread};

/// Orders of each check.
const ORDERS: usize = 500;
/// Bytes that the store may have.
const MAX: u64 = 1_000;

/// A store of [`MAX`] bytes without sled, whose own threads no schedule rules: a file lies where its directory would
/// be, so that the rows stay in memory.
struct World {
    directory: tempfile::TempDir,
    layout: Layout,
    index: Index,
    admission: Arc<Admission>,
    open_blobs: Arc<OpenBlobs>,
    metrics: Arc<Metrics>,
    /// Bytes that are reserved and not committed.
    under_way: AtomicU64,
    count: AtomicU64,
}

impl World {
    /// With a blob of so many bytes from before.
    fn new(before: usize) -> Arc<Self> {
        Self::with(1, before)
    }

    /// With so many blobs of so many bytes from before.
    fn with(blobs: u8, bytes: usize) -> Arc<Self> {
        // In memory: nothing is proved here by what reaches a disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let layout = Layout::new(directory.path());
        for directory in [layout.blobs(Algorithm::Sha256), layout.checks(Algorithm::Sha256), layout.ingest()]
        {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(layout.index(), "no directory").unwrap();
        for number in 0..if bytes > 0 { blobs } else { 0 } {
            let content = vec![0xff - number; bytes];
            fs::write(layout.blob(&Digest::of(&content)), content).unwrap();
        }
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let (clock, tree) = (Clock::manual(Timestamp(1_000)), Layout::new(directory.path()));
        let pins = Pins::restore(tree.clone());
        let open_blobs = Arc::new(OpenBlobs::new(InUse::default(), ReadLimits::default()));
        let index = Index::start(tree, clock, Arc::clone(&metrics), Arc::clone(&open_blobs), pins).unwrap();
        let budget = Budget { max: Amount::Bytes(MAX), min_free: Amount::Bytes(0) };
        let disk = Box::new(|| Some(Disk { total: 10 * MAX, free: 9 * MAX, inodes: None }));
        let quarantine =
            QuarantineFiles::new(Layout::new(directory.path()), metrics.quarantine_bytes.clone());
        let admission = Arc::new(Admission::new(budget, disk, index.clone(), quarantine));
        let (under_way, count) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { directory, layout, index, admission, open_blobs, metrics, under_way, count })
    }

    fn stored(&self) -> Vec<u64> {
        fs::read_dir(self.layout.blobs(Algorithm::Sha256))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect()
    }

    /// Reserves, as a download does; nothing runs between the answer and the look at the disk.
    fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let reserved = self.admission.reserve(owner(), bytes).ok()?;
        let under_way = self.under_way.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let stored = self.stored().iter().sum::<u64>();
        assert!(under_way + stored <= MAX, "{under_way} bytes under way and {stored} stored");
        Some(reserved)
    }

    fn abandon(&self, reserved: Reservation) {
        self.under_way.fetch_sub(reserved.bytes(), Ordering::SeqCst);
        drop(reserved);
    }

    fn commit(&self, reserved: Reservation) {
        let number = self.count.fetch_add(1, Ordering::SeqCst) as u8;
        let content = vec![number; reserved.bytes() as usize];
        let digest = Digest::of(&content);
        self.under_way.fetch_sub(reserved.bytes(), Ordering::SeqCst);
        fs::write(self.layout.blob(&digest), &content).unwrap();
        self.index.add(digest, content.len() as u64, owner().id, Some(reserved));
    }

    fn blobs(&self) -> Blobs {
        let (clock, metrics) = (Clock::manual(Timestamp(1_000)), Arc::clone(&self.metrics));
        let (index, admission) = (self.index.clone(), Arc::clone(&self.admission));
        let (caching, failing) = (metrics.caching.clone(), metrics.disk_failing.clone());
        let health = Arc::new(Health::new(clock.clone(), DiskCalls::default(), caching, failing));
        Blobs::new(
            self.layout.clone(),
            clock,
            index,
            admission,
            Arc::clone(&self.open_blobs),
            health,
            metrics,
        )
    }
}

fn owner() -> Owner {
    Owner::unlimited(&"reg.test".parse().unwrap())
}

fn side_by_side(world: &Arc<World>, work: Vec<fn(&World)>) {
    let threads: Vec<_> = work
        .into_iter()
        .map(|work| {
            let world = Arc::clone(world);
            thread::spawn(move || work(&world))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn in_no_order_do_downloads_exceed_the_budget_or_is_a_reservation_left() {
    explore(ORDERS, || {
        let world = World::new(0);
        let download: fn(&World) = |world| {
            for bytes in [400, 300] {
                if let Some(reserved) = world.reserve(bytes) {
                    thread::yield_now();
                    if bytes == 400 { world.commit(reserved) } else { world.abandon(reserved) }
                }
            }
        };
        side_by_side(&world, vec![download, download, download]);
        world.index.catch_up();
        let (stored, counted) = (world.stored(), world.index.totals());
        assert_eq!(counted, Totals { blobs: stored.len() as u64, bytes: stored.iter().sum() });
        // Everything is to be had again, and nothing is reserved any more.
        assert!(world.reserve(MAX).is_some());
        world.index.close();
    });
}

#[test]
fn in_no_order_is_a_download_refused_before_the_count_or_the_budget_exceeded_after_it() {
    explore(ORDERS, || {
        let world = World::new(900);
        let download: fn(&World) = |world| {
            let reserved = world.admission.reserve(owner(), 500).unwrap();
            world.under_way.fetch_add(500, Ordering::SeqCst);
            world.commit(reserved);
        };
        side_by_side(&world, vec![download, download]);
        world.index.catch_up();
        world.admission.enforce_budget();
        let stored = world.stored().iter().sum::<u64>();
        assert!(stored <= MAX && stored == world.index.totals().bytes, "{stored}");
        world.index.close();
    });
}

#[test]
fn in_no_order_does_the_stop_of_the_index_leave_a_download_waiting() {
    explore(ORDERS, || {
        let world = World::new(900);
        let download: fn(&World) = |world| {
            if let Ok(reserved) = world.admission.reserve(owner(), 50) {
                world.index.add(Digest::of(b"x"), 50, owner().id, Some(reserved));
            }
            world.admission.ask_and_give_up(owner(), 200);
            world.admission.enforce_budget();
            world.index.remove(Digest::of(b"x"));
        };
        side_by_side(&world, vec![download, |world| world.index.close(), |world| world.index.close()]);
    });
}

#[test]
fn in_no_order_does_a_commit_change_the_store_after_it_was_closed_or_leave_a_blob_uncounted() {
    explore(ORDERS, || {
        let world = World::new(0);
        let download: fn(&World) = |world| {
            for content in [b"first", b"other"] {
                let blobs = world.blobs();
                let Ok(mut ingest) = blobs.begin(Digest::of(content), Some(5), owner()) else { return };
                ingest.write(&Bytes::from_static(content)).unwrap();
                ingest.hash(&Bytes::from_static(content));
                let verified = ingest.verify().unwrap();
                let Ok(_change) = world.layout.change() else { return };
                let outcome = layout::batch::write_one(&world.layout, |staging| verified.stage(staging));
                let _ = blobs.end_commit(verified, outcome);
            }
        };
        let close: fn(&World) = |world| {
            world.layout.end_changes();
            world.index.close();
            let (stored, counted) = (world.stored(), world.index.totals());
            assert_eq!(counted, Totals { blobs: stored.len() as u64, bytes: stored.iter().sum() });
            // As the next daemon does.
            fs::remove_dir_all(world.layout.ingest()).unwrap();
            fs::create_dir(world.layout.ingest()).unwrap();
            world.count.store(stored.len() as u64, Ordering::SeqCst);
        };
        side_by_side(&world, vec![download, close]);
        assert_eq!(world.stored().len() as u64, world.count.load(Ordering::SeqCst));
        assert_eq!(fs::read_dir(world.layout.ingest()).unwrap().count(), 0);
        assert!(world.directory.path().exists());
    });
}

#[test]
fn in_no_order_does_a_download_that_gives_up_leave_a_reservation_or_keep_another_from_its_own() {
    explore(ORDERS, || {
        let world = World::new(900);
        world.index.catch_up();
        let gives_up: fn(&World) = |world| world.admission.ask_and_give_up(owner(), 200);
        let download: fn(&World) = |world| {
            let reserved = world.reserve(400).unwrap();
            thread::yield_now();
            world.commit(reserved);
        };
        side_by_side(&world, vec![gives_up, download, download]);
        world.index.settle();
        let stored = world.stored();
        assert_eq!(world.index.totals(), Totals { blobs: stored.len() as u64, bytes: stored.iter().sum() });
        assert!(world.reserve(MAX).is_some());
        world.index.close();
    });
}

#[test]
fn in_no_order_does_an_eviction_in_batches_take_what_is_read_or_lose_count() {
    explore(ORDERS / 10, || {
        // More than two batches.
        let world = World::with(150, 6);
        world.index.catch_up();
        let read = Digest::of(&[0xff; 6]);
        let mark = world.open_blobs.mark_in_use(&read);
        let download: fn(&World) = |world| {
            let reserved = world.reserve(450).unwrap();
            world.commit(reserved);
        };
        let ahead: fn(&World) = |world| {
            world.admission.evict_ahead();
            world.admission.evict_ahead();
        };
        side_by_side(&world, vec![download, ahead, download]);
        world.index.settle();
        let stored = world.stored();
        assert_eq!(world.index.totals(), Totals { blobs: stored.len() as u64, bytes: stored.iter().sum() });
        assert!(world.layout.blob(&read).exists());
        drop(mark);
        world.index.close();
    });
}
