//! File ranges on their way, one write after the other: what is checked again, and when.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::time::Instant;

use super::super::send_buffer::SendBuffers;
use super::super::sending::TRUSTED_FOR;
use super::*;
use crate::support::body_chunk::{Compared, Integrity, IntegrityCheck, Known, Refetch};

/// Bytes that the socket takes before its client reads.
const QUEUE: usize = 10_000;
/// Bytes of the range.
const LEN: usize = 200_000;

/// A check that finds what the test says.
struct Check {
    found: Mutex<Integrity>,
    asked: AtomicUsize,
}

impl IntegrityCheck for Check {
    fn compare_again(self: Arc<Self>, _: u64, _: u64) -> Compared {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(*self.found.lock()))
    }

    fn known(self: Arc<Self>, _: u64, _: u64) -> Known {
        Box::pin(std::future::ready(None))
    }

    fn with_intact(&self, _: u64, _: u64, _: &mut dyn FnMut(&[u8])) -> Taken {
        panic!("nothing here is copied")
    }
}

/// Gets bytes that no file of the tests has.
struct Elsewhere;

impl Refetch for Elsewhere {
    fn refetch(self: Arc<Self>, _: u64, len: usize) -> Refetched {
        Box::pin(std::future::ready(Some(vec![2; len].into())))
    }
}

/// A connection with one range that was handed to hyper, and its client.
struct World {
    outgoing: Outgoing,
    socket: Socket,
    client: DuplexStream,
    check: Arc<Check>,
    slice: Bytes,
    sent: usize,
}

impl World {
    fn new() -> Self {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(&vec![1; LEN], 0).unwrap();
        let check = Arc::new(Check { found: Mutex::new(Integrity::Intact), asked: AtomicUsize::new(0) });
        let (server, client) = tokio::io::duplex(QUEUE);
        let outgoing = Outgoing::new(FileTransfer::Sendfile, SendBuffers::default().of_socket());
        let refetch: Option<Arc<dyn Refetch>> = Some(Arc::new(Elsewhere));
        let compared_at = Instant::now();
        let range = FileRange { file, offset: 0, len: LEN, compared_at, check: Some(check.clone()), refetch };
        let Ok(Given::Now(slice)) = outgoing.bytes_for(range, Some(u64::MAX)) else { panic!("a slice") };
        Self { outgoing, socket: Socket::Memory(server), client, check, slice, sent: 0 }
    }

    async fn write(&mut self) -> io::Result<usize> {
        let rest = &self.slice[self.sent..];
        let write =
            |cx: &mut Context<'_>| self.outgoing.poll_write(&mut self.socket, cx, &[IoSlice::new(rest)]);
        let count = std::future::poll_fn(write).await?;
        self.sent += count;
        Ok(count)
    }

    async fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.client.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    fn finds(&self, found: Integrity) {
        *self.check.found.lock() = found;
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_that_waited_before_its_first_byte_is_checked_before_it_leaves() {
    let mut world = World::new();
    tokio::time::advance(TRUSTED_FOR * 2).await;
    world.finds(Integrity::Unreadable);
    world.write().await.unwrap();
    assert_eq!(world.read(QUEUE).await, [2; QUEUE], "bytes that were compared long ago");
}

#[tokio::test(start_paused = true)]
async fn a_range_whose_client_takes_a_little_now_and_then_is_checked_again() {
    let mut world = World::new();
    world.write().await.unwrap();
    for _ in 0..3 {
        assert_eq!(world.read(1_000).await, [1; 1_000]);
        tokio::time::advance(TRUSTED_FOR * 9 / 10).await;
        assert_eq!(world.write().await.unwrap(), 1_000);
    }
    assert!(world.check.asked.load(Ordering::Relaxed) > 0, "it was never compared again");
    world.finds(Integrity::Wrong);
    tokio::time::advance(TRUSTED_FOR * 2).await;
    world.read(1_000).await;
    assert!(world.write().await.is_err(), "what is queued cannot be taken back");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_read_again_cuts_no_body() {
    let mut world = World::new();
    world.write().await.unwrap();
    world.finds(Integrity::Unreadable);
    tokio::time::advance(TRUSTED_FOR * 2).await;
    assert_eq!(world.read(QUEUE).await, [1; QUEUE], "what was queued was compared");
    world.write().await.unwrap();
    tokio::time::advance(TRUSTED_FOR * 2).await;
    assert_eq!(world.read(QUEUE).await, [2; QUEUE]);
    world.write().await.unwrap();
    assert_eq!(world.read(QUEUE).await, [2; QUEUE]);
}
