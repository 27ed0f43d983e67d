//! The index may be destroyed in any way: what it says is rebuilt, and nobody waits for it.

use super::*;
use crate::support::metrics::Registry;

struct World {
    directory: tempfile::TempDir,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = Self {
            metrics: Arc::new(Metrics::register(&Registry::new()).unwrap()),
            clock: Clock::manual(Timestamp(1_000_000)),
            directory,
        };
        for directory in [world.layout().blobs(), world.layout().index(), world.layout().ingest()] {
            fs::create_dir_all(directory).unwrap();
        }
        world
    }

    fn layout(&self) -> Layout {
        Layout::new(self.directory.path())
    }

    fn keeper(&self) -> Keeper {
        Keeper::open(self.layout(), self.clock.clone(), Arc::clone(&self.metrics), Space::default())
    }

    fn blob(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        fs::write(self.layout().blob(&digest), content).unwrap();
        digest
    }

    fn totals(&self) -> (i64, i64) {
        (self.metrics.blobs.get(), self.metrics.bytes.get())
    }
}

#[test]
fn a_clean_stop_keeps_the_rows_and_anything_else_rebuilds_them() {
    let world = World::new();
    let digest = world.blob(b"12345");
    let mut keeper = world.keeper();
    assert_eq!(world.totals(), (1, 5), "found by scanning");
    assert!(keeper.apply(&Op::Close).is_ok());
    drop(keeper);

    world.clock.advance(std::time::Duration::from_secs(3_600));
    let keeper = world.keeper();
    let row = keeper.table.row(digest).ok().flatten().unwrap();
    assert_eq!(row.used_at, Timestamp(1_000_000), "the last use outlived the stop");
    drop(keeper);

    let keeper = world.keeper();
    let row = keeper.table.row(digest).ok().flatten().unwrap();
    assert_eq!(row.used_at, Timestamp(1_003_600), "no clean stop: made anew");
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn a_database_damaged_at_rest_never_stops_the_start() {
    for damage in 0..6_u8 {
        let world = World::new();
        world.blob(b"12345");
        let mut keeper = world.keeper();
        assert!(keeper.apply(&Op::Close).is_ok());
        drop(keeper);
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
        let mut keeper = world.keeper();
        assert!(
            keeper.apply(&Op::Put(Digest::of(b"x"), 1, Space::default().reserve(1))).is_ok(),
            "damage {damage}"
        );
    }
}

#[test]
fn a_directory_in_the_way_leaves_an_index_in_memory() {
    let world = World::new();
    world.blob(b"12345");
    fs::write(world.layout().index().join("sled"), b"not a directory").unwrap();
    fs::write(world.layout().index().join("clean"), CLEAN).unwrap();
    let mut keeper = world.keeper();
    assert_eq!(world.totals(), (1, 5));
    assert!(keeper.apply(&Op::Put(Digest::of(b"x"), 7, Space::default().reserve(7))).is_ok());
    assert_eq!(world.totals(), (2, 12));
    assert!(keeper.apply(&Op::Remove(Digest::of(b"x"))).is_ok());
    assert_eq!(world.totals(), (1, 5));
}

#[test]
fn a_row_with_a_flipped_bit_is_not_believed() {
    let row = Row { size: 5, used_at: Timestamp(7) };
    let good = row.encode();
    assert!(matches!(Row::decode(&good), Ok(found) if found == row));
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Row::decode(&bad).is_err());
    }
}

#[test]
fn junk_in_the_blob_directory_is_not_counted() {
    let world = World::new();
    world.blob(b"12345");
    fs::write(world.layout().blobs().join("lost+found"), b"junk").unwrap();
    fs::create_dir(world.layout().blobs().join(Digest::of(b"directory").hex())).unwrap();
    let _keeper = world.keeper();
    assert_eq!(world.totals(), (1, 5));
}
