//! A window gives every reader the same bytes, drops those who lag, and never ends well with wrong content.

use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::pull::blob::past_the_disk::memory::{WINDOWS_MAX, WindowMemory};
use crate::pull::blob::source::delivery::Trail;
use crate::pull::blob::withheld_tail::TAIL;
use crate::upstream::EndpointId;

fn content(len: usize) -> Bytes {
    (0..len).map(|n| (n * 31 % 251) as u8).collect::<Vec<_>>().into()
}

fn window_of(content: &Bytes) -> Window {
    of_size(content, Some(content.len() as u64), &Trail::default())
}

fn of_size(content: &Bytes, size: Option<u64>, trail: &Trail) -> Window {
    let withheld = Withheld::of(size, trail).past_the_disk();
    let share = WindowMemory::default().share();
    let digest = Digest::of(content);
    Window::new(digest, HashedStart::new(0, digest.hasher()), withheld, share)
}

/// Reads to the end, or until the reader falls out: the bytes, and the hash it was given then.
async fn read(mut reader: WindowReader) -> Result<(Vec<u8>, Option<Option<Hasher>>), Error> {
    let mut got = Vec::new();
    loop {
        match reader.next().await? {
            Windowed::Bytes(bytes) => got.extend_from_slice(&bytes),
            Windowed::End => return Ok((got, None)),
            Windowed::FellOut(hasher) => return Ok((got, Some(hasher))),
        }
    }
}

async fn write(window: Window, content: Bytes) -> Result<(), Error> {
    for chunk in content.chunks(100_000) {
        window.append(Bytes::copy_from_slice(chunk), || 0).await;
    }
    end(window)
}

/// As a fill ends a window: clients of wrong content go on by themselves.
fn end(window: Window) -> Result<(), Error> {
    window.verify()?;
    window.finish();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn any_number_of_clients_that_keep_pace_share_one_body() {
    let content = content(5_000_000);
    let window = window_of(&content);
    let readers: Vec<_> = (0..20).map(|_| read(window.handle().join(0, 0, None).unwrap())).collect();
    let (written, read) = tokio::join!(write(window, content.clone()), join_all(readers));
    written.unwrap();
    for read in read {
        let (got, fell_out) = read.unwrap();
        assert!(got == content && fell_out.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_others_waiting_falls_out_with_the_hash_of_what_it_has() {
    let content = content(3_000_000);
    let window = window_of(&content);
    let fast = read(window.handle().join(0, 0, None).unwrap());
    let mut slow = window.handle().join(0, 0, None).unwrap();
    let stalled = async {
        let Ok(Windowed::Bytes(first)) = slow.next().await else { panic!() };
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (rest, fell_out) = read(slow).await.unwrap();
        let hasher = fell_out.expect("it fell out").expect("with a hash");
        let had = first.len() + rest.len();
        assert_eq!(hasher.finish(), Digest::of(&content[..had]));
    };
    let (written, fast, ()) = tokio::join!(write(window, content.clone()), fast, stalled);
    written.unwrap();
    assert!(fast.unwrap().0 == content);
}

/// How long `fast` clients take that read as fast as they can beside one that takes its bytes as `slow` does.
async fn time_beside<F: Future<Output = ()>>(
    fast: usize,
    slow: impl FnOnce(WindowReader) -> F,
    expected: impl Fn(Instant) -> usize,
) -> Duration {
    let content = content(20_000_000);
    let window = window_of(&content);
    let slow = slow(window.handle().join(0, 0, None).unwrap());
    let readers: Vec<_> = (0..fast).map(|_| read(window.handle().join(0, 0, None).unwrap())).collect();
    let begun = Instant::now();
    let all = async {
        let write = async {
            for chunk in content.chunks(100_000) {
                window.append(Bytes::copy_from_slice(chunk), || expected(begun)).await;
            }
            end(window)
        };
        let (written, read) = tokio::join!(write, join_all(readers));
        written.unwrap();
        assert!(read.into_iter().all(|read| read.unwrap().0 == content));
        begun.elapsed()
    };
    tokio::select! {
        took = all => took,
        () = async { slow.await; std::future::pending().await } => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_is_waited_for_once() {
    let stalls = |mut slow: WindowReader| async move {
        slow.next().await.unwrap();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        drop(slow);
    };
    let took = time_beside(3, stalls, |_| 0).await;
    assert!(took <= 2 * LAG_MAX, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_little_again_and_again_does_not_set_the_pace_of_all() {
    let slow_reader = |mut slow: WindowReader| async move {
        while let Ok(Windowed::Bytes(_)) = slow.next().await {
            tokio::time::sleep(LAG_MAX - Duration::from_millis(10)).await;
        }
    };
    let took = time_beside(3, slow_reader, |_| 0).await;
    assert!(took <= 2 * LAG_MAX, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn clients_that_stall_at_different_bytes_are_waited_for_together() {
    let content = content(20_000_000);
    let window = window_of(&content);
    let stalled: Vec<_> = (0..7).map(|_| window.handle().join(0, 0, None).unwrap()).collect();
    let fast = read(window.handle().join(0, 0, None).unwrap());
    let stall = |mut reader: WindowReader, chunks: usize| async move {
        for _ in 0..chunks {
            reader.next().await.unwrap();
        }
        reader
    };
    let begun = Instant::now();
    let stalled = join_all(stalled.into_iter().enumerate().map(|(chunks, reader)| stall(reader, chunks)));
    let (written, fast, stalled) = tokio::join!(write(window, content.clone()), fast, stalled);
    written.unwrap();
    assert!(fast.unwrap().0 == content);
    assert!(begun.elapsed() <= 2 * LAG_MAX, "{:?}", begun.elapsed());
    for reader in stalled {
        let (rest, fell_out) = read(reader).await.unwrap();
        assert!(fell_out.is_some() && rest.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_promised_the_first_bytes_and_does_not_come_is_waited_for_once() {
    let comes_never = |slow: WindowReader| async move { drop(slow) };
    let took = time_beside(3, comes_never, |_| 1).await;
    assert!(took <= 2 * LAG_MAX, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_slow_client_alone_is_waited_for_as_long_as_it_takes() {
    let content = content(2_000_000);
    let window = window_of(&content);
    let mut reader = window.handle().join(0, 0, None).unwrap();
    let slow = async {
        let mut got = Vec::new();
        while let Windowed::Bytes(bytes) = reader.next().await.unwrap() {
            got.extend_from_slice(&bytes);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        got
    };
    let (written, got) = tokio::join!(write(window, content.clone()), slow);
    written.unwrap();
    assert!(got == content);
}

#[tokio::test(start_paused = true)]
async fn the_first_bytes_are_kept_for_clients_that_are_about_to_begin() {
    let content = content(2_000_000);
    let window = window_of(&content);
    let handle = window.handle();
    let late = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        read(handle.join(0, 0, None).expect("its first byte is there")).await
    };
    let begun = Instant::now();
    let write = async {
        for chunk in content.chunks(100_000) {
            let expected = || usize::from(begun.elapsed() < Duration::from_secs(3));
            window.append(Bytes::copy_from_slice(chunk), expected).await;
        }
        end(window)
    };
    let (written, late) = tokio::join!(write, late);
    written.unwrap();
    assert!(late.unwrap().0 == content);
}

#[tokio::test(start_paused = true)]
async fn wrong_or_incomplete_content_never_ends_well_and_its_tail_is_not_given_out() {
    let right = content(300_000);
    let mut wrong = right.to_vec();
    wrong[1] ^= 1;
    for sent in [Bytes::from(wrong), right.slice(..200_000)] {
        let window = window_of(&right);
        let reader = window.handle().join(0, 0, None).unwrap();
        let mut got = 0;
        let reading = async {
            let mut reader = reader;
            loop {
                match reader.next().await {
                    Ok(Windowed::Bytes(bytes)) => got += bytes.len(),
                    Ok(Windowed::End) => panic!("it ended well"),
                    Ok(Windowed::FellOut(hasher)) => return hasher,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let (written, hasher) = tokio::join!(write(window, sent), reading);
        assert!(matches!(written, Err(Error::Store(_))) && hasher.is_some());
        assert!(got <= 300_000 - 64 * 1024, "{got}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_out_before_it_took_anything_has_the_hash_of_what_came_before() {
    let content = content(3_000_000);
    let mut hasher = Digest::of(b"").hasher();
    hasher.update(&content[..100_000]);
    let withheld = Withheld::of(Some(3_000_000), &Trail::default()).past_the_disk();
    let share = WindowMemory::default().share();
    let window = Window::new(Digest::of(&content), HashedStart::new(100_000, hasher), withheld, share);
    let [fast, slow] = [(); 2].map(|()| window.handle().join(100_000, 0, None).unwrap());
    let (written, fast) = tokio::join!(write(window, content.slice(100_000..)), read(fast));
    written.unwrap();
    assert!(fast.unwrap().0 == content[100_000..]);
    let (nothing, fell_out) = read(slow).await.unwrap();
    assert!(nothing.is_empty());
    assert_eq!(fell_out.unwrap().unwrap().finish(), Digest::of(&content[..100_000]));
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_writer_that_is_gone_fall_out_where_they_are() {
    let content = content(400_000);
    let window = window_of(&content);
    let reader = window.handle().join(0, 0, None).unwrap();
    window.append(content.slice(..200_000), || 0).await;
    drop(window);
    let (got, fell_out) = read(reader).await.unwrap();
    assert_eq!(got, content[..200_000]);
    assert_eq!(fell_out.unwrap().unwrap().finish(), Digest::of(&content[..200_000]));
}

fn mirrored() -> Trail {
    let trail = Trail::default();
    trail.record(&EndpointId::for_test("mirror"), &"reg.test/app".parse().unwrap());
    trail
}

#[tokio::test(start_paused = true)]
async fn what_a_mirror_delivers_is_withheld_whole_where_there_is_memory_and_but_for_the_tail_where_there_is_none()
 {
    let content = content(5_000_000);
    for others in [0, WINDOWS_MAX] {
        let memory = WindowMemory::default();
        let _others: Vec<_> = (0..others).map(|_| memory.share()).collect();
        let withheld = Withheld::of(Some(5_000_000), &mirrored()).past_the_disk();
        let digest = Digest::of(&content);
        let nothing = HashedStart::new(0, digest.hasher());
        let window = Window::new(digest, nothing, withheld, memory.share());
        let handle = window.handle();
        let reading = read(handle.join(0, 0, None).unwrap());
        let writing = async {
            for chunk in content.chunks(100_000) {
                window.append(Bytes::copy_from_slice(chunk), || 0).await;
            }
            let readable = window.shared.state.lock().readable_for(None).unwrap();
            assert_eq!(readable == 0, others == 0, "{readable}");
            end(window)
        };
        let (written, read) = tokio::join!(writing, reading);
        written.unwrap();
        assert!(read.unwrap().0 == content);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_told_a_size_gets_no_whole_body_of_unverified_content_of_unknown_size() {
    let right = content(300_000);
    for (sent, announced) in
        [(content(300_000), 300_000), (content(400_000), 300_000), (content(200_000), 300_000)]
    {
        let window = of_size(&right, None, &Trail::default());
        let mut reader = window.handle().join(0, 0, Some(announced)).unwrap();
        let reading = async {
            let mut got = 0;
            loop {
                match reader.next().await.unwrap() {
                    Windowed::Bytes(bytes) => got += bytes.len() as u64,
                    Windowed::End => return (got, true),
                    Windowed::FellOut(hasher) => {
                        assert!(hasher.is_some());
                        return (got, false);
                    }
                }
            }
        };
        let is_right = sent == right;
        let (written, (got, ended)) = tokio::join!(write(window, sent), reading);
        assert_eq!((written.is_ok(), ended), (is_right, is_right));
        assert!(is_right || got <= announced - TAIL, "{got} of {announced}");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_before_a_window_are_withheld_with_it() {
    let content = content(300_000);
    let (before, after) = (content.slice(..290_000), content.slice(290_000..));
    for is_right in [true, false] {
        let mut hasher = Digest::of(b"").hasher();
        hasher.update(&before);
        let withheld = Withheld::of(Some(300_000), &Trail::default()).past_the_disk();
        let digest = if is_right { Digest::of(&content) } else { Digest::of(b"x") };
        let (written, share) = (HashedStart::new(290_000, hasher), WindowMemory::default().share());
        let window = Window::new(digest, written, withheld, share);
        let handle = window.handle();
        assert_eq!(handle.readable_beyond(0, None).await.unwrap(), Some(300_000 - TAIL));
        let waiting = handle.readable_beyond(300_000 - TAIL, None);
        let (written, waited) = tokio::join!(write(window, after.clone()), waiting);
        assert_eq!(written.is_ok(), is_right);
        assert_eq!(waited.unwrap(), is_right.then_some(300_000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_along_does_not_fall_out_because_the_others_are_faster() {
    let comes_along = |mut reader: WindowReader| async move {
        loop {
            match reader.next().await.unwrap() {
                // A chunk of 50,000 bytes each time: twice the pace of a client that falls out.
                Windowed::Bytes(_) => tokio::time::sleep(Duration::from_millis(24)).await,
                Windowed::End => return true,
                Windowed::FellOut(_) => return false,
            }
        }
    };
    let content = content(8_000_000);
    let window = window_of(&content);
    let slow = comes_along(window.handle().join(0, 0, None).unwrap());
    let fast = read(window.handle().join(0, 0, None).unwrap());
    let (written, stayed, fast) = tokio::join!(write(window, content.clone()), slow, fast);
    written.unwrap();
    assert!(fast.unwrap().0 == content, "the fast one fell out");
    assert!(stayed, "it fell out");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_a_byte_at_a_time_costs_no_hash_for_each_byte() {
    let content = content(200_000);
    let window = window_of(&content);
    let reader = read(window.handle().join(0, 0, None).unwrap());
    let write = async {
        for at in 0..content.len() {
            window.append(content.slice(at..=at), || 0).await;
            let kept = window.shared.state.lock().kept();
            assert!(kept <= 200, "{kept} pieces of {at} bytes");
        }
        end(window)
    };
    let (written, read) = tokio::join!(write, reader);
    written.unwrap();
    let (got, fell_out) = read.unwrap();
    assert!(got == content && fell_out.is_none());
}
