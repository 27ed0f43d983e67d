//! Receiving content: what is reserved for it, and what is left of it however it ends.

use std::fs;
use std::time::Duration;

use super::*;
use crate::store::budget::reserve::{Reservations, Reserved};
use crate::store::budget::room_for_blob::{STEP_MAX, STEP_MIN};
use crate::store::budget::share::Owner;
use crate::store::disk::calls_under_way::HANGS_AFTER;
use crate::store::layout::batch::{self, Outcome};
use crate::store::read::in_use::InUse;

struct World {
    _directory: tempfile::TempDir,
    layout: Layout,
    reservations: Reservations,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        Self { _directory: directory, layout, reservations: Reservations::default() }
    }

    /// Receives content of `digest` with `limit` bytes to be had.
    fn begin(&self, digest: Digest, declared: Option<u64>, limit: u64) -> Result<Ingest, Error> {
        let reservations = self.reservations.clone();
        let owner = Owner::unlimited(&"reg.test".parse().unwrap());
        let reserve = move |wanted| {
            let fits = reservations.sum_and(|| ()).0.bytes + wanted <= limit;
            if fits { Ok(reservations.reserve(owner, wanted)) } else { Err(Error::Full { needed: wanted }) }
        };
        let in_use = InUse::default().mark(digest);
        Ingest::begin(&self.layout, digest, declared, owner.id, Box::new(reserve), in_use)
    }

    fn files(&self) -> usize {
        fs::read_dir(self.layout.ingest()).map_or(0, Iterator::count)
    }
}

/// Gives content its name.
fn commit(layout: &Layout, verified: Verified) -> Result<(), Error> {
    match batch::write_one(layout, |staging| verified.stage(staging)) {
        Outcome::Durable => {
            drop(verified.named());
            Ok(())
        }
        Outcome::Fragile(error) | Outcome::Failed(error) => Err(error),
        Outcome::NamesNothing => panic!("a blob names nothing"),
    }
}

#[test]
fn an_abandoned_ingest_leaves_neither_a_file_nor_a_reservation() {
    let world = World::new();
    let digest = Digest::of(b"right");
    let mut ingest = world.begin(digest, Some(5), 5).unwrap();
    ingest.write(&Bytes::from_static(b"rig")).unwrap();
    assert_eq!((world.files(), world.reservations.sum_and(|| ()).0.bytes), (1, 5));
    drop(ingest);
    assert_eq!((world.files(), world.reservations.sum_and(|| ()).0.bytes), (0, 0));
    let mut refused = world.begin(digest, Some(5), 4).unwrap();
    assert!(refused.write(&Bytes::from_static(b"rig")).is_err());
    drop(refused);
    assert_eq!((world.files(), world.reservations.sum_and(|| ()).0.bytes), (0, 0));
}

#[test]
fn room_is_reserved_as_bytes_arrive_and_not_as_a_length_is_claimed() {
    const MIB: u64 = 1024 * 1024;
    let world = World::new();
    for declared in [None, Some(500 * MIB)] {
        let mut ingest = world.begin(Digest::of(b"x"), declared, u64::MAX).unwrap();
        assert_eq!(world.reservations.sum_and(|| ()).0.bytes, 0, "nothing is reserved for a claim alone");
        ingest.write(&Bytes::from_static(b"a few bytes")).unwrap();
        assert_eq!(world.reservations.sum_and(|| ()).0.bytes, STEP_MIN);
        let chunk = Bytes::from(vec![0; 1024 * 1024]);
        for written in 1..=80 {
            ingest.write(&chunk).unwrap();
            let reserved = world.reservations.sum_and(|| ()).0;
            assert!(
                reserved.bytes <= (written * MIB + STEP_MAX + 11).min(2 * written * MIB + STEP_MIN),
                "{reserved:?}"
            );
            assert_eq!(reserved.bytes - reserved.unwritten, written * MIB + 11);
        }
    }
    let mut ingest = world.begin(Digest::of(b"x"), Some(MIB), MIB).unwrap();
    ingest.write(&Bytes::from(vec![0; 600 * 1024])).unwrap();
    ingest.write(&Bytes::from(vec![0; 424 * 1024])).unwrap();
    assert_eq!(world.reservations.sum_and(|| ()).0.bytes, MIB, "no more than was announced");
}

#[test]
fn a_download_that_gets_no_more_room_hands_over_what_it_has() {
    let world = World::new();
    let mut ingest = world.begin(Digest::of(b"x"), None, STEP_MIN).unwrap();
    let chunk = Bytes::from(vec![0; STEP_MIN as usize]);
    ingest.write(&chunk).unwrap();
    ingest.hash(&chunk);
    assert!(matches!(ingest.write(&chunk), Err(Error::Full { .. })));
    let (growing, written, hasher) = ingest.detach();
    assert_eq!((written, hasher.is_some(), world.files()), (STEP_MIN, true, 0));
    drop(growing);
    assert_eq!(world.reservations.sum_and(|| ()).0.bytes, 0);
}

#[test]
fn a_directory_in_the_place_of_a_file_does_not_keep_its_blob_from_being_stored() {
    let world = World::new();
    let digest = Digest::of(b"12345");
    for place in [world.layout.checks_of(&digest), world.layout.blob(&digest)] {
        let _ = fs::remove_file(&place);
        fs::create_dir_all(&place).unwrap();
        let mut ingest = world.begin(digest, Some(5), 100).unwrap();
        ingest.write(&Bytes::from_static(b"12345")).unwrap();
        ingest.hash(&Bytes::from_static(b"12345"));
        commit(&world.layout, ingest.verify().unwrap()).unwrap();
        assert!(place.is_file());
    }
    assert_eq!(fs::read(world.layout.blob(&digest)).unwrap(), b"12345");
}

#[test]
fn a_file_without_a_name_counts_until_its_last_reader_is_gone() {
    let chunk = Bytes::from_static(b"0123456789");
    type Ending = fn(Ingest, &Layout);
    let endings: [(&str, Ending); 3] = [
        ("wrong content", |ingest, _| drop(ingest.verify())),
        ("given up", |ingest, _| drop(ingest.detach())),
        ("not durable", |ingest, layout| {
            fs::write(layout.root().join("checks"), "in the way").unwrap();
            fs::write(layout.quarantine(), "so that it cannot be moved").unwrap();
            assert!(commit(layout, ingest.verify().unwrap()).is_err());
        }),
    ];
    for (why, end) in endings {
        let world = World::new();
        let right = Digest::of(if why == "not durable" { &chunk } else { b"other" });
        let mut ingest = world.begin(right, None, u64::MAX).unwrap();
        ingest.write(&chunk).unwrap();
        ingest.hash(&chunk);
        let (first, last) = (ingest.growing(), ingest.growing());
        end(ingest, &world.layout);
        let reserved = || world.reservations.sum_and(|| ()).0;
        drop(first);
        assert_eq!((reserved().bytes, reserved().unwritten), (10, 0), "{why}: it takes place on the disk");
        drop(last);
        assert_eq!(reserved().bytes, 0, "{why}");
    }
}

#[tokio::test]
async fn no_byte_is_written_ahead_of_a_download_for_which_there_is_no_room() {
    const MIB: u64 = 1024 * 1024;
    let world = World::new();
    let reserved = || world.reservations.sum_and(|| ()).0;
    let piece = || Bytes::from(vec![7; STEP_MIN as usize]);
    let mut ingest = world.begin(Digest::of(b"x"), None, 2 * MIB - 1).unwrap();
    let growing = ingest.growing();
    let far = |n: u64| 1_000 * MIB + n * STEP_MIN;
    for n in 0..4 {
        growing.write_out_of_order(far(n), piece()).await.unwrap();
        assert!(reserved().bytes >= (n + 1) * STEP_MIN, "{n}: {:?}", reserved());
        assert_eq!(reserved().bytes - reserved().unwritten, (n + 1) * STEP_MIN, "these are on the disk");
    }
    let full = growing.write_out_of_order(far(4), piece()).await;
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert_eq!(growing.file().metadata().unwrap().len(), far(4), "nothing of it is on the disk");
    growing.write_out_of_order(far(3), piece()).await.unwrap_err();
    // What is there ahead is not room for what comes in order.
    let in_order = ingest.write(&piece());
    assert!(matches!(in_order, Err(Error::Full { .. })), "{in_order:?}");
    drop(ingest);
    assert_eq!(reserved(), Reserved { bytes: 4 * STEP_MIN, unwritten: 0 }, "readers keep it on the disk");
    assert!(growing.write_out_of_order(far(9), piece()).await.is_ok(), "there is room for that one alone");
    // No step more than the pieces themselves; the one in order that found no room counts too.
    assert_eq!(reserved(), Reserved { bytes: 6 * STEP_MIN, unwritten: 0 });
    drop(growing);
    assert_eq!(reserved(), Reserved::default());
}

#[tokio::test]
async fn bytes_that_were_written_ahead_are_counted_once_when_the_download_comes_to_them() {
    let content = vec![7; 4 * STEP_MIN as usize];
    let (world, digest) = (World::new(), Digest::of(&content));
    let size = content.len() as u64;
    let mut ingest = world.begin(digest, Some(size), size).unwrap();
    let (growing, content) = (ingest.growing(), Bytes::from(content));
    let piece = |from: u64, to: u64| content.slice(from as usize..to as usize);
    for (from, to) in [(2 * STEP_MIN, size), (STEP_MIN + 5, 2 * STEP_MIN + 9)] {
        growing.write_out_of_order(from, piece(from, to)).await.unwrap();
    }
    let first = piece(0, STEP_MIN + 10);
    ingest.write(&first).unwrap();
    ingest.hash(&first);
    while ingest.adopt_out_of_order(size).unwrap() < size {}
    let reserved = world.reservations.sum_and(|| ()).0;
    assert_eq!(reserved, Reserved { bytes: size, unwritten: 0 });
    commit(&world.layout, ingest.verify().unwrap()).unwrap();
    growing.write_out_of_order(size, piece(0, 1)).await.unwrap();
    assert_eq!(world.reservations.sum_and(|| ()).0, Reserved::default(), "the blob is counted by itself");
}

#[test]
fn adopted_bytes_are_hashed_like_written_ones() {
    let world = World::new();
    let mut ingest = world.begin(Digest::of(b"0123456789"), Some(10), 10).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let growing = ingest.growing();
    let ahead = growing.write_out_of_order(4, Bytes::from_static(b"45678"));
    runtime.block_on(ahead).unwrap();
    assert!(ingest.adopt_out_of_order(9).is_err(), "there is a gap before them");
    let first = Bytes::from_static(b"0123");
    ingest.write(&first).unwrap();
    ingest.hash(&first);
    assert_eq!(ingest.adopt_out_of_order(7).unwrap(), 7);
    assert_eq!(ingest.adopt_out_of_order(10).unwrap(), 9);
    let last = Bytes::from_static(b"9");
    ingest.write(&last).unwrap();
    ingest.hash(&last);
    commit(&world.layout, ingest.verify().unwrap()).unwrap();
    assert_eq!(fs::read(world.layout.blob(&Digest::of(b"0123456789"))).unwrap(), b"0123456789");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_give_back_what_was_written_ahead_is_known_to_hang() {
    let reads: [fn(&mut Ingest); 2] = [
        |ingest| assert_eq!(ingest.adopt_out_of_order(10).unwrap(), 10),
        |ingest| assert_eq!(ingest.growing().common_prefix(0, b"01234"), 5),
    ];
    for read in reads {
        let world = World::new();
        let mut ingest = world.begin(Digest::of(b"0123456789"), Some(10), 10).unwrap();
        let ahead = Bytes::from_static(b"0123456789");
        ingest.growing().write_out_of_order(0, ahead).await.unwrap();
        let calls = world.layout.calls();
        let held = calls.hold_reads();
        let runtime = tokio::runtime::Handle::current();
        let reading = std::thread::spawn(move || {
            // Its time is that of the test.
            let _entered = runtime.enter();
            read(&mut ingest);
        });
        for _ in 0..1_000 {
            tokio::time::advance(HANGS_AFTER / 10).await;
            if calls.reads_hang() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(calls.reads_hang(), "other downloads wait for it too, each by itself");
        drop(held);
        reading.join().unwrap();
        assert!(!calls.reads_hang());
    }
}

#[tokio::test]
async fn a_blob_is_as_long_as_its_content_whatever_a_reader_was_sent_beyond_its_end() {
    for declared in [None, Some(10)] {
        let world = World::new();
        let mut ingest = world.begin(Digest::of(b"0123456789"), declared, 1_000_000).unwrap();
        let growing = ingest.growing();
        growing.write_out_of_order(8, Bytes::from_static(b"89 and more")).await.unwrap();
        let content = Bytes::from_static(b"0123456789");
        ingest.write(&content).unwrap();
        ingest.hash(&content);
        commit(&world.layout, ingest.verify().unwrap()).unwrap();
        assert_eq!(fs::read(world.layout.blob(&Digest::of(b"0123456789"))).unwrap(), content);
    }
}

#[test]
fn what_the_disk_damages_before_it_is_adopted_is_an_error_of_the_disk() {
    let world = World::new();
    let content: Vec<u8> = (0..600_000).map(|n| (n % 251) as u8).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // A piece of 250,000 bytes begins at 100,000, another at 350,000.
    for (flipped, until, is_found) in [
        (None, 600_000, false),
        (Some(400_000), 350_000, false),
        (Some(400_000), 360_000, true),
        (Some(400_000), 600_000, true),
    ] {
        let mut ingest = world.begin(Digest::of(&content), Some(600_000), u64::MAX).unwrap();
        let growing = ingest.growing();
        for at in (100_000..600_000).step_by(50_000) {
            let piece = Bytes::copy_from_slice(&content[at..at + 50_000]);
            runtime.block_on(growing.write_out_of_order(at as u64, piece)).unwrap();
        }
        // The download ends within a piece, of which the rest is adopted as it is.
        let first = Bytes::copy_from_slice(&content[..110_000]);
        ingest.write(&first).unwrap();
        ingest.hash(&first);
        if let Some(at) = flipped {
            growing.file().write_all_at(&[content[at] ^ 1], at as u64).unwrap();
        }
        let mut adopted = Ok(0);
        while adopted.as_ref().is_ok_and(|adopted| *adopted < until) {
            adopted = ingest.adopt_out_of_order(until);
        }
        match adopted {
            Ok(_) => assert!(!is_found, "{until}: a damaged piece was adopted"),
            Err(error) => assert!(is_found && error.is_local(), "{until}: {error}"),
        }
        if flipped.is_none() {
            commit(&world.layout, ingest.verify().unwrap()).unwrap();
        }
    }
}

#[tokio::test]
async fn a_range_that_is_copied_is_exactly_that_range_and_nothing_of_a_damaged_chunk_is_in_it() {
    let content: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let (world, digest) = (World::new(), Digest::of(&content));
    let mut ingest = world.begin(digest, Some(200_000), 200_000).unwrap();
    let growing = ingest.growing();
    ingest.write(&Bytes::from(content.clone())).unwrap();
    for (from, end) in [(0, 200_000), (70_000, 150_001), (65_536, 131_072), (1, 2), (199_999, 200_000)] {
        let memory = vec![9; 10];
        let copied = growing.copy_all(from, end, memory).await.unwrap();
        assert_eq!(copied, content[from as usize..end as usize], "{from}..{end}");
    }
    let file = fs::read_dir(world.layout.ingest()).unwrap().next().unwrap().unwrap().path();
    std::os::unix::fs::FileExt::write_at(
        &fs::OpenOptions::new().write(true).open(file).unwrap(),
        b"x",
        100_000,
    )
    .unwrap();
    assert!(growing.copy_all(0, 200_000, Vec::new()).await.is_err());
    assert_eq!(growing.copy_all(0, 65_536, Vec::new()).await.unwrap(), content[..65_536]);
}
