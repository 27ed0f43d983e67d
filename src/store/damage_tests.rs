//! Damage on disk: no damaged byte leaves, and what is damaged is moved to quarantine and fetched anew.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::for_tests::SMALL;
use super::tests::{World, bytes, content_of, repository};
use super::*;

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

#[tokio::test(start_paused = true)]
async fn readers_of_one_blob_share_a_comparison_for_half_a_second_and_one_alone_compares_all_it_reads() {
    let world = World::new();
    let content = bytes(200_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let one = world.store.blob(digest).await.unwrap();
    assert!(one.read(0, 200_000).await.is_ok());
    let another = world.store.blob(digest).await.unwrap();
    assert!(one.read(0, 200_000).await.is_ok());
    let mut damaged = content.clone();
    damaged[150_000] ^= 1;
    fs::write(world.blob_file(digest), damaged).unwrap();
    assert!(another.read(0, 200_000).await.is_ok(), "it was compared a moment ago");
    tokio::time::advance(Duration::from_millis(501)).await;
    assert!(matches!(another.read(0, 200_000).await, Err(Error::Damaged { .. })));
    fs::write(world.blob_file(digest), &content).unwrap();
    drop(another);
    assert!(one.read(0, 200_000).await.is_ok());
    fs::write(world.blob_file(digest), bytes(199_999)).unwrap();
    assert!(matches!(one.read(0, 200_000).await, Err(Error::Damaged { .. })), "it is alone");
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
            _ => fs::write(&file, b"other!").unwrap(),
        }
        assert_eq!(world.content(digest).await, None, "{kind}");
        // What is as long as the blob is found when it is read.
        if kind != "other" {
            assert_eq!(world.metrics.quarantined.get(), 1, "{kind}");
        }
        world.put(&repository("reg.test/a"), b"intact").await;
        assert_eq!(
            world.content(digest).await.as_deref(),
            Some(&b"intact"[..]),
            "{kind}: what was fetched again"
        );
    }
}

#[tokio::test]
async fn a_blob_that_cannot_be_opened_counts_as_absent_and_is_fetched_again() {
    let world = World::new();
    let digest = world.put(&repository("reg.test/a"), b"intact").await;
    let file = world.blob_file(digest);
    fs::remove_file(&file).unwrap();
    // The kernel opens no socket: as where the disk does not give a file.
    let _socket = std::os::unix::net::UnixListener::bind(&file).unwrap();
    assert_eq!(world.content(digest).await, None);
    assert_eq!(world.metrics.quarantined.get(), 0, "it was not found damaged");
    world.put(&repository("reg.test/a"), b"intact").await;
    assert_eq!(world.content(digest).await.as_deref(), Some(&b"intact"[..]));
}

#[tokio::test]
async fn lost_checksums_are_made_again_only_for_intact_bytes() {
    let mut world = World::new();
    let content = bytes(100_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let checks = world.file(&format!("checks/sha256/{}", digest.hex()));
    let sound = fs::read(&checks).unwrap();
    for damage in [&b""[..], b"LDRCHK1\nnonsense"] {
        // What is open is not opened again.
        world = world.restarted();
        fs::write(&checks, damage).unwrap();
        assert_eq!(world.content(digest).await.as_deref(), Some(&content[..]));
        assert_eq!(fs::read(&checks).unwrap(), sound, "made anew");
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
async fn a_blob_without_checksums_is_hashed_once_however_many_ask_for_it() {
    let mut world = World::new();
    let content = bytes(3_000_000);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    world = world.restarted();
    fs::remove_file(world.file(&format!("checks/sha256/{}", digest.hex()))).unwrap();
    let opened = futures_util::future::join_all((0..20).map(|_| world.store.blob(digest))).await;
    assert!(opened.iter().all(Option::is_some));
    assert_eq!(read::blob::HASHED_AGAIN.lock().iter().filter(|hashed| **hashed == digest).count(), 1);
}

#[tokio::test]
async fn a_large_blob_without_checksums_keeps_no_reader_waiting_and_comes_back() {
    let mut world = World::new();
    let content = bytes(SMALL.waited_for_bytes as usize + 1);
    let digest = world.put(&repository("reg.test/a"), &content).await;
    world = world.restarted();
    let checks = world.file(&format!("checks/sha256/{}", digest.hex()));
    let sound = fs::read(&checks).unwrap();
    fs::remove_file(&checks).unwrap();
    assert!(world.store.blob(digest).await.is_none(), "upstream is asked");
    while world.store.blob(digest).await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fs::read(&checks).unwrap(), sound);
    assert_eq!(read::blob::HASHED_AGAIN.lock().iter().filter(|hashed| **hashed == digest).count(), 1);
    assert_eq!(world.metrics.quarantined.get(), 0);
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

/// A blob whose checksums are read in slices.
fn large() -> Vec<u8> {
    let chunks = SMALL.whole_checksum_bytes as usize / 4;
    bytes(chunks * integrity::CHUNK)
}

#[tokio::test]
async fn a_damaged_file_of_checksums_of_a_large_blob_does_not_cost_the_blob() {
    let world = World::new();
    let content = large();
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let checks = world.file(&format!("checks/sha256/{}", digest.hex()));
    let sound = fs::read(&checks).unwrap();
    let mut damaged = sound.clone();
    damaged[integrity::HEADER + 4 * 70] ^= 1;
    fs::write(&checks, damaged).unwrap();
    let chunk = integrity::CHUNK as u64;
    let blob = world.store.blob(digest).await.unwrap();
    assert!(blob.read(0, 100).await.is_ok(), "other slices count");
    assert!(matches!(blob.read(70 * chunk, 71 * chunk).await, Err(Error::Damaged { .. })));
    world.store.quarantine(&blob, "a test".to_owned()).await;
    assert!(world.blob_file(digest).exists(), "a sound blob was moved away");
    assert_eq!(world.metrics.quarantined.get(), 0);
    let blob = world.store.blob(digest).await.unwrap();
    assert!(blob.read(70 * chunk, 71 * chunk).await.is_ok());
    assert_eq!(fs::read(&checks).unwrap(), sound);
}

#[tokio::test]
async fn a_flipped_byte_of_a_large_blob_is_found_by_a_slice_of_its_checksums() {
    let world = World::new();
    let content = large();
    let digest = world.put(&repository("reg.test/a"), &content).await;
    let mut damaged = content.clone();
    damaged[100 * integrity::CHUNK + 5] ^= 1;
    fs::write(world.blob_file(digest), damaged).unwrap();
    let chunk = integrity::CHUNK as u64;
    let blob = world.store.blob(digest).await.unwrap();
    for (offset, end) in [(100 * chunk, 100 * chunk + 10), (98 * chunk, 104 * chunk)] {
        assert!(matches!(blob.read(offset, end).await, Err(Error::Damaged { .. })));
    }
    assert_eq!(content_of(blob.read(0, 100).await.unwrap()), content[..100]);
    world.store.quarantine(&blob, "a test".to_owned()).await;
    assert!(!world.blob_file(digest).exists());
    assert_eq!(world.metrics.quarantined.get(), 1);
}
