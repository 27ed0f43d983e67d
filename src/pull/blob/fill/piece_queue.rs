//! What lies between the task that receives a blob and the thread that writes it: a short queue of pieces, each of
//! which counts as memory of its download until it is hashed.
//!
//! Small pieces are joined on their way into it: each piece wakes the writer, the hash and every follower, and from an
//! upstream of 20 MB/s one has 16 KiB. Promises: the first bytes of a body wait for nothing, nor does its end; no other
//! bytes wait longer than [`JOINED_FOR`], as long as the queue has room.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use super::memory::{MemoryOfFill, PieceMemory};

/// Pieces between receiving and writing.
const QUEUE: usize = 8;
/// A piece of so many bytes is not joined with others: the copy costs more than it saves.
const SMALL_BYTES: usize = 64 * 1024;
/// Bytes of pieces that were joined, at least: as soon as there are so many they are handed on. Fewer than a small
/// piece more, at most.
const JOINED_BYTES: usize = 256 * 1024 - SMALL_BYTES;
/// How long the first of several pieces waits for the others: far less than a follower notices.
const JOINED_FOR: Duration = Duration::from_millis(2);
/// Bytes of a body before any wait for others: a client waits for these.
const FIRST_BYTES: u64 = 256 * 1024;

/// What a download hands to the writer, in the order of the blob. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Received {
    /// The next bytes.
    Bytes(Bytes),
    /// The next bytes up to this offset are in the file already: a reader fetched them out of order.
    InFile(u64),
    /// The proper end; a queue that closes without it is a failure.
    End,
}

/// What was received, with its memory.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) received: Received,
    memory: Option<PieceMemory>,
}

impl Piece {
    /// Its bytes, for the hash: their memory is given back with their last copy. Empty for what has none.
    pub(crate) fn into_held_bytes(self) -> Bytes {
        match (self.received, self.memory) {
            (Received::Bytes(bytes), Some(memory)) => memory.attach_to(bytes),
            (Received::Bytes(bytes), None) => bytes,
            (Received::InFile(_) | Received::End, _) => Bytes::new(),
        }
    }
}

/// The end where pieces are put.
#[derive(Debug)]
pub(crate) struct PieceSender {
    queue: mpsc::Sender<Piece>,
    memory: MemoryOfFill,
    /// Bytes that were handed on.
    sent: u64,
    joined: Joined,
    /// When what is joined is handed on; there since the first time.
    due: Option<Pin<Box<Sleep>>>,
}

/// Small pieces that wait for others.
#[derive(Debug, Default)]
struct Joined {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Joined {
    fn add(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push(piece);
    }

    /// All of them, as one; `None` if there are none.
    fn take(&mut self) -> Option<Bytes> {
        let one = match &mut *self.pieces {
            [] => return None,
            [only] => std::mem::take(only),
            pieces => {
                let mut all = BytesMut::with_capacity(self.bytes);
                pieces.iter().for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        };
        self.pieces.clear();
        self.bytes = 0;
        Some(one)
    }
}

/// The receiver is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// A queue whose pieces count as `memory`.
pub(crate) fn piece_queue(memory: MemoryOfFill) -> (PieceSender, mpsc::Receiver<Piece>) {
    let (queue, pieces) = mpsc::channel(QUEUE);
    let sender = PieceSender { queue, memory, sent: 0, joined: Joined::default(), due: None };
    (sender, pieces)
}

impl PieceSender {
    /// Hands on what was received, or keeps it for a moment if it is small: what follows has to be waited for by
    /// [`Self::while_waiting_for`]. Waits for memory, and for a place in the queue.
    ///
    /// # Errors
    /// The receiver is gone.
    pub(crate) async fn send(&mut self, received: Received) -> Result<(), Closed> {
        // What is joined would be handed on later, and nothing would say that it was for no receiver.
        if self.queue.is_closed() {
            return Err(Closed);
        }
        match received {
            Received::Bytes(bytes) if bytes.len() < SMALL_BYTES && self.sent >= FIRST_BYTES => {
                if self.joined.pieces.is_empty() {
                    self.set_due();
                }
                self.joined.add(bytes);
                if self.joined.bytes >= JOINED_BYTES { self.send_joined().await } else { Ok(()) }
            }
            other => {
                self.send_joined().await?;
                self.send_now(other).await
            }
        }
    }

    /// What `next` brings, which is waited for to its end; what is joined is handed on meanwhile, once it is due.
    pub(crate) async fn while_waiting_for<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = std::pin::pin!(next);
        if !self.joined.pieces.is_empty()
            && let Some(due) = &mut self.due
        {
            tokio::select! {
                biased;
                next = &mut next => return next,
                () = due.as_mut() => {}
            }
            // One that finds no receiver is told by the next.
            let (sent, next) = tokio::join!(self.send_joined(), next);
            let _ = sent;
            return next;
        }
        next.await
    }

    /// Hands on what is joined. Nothing more comes.
    pub(crate) async fn close(mut self) {
        // A receiver that is gone has told why.
        let _ = self.send_joined().await;
    }

    fn set_due(&mut self) {
        let at = Instant::now() + JOINED_FOR;
        match &mut self.due {
            Some(due) => due.as_mut().reset(at),
            None => self.due = Some(Box::pin(sleep_until(at))),
        }
    }

    async fn send_joined(&mut self) -> Result<(), Closed> {
        match self.joined.take() {
            Some(bytes) => self.send_now(Received::Bytes(bytes)).await,
            None => Ok(()),
        }
    }

    async fn send_now(&mut self, received: Received) -> Result<(), Closed> {
        let memory = match &received {
            Received::Bytes(bytes) => {
                self.sent += bytes.len() as u64;
                Some(self.memory.take(bytes.len()).await)
            }
            Received::InFile(_) | Received::End => None,
        };
        self.queue.send(Piece { received, memory }).await.map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::FillMemory;
    use super::*;
    use crate::pull::blob::places::Holder;

    const SMALL: usize = 16 * 1024;
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn queue() -> (PieceSender, mpsc::Receiver<Piece>) {
        piece_queue(FillMemory::default().of_fill(&Holder::Named("reg.test".parse().unwrap())))
    }

    /// Lengths of the pieces that are in the queue; 0 for what is no bytes.
    fn handed_on(pieces: &mut mpsc::Receiver<Piece>) -> Vec<usize> {
        std::iter::from_fn(|| pieces.try_recv().ok()).map(|piece| piece.into_held_bytes().len()).collect()
    }

    async fn send(sender: &mut PieceSender, bytes: usize) {
        sender.send(Received::Bytes(vec![7; bytes].into())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_of_a_body_and_its_end_wait_for_nothing() {
        let (mut sender, mut pieces) = queue();
        for _ in 0..FIRST_BYTES / SMALL as u64 {
            send(&mut sender, SMALL).await;
            assert_eq!(handed_on(&mut pieces), [SMALL], "a client waits for it");
        }
        send(&mut sender, SMALL).await;
        assert!(handed_on(&mut pieces).is_empty());
        let begun = Instant::now();
        sender.while_waiting_for(async {}).await;
        sender.send(Received::End).await.unwrap();
        assert_eq!((handed_on(&mut pieces), begun.elapsed()), (vec![SMALL, 0], Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn small_pieces_are_joined_in_order_and_wait_no_longer_than_a_moment() {
        let (mut sender, mut pieces) = queue();
        send(&mut sender, FIRST_BYTES as usize).await;
        handed_on(&mut pieces);
        for text in ["one ", "after ", "another"] {
            sender.send(Received::Bytes(Bytes::from_static(text.as_bytes()))).await.unwrap();
            sender.while_waiting_for(tokio::time::advance(MILLISECOND / 2)).await;
        }
        assert!(handed_on(&mut pieces).is_empty());
        let begun = Instant::now();
        let next = sender.while_waiting_for(async {
            let piece = pieces.recv().await.unwrap();
            assert!(begun.elapsed() <= JOINED_FOR, "{:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            piece.into_held_bytes()
        });
        assert_eq!(&next.await[..], b"one after another");
        send(&mut sender, SMALL).await;
        send(&mut sender, SMALL_BYTES).await;
        assert_eq!(
            handed_on(&mut pieces),
            [SMALL, SMALL_BYTES],
            "what is large goes on at once, and not first"
        );
        for _ in 0..JOINED_BYTES / SMALL {
            assert!(handed_on(&mut pieces).is_empty());
            send(&mut sender, SMALL).await;
        }
        assert_eq!(handed_on(&mut pieces), [JOINED_BYTES], "more are not gathered");
        send(&mut sender, SMALL).await;
        drop(pieces);
        sender.while_waiting_for(tokio::time::advance(JOINED_FOR)).await;
        let small = Received::Bytes(vec![7; SMALL].into());
        assert!(sender.send(small).await.is_err(), "the rest of the blob is fetched for no receiver");
        assert!(sender.send(Received::End).await.is_err());
    }
}
