//! What readers and other writers may do to the content of an ingest while it grows.

use std::time::Duration;

use super::*;
use crate::store::budget::reserve::Reservations;
use crate::store::budget::share::Owner;
use crate::store::read::in_use::InUse;

#[test]
fn adjacent_ranges_are_merged() {
    let mut ranges = Ranges::default();
    for (start, end) in [(10, 20), (30, 40), (50, 60), (0, 5)] {
        ranges.add(start, end);
    }
    let found = [10, 19, 20, 9, 0].map(|at| ranges.end_of_range_at(at));
    assert_eq!(found, [Some(20), Some(20), None, None, Some(5)]);
    ranges.add(20, 30);
    assert_eq!([10, 39, 40].map(|at| ranges.end_of_range_at(at)), [Some(40), Some(40), None]);
    ranges.add(3, 55);
    assert_eq!((ranges.end_of_range_at(0), ranges.written.len()), (Some(60), 1));
    ranges.add(5, 6);
    assert_eq!(ranges.end_of_range_at(7), Some(60));
}

fn growing() -> GrowingBlob {
    let digest = Digest::of(b"x");
    let file = Arc::new(tempfile::tempfile().unwrap());
    let reservations = Reservations::default();
    let owner = Owner::unlimited(&"reg.test".parse().unwrap());
    let reserve = move |bytes| Ok(reservations.reserve(owner, bytes));
    let room = RoomForBlob::new(Box::new(reserve), u64::MAX);
    GrowingBlob::new(digest, file, room, InUse::default().mark(digest), DiskCalls::default())
}

#[test]
fn a_piece_has_the_checksum_of_its_bytes_and_none_where_two_readers_wrote() {
    let mut ranges = Ranges::default();
    let content: Vec<u8> = (0..3 * PIECE_MAX).map(|n| (n % 251) as u8).collect();
    for at in (0..content.len()).step_by(10_000) {
        ranges.note_pieces(at as u64, &content[at..content.len().min(at + 10_000)]);
    }
    assert!(ranges.pieces.len() <= 5, "{} pieces are remembered", ranges.pieces.len());
    let mut at = 0;
    for (start, (end, checksum)) in &ranges.pieces {
        assert_eq!((*start, *checksum), (at, crc32c::crc32c(&content[*start as usize..*end as usize])));
        at = *end;
    }
    assert_eq!(at, content.len() as u64);
    ranges.note_pieces(0, &content);
    assert_eq!(ranges.pieces.len(), 3);
    ranges.note_pieces(PIECE_MAX as u64 - 1, b"xx");
    let starts: Vec<u64> = ranges.pieces.keys().copied().collect();
    assert_eq!(starts, [PIECE_MAX as u64 - 1, 2 * PIECE_MAX as u64]);
}

#[tokio::test]
async fn bytes_that_the_download_has_hashed_are_not_overwritten() {
    let growing = growing();
    let content = || {
        let mut content = [0; 10];
        growing.file().read_exact_at(&mut content, 0).unwrap();
        content
    };
    growing.file().write_all_at(b"rightright", 0).unwrap();
    growing.claim(5).unwrap();
    for offset in [0, 4, 5] {
        growing.write_out_of_order(offset, Bytes::from_static(b"wrong")).await.unwrap();
    }
    assert_eq!(&content(), b"rightwrong");
    assert_eq!((growing.out_of_order_until(5), growing.out_of_order_until(4)), (Some(10), None));
    growing.claim_all();
    growing.write_out_of_order(7, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(&content(), b"rightwrong", "a finished blob takes no more writes");
}

#[tokio::test(start_paused = true)]
async fn what_a_follower_compared_counts_for_the_others_for_a_moment_and_no_longer() {
    let (growing, recent) = (growing(), RecentComparisons::default());
    let bytes: Vec<u8> = (0..150_000).map(|n| (n % 251) as u8).collect();
    growing.file().write_all_at(&bytes, 0).unwrap();
    growing.note_written(&bytes);
    let read = async |at, end| match growing.read_among(at, end, &recent).await {
        Ok(BodyChunk::File(range)) => Some(range.compared_at),
        Ok(BodyChunk::Memory(_)) => panic!("in memory"),
        Err(_) => None,
    };
    let first = read(0, 131_072).await.unwrap();
    tokio::time::advance(Duration::from_millis(400)).await;
    // Of the first two chunks, and of the third, of which more was not there.
    for at in [70_000, 149_999] {
        growing.file().write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    }
    assert_eq!(read(20_000, 131_072).await, Some(first), "as old as the comparison that it rests on");
    assert_eq!(read(100_000, 150_000).await, None, "a chunk that no reader has compared");
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(read(20_000, 131_072).await, None);
    growing.file().write_all_at(&bytes[70_000..70_001], 70_000).unwrap();
    let again = read(0, 100_000).await;
    assert!(again.is_some_and(|again| again > first), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn of_a_chunk_that_grows_its_readers_compare_what_came_to_it_and_all_of_it_after_a_moment() {
    let (growing, recent) = (growing(), RecentComparisons::default());
    let bytes: Vec<u8> = (0..30_000).map(|n| (n % 251) as u8).collect();
    let arrive = |from: usize, to: usize| {
        growing.file().write_all_at(&bytes[from..to], from as u64).unwrap();
        growing.note_written(&bytes[from..to]);
    };
    let change = |at: usize, by: u8| growing.file().write_all_at(&[bytes[at] ^ by], at as u64).unwrap();
    let read = async |at, end| match growing.read_among(at, end, &recent).await {
        Ok(BodyChunk::File(range)) => Some(range.compared_at),
        Ok(BodyChunk::Memory(_)) => panic!("a copy, which each reader compares"),
        Err(_) => None,
    };
    arrive(0, 10_000);
    let first = read(1, 10_000).await.unwrap();
    tokio::time::advance(Duration::from_millis(400)).await;
    change(5_000, 1);
    arrive(10_000, 20_000);
    assert_eq!(read(10_000, 20_000).await, Some(first), "as old as the comparison that it rests on");
    arrive(20_000, 30_000);
    change(25_000, 1);
    assert_eq!(read(20_000, 30_000).await, None, "what came to it is not what was received");
    change(25_000, 0);
    assert_eq!(read(20_000, 30_000).await, Some(first));
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(read(20_000, 30_000).await, None, "no byte counts for longer than a moment");
    change(5_000, 0);
    assert!(read(20_000, 30_000).await.is_some_and(|again| again > first));
}

#[tokio::test]
async fn no_byte_that_changed_on_disk_since_it_was_received_leaves_a_growing_blob() {
    let growing = growing();
    let bytes: Vec<u8> = (0..150_000).map(|n| (n % 251) as u8).collect();
    for part in bytes.chunks(20_000) {
        let at = growing.checksums().size();
        growing.file().write_all_at(part, at).unwrap();
        growing.note_written(part);
    }
    let len = bytes.len() as u64;
    assert_eq!(growing.hash_until(100_000).await.unwrap().finish(), Digest::of(&bytes[..100_000]));
    for (flipped, at, end) in [(149_999, 131_072, len), (149_999, 140_000, 141_000), (70_000, 0, len)] {
        assert_eq!(growing.read(at, end).await.unwrap().len() as u64, end - at);
        growing.file().write_all_at(&[bytes[flipped] ^ 1], flipped as u64).unwrap();
        let read = growing.read(at, end).await;
        assert!(matches!(read, Err(Error::Damaged { .. })), "{flipped} {at} {end}");
        growing.file().write_all_at(&[bytes[flipped]], flipped as u64).unwrap();
    }
    growing.file().write_all_at(b"not of the download", len).unwrap();
    assert_eq!(growing.read(len - 10, len + 10).await.unwrap().len(), 10, "only what was received");
    assert!(growing.read(len, len + 10).await.is_err());
    growing.file().set_len(100_000).unwrap();
    assert!(growing.read(90_000, len).await.is_err() && growing.hash_until(len).await.is_err());
    assert!(growing.read(0, 65_536).await.is_ok());
}
