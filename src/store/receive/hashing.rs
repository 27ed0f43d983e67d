//! The digest of content as it is received: on a thread of their own once there is much of it.
//!
//! Hashing and the write each take as long as the other where upstream is fast; one after the other they would halve
//! the throughput of a cold pull. Small content is not worth a thread. Pieces go to it several at a time: nothing waits
//! for a hash before the end, and each hand-over wakes a thread.

use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::reference::Hasher;

/// Bytes after which a thread takes over.
const INLINE_BYTES_MAX: u64 = 1024 * 1024;
/// Batches that may wait for the thread.
const QUEUE: usize = 8;
/// Pieces go to the thread as soon as they have so many bytes together: fewer wait here, which no thread has begun to
/// hash. A download may hold as many beyond the memory for what is not hashed yet, and not more can be spared.
pub const HASH_BATCH_BYTES: usize = 128 * 1024;
/// Pieces of a batch at most. One of few bytes may keep all of the buffer that it was received in.
const BATCH_PIECES: usize = 16;

/// The running hash of content that arrives, for the one who writes it and for the one who takes over from a writer
/// that hangs. Cheap to clone.
#[derive(Clone)]
pub struct ContentHash(Arc<Mutex<(ContentHasher, u64)>>);

impl ContentHash {
    /// Begins with `hasher`, which has seen nothing.
    pub(in crate::store) fn new(hasher: Hasher) -> Self {
        Self(Arc::new(Mutex::new((ContentHasher::new(hasher), 0))))
    }

    /// The next bytes, which count no more once the hash was taken. Blocks as [`ContentHasher::update`].
    pub(in crate::store) fn update(&self, bytes: &Bytes) {
        let (hasher, count) = &mut *self.0.lock();
        hasher.update(bytes);
        *count += bytes.len() as u64;
    }

    /// As [`ContentHash::update`], and blocks until the bytes are hashed: nothing of them waits in memory.
    pub(super) fn update_and_wait(&self, bytes: &Bytes) {
        let (hasher, count) = &mut *self.0.lock();
        hasher.update_and_wait(bytes);
        *count += bytes.len() as u64;
    }

    /// The hash of all content so far, and how many bytes that is. `None` if it was taken before, or lost. Blocks for
    /// milliseconds, until they are hashed.
    pub fn take(&self) -> Option<(Hasher, u64)> {
        let (hasher, count) = &mut *self.0.lock();
        hasher.running().map(|hasher| (hasher, *count))
    }
}

/// Hashes content that arrives in order.
struct ContentHasher(State);

enum State {
    /// On the caller's thread, with the bytes so far.
    Inline(Hasher, u64),
    /// On a thread, which ends when the queue is dropped; and the pieces that go to it next.
    Thread(SyncSender<Handed>, JoinHandle<Option<Hasher>>, HashBatch),
    /// The thread ended without a result: the digest of the content is unknown.
    Lost,
}

/// What the thread is handed.
struct Handed {
    pieces: Vec<Bytes>,
    /// Dropped once they are hashed, for one who waits for that.
    _hashed: Option<SyncSender<()>>,
}

impl Handed {
    fn pieces(pieces: Vec<Bytes>) -> Self {
        Self { pieces, _hashed: None }
    }
}

/// Pieces of content that are handed over together, without a copy of their bytes.
#[derive(Default)]
struct HashBatch {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl HashBatch {
    /// Adds the next piece; returns all once they are enough.
    fn add(&mut self, piece: Bytes) -> Option<Vec<Bytes>> {
        self.bytes += piece.len();
        self.pieces.push(piece);
        let are_enough = self.bytes >= HASH_BATCH_BYTES || self.pieces.len() >= BATCH_PIECES;
        are_enough.then(|| mem::take(self).pieces)
    }
}

impl ContentHasher {
    /// Begins with `hasher`, which has seen nothing.
    fn new(hasher: Hasher) -> Self {
        Self(State::Inline(hasher, 0))
    }

    /// The next bytes. Blocks while the thread is behind.
    fn update(&mut self, bytes: &Bytes) {
        match &mut self.0 {
            State::Inline(running, count) => {
                running.update(bytes);
                *count += bytes.len() as u64;
                if *count > INLINE_BYTES_MAX {
                    self.move_to_thread();
                }
            }
            State::Thread(queue, _, batch) => {
                let batch = batch.add(bytes.clone());
                if batch.is_some_and(|pieces| queue.send(Handed::pieces(pieces)).is_err()) {
                    self.0 = State::Lost;
                }
            }
            State::Lost => {}
        }
    }

    /// The next bytes. Blocks until they are hashed.
    fn update_and_wait(&mut self, bytes: &Bytes) {
        if let State::Thread(queue, _, batch) = &mut self.0 {
            let mut pieces = mem::take(batch).pieces;
            pieces.push(bytes.clone());
            let (hashed, wait) = sync_channel(0);
            let sent = queue.send(Handed { pieces, _hashed: Some(hashed) });
            // Nothing is sent: the thread drops its end.
            let _ = wait.recv();
            if sent.is_err() {
                self.0 = State::Lost;
            }
        } else {
            self.update(bytes);
        }
    }

    fn move_to_thread(&mut self) {
        let State::Inline(running, count) = mem::replace(&mut self.0, State::Lost) else { return };
        let (queue, batches) = sync_channel(QUEUE);
        // Handed over once the thread runs, and left here if none can be started.
        let (hand_over, receive) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("larder-hash".to_owned())
            .spawn(move || receive.recv().ok().map(|running| update_all(running, &batches)));
        self.0 = match thread {
            Ok(thread) => {
                let _ = hand_over.send(running);
                State::Thread(queue, thread, HashBatch::default())
            }
            Err(error) => {
                tracing::debug!(%error, "no thread for hashing; it goes on beside the write");
                State::Inline(running, count)
            }
        };
    }

    /// The hash of all content so far, to be finished or continued elsewhere. `None` if it was taken before, or lost.
    fn running(&mut self) -> Option<Hasher> {
        match mem::replace(&mut self.0, State::Lost) {
            State::Inline(running, _) => Some(running),
            State::Thread(queue, thread, rest) => {
                // A thread that has ended gives no hash.
                let _ = queue.send(Handed::pieces(rest.pieces));
                drop(queue);
                thread.join().ok().flatten()
            }
            State::Lost => None,
        }
    }
}

impl Drop for ContentHasher {
    /// Waits for the thread, which has a few batches left at most.
    fn drop(&mut self) {
        self.running();
    }
}

fn update_all(mut running: Hasher, batches: &Receiver<Handed>) -> Hasher {
    while let Ok(handed) = batches.recv() {
        // Each is dropped once it is hashed.
        handed.pieces.into_iter().for_each(|bytes| running.update(&bytes));
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Algorithm, Digest};

    #[test]
    fn inline_or_on_a_thread_the_result_is_the_same() {
        for size in [0, 1, INLINE_BYTES_MAX as usize, 3 * INLINE_BYTES_MAX as usize + 17] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let hashing = ContentHash::new(Hasher::new(Algorithm::Sha256));
            for (number, chunk) in content.chunks(100_000).enumerate() {
                let bytes = Bytes::copy_from_slice(chunk);
                if number % 3 == 2 {
                    hashing.update_and_wait(&bytes);
                    assert!(bytes.is_unique(), "it waits in memory");
                } else {
                    hashing.update(&bytes);
                }
            }
            let (hasher, count) = hashing.take().unwrap();
            assert_eq!((hasher.finish(), count), (Digest::of(&content), size as u64));
            assert!(hashing.take().is_none());
        }
    }

    #[test]
    fn pieces_are_handed_over_together_and_what_is_left_at_the_end_is_hashed_too() {
        let mut batch = HashBatch::default();
        let add = |batch: &mut HashBatch, len| batch.add(vec![0; len].into()).map(|pieces| pieces.len());
        assert!((1..BATCH_PIECES).all(|_| add(&mut batch, 1).is_none()));
        assert_eq!(add(&mut batch, 1), Some(BATCH_PIECES));
        assert_eq!([HASH_BATCH_BYTES / 2; 2].map(|len| add(&mut batch, len)), [None, Some(2)]);
        assert_eq!([HASH_BATCH_BYTES, 1].map(|len| add(&mut batch, len)), [Some(1), None], "nothing is kept");

        let content: Vec<u8> = (0..2 * INLINE_BYTES_MAX).map(|n| (n % 251) as u8).collect();
        for (piece, len) in [(1_000, content.len()), (30_000, content.len() - 1)] {
            let hashing = ContentHash::new(Hasher::new(Algorithm::Sha256));
            content[..len].chunks(piece).for_each(|piece| hashing.update(&Bytes::copy_from_slice(piece)));
            assert_eq!(hashing.take().unwrap().0.finish(), Digest::of(&content[..len]), "{piece}");
        }
    }
}
