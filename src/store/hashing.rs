//! The digest and the checksums of content as it is received: on a thread of its own once there is much of it.
//!
//! SHA-256 and the write each take as long as the other where upstream is fast; one after the other they would halve
//! what a cold pull gets. Small content is not worth a thread.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::integrity::{Builder, Checks};
use crate::reference::{Digest, Hasher};

/// Bytes after which a thread takes over.
const HERE_MAX: u64 = 1024 * 1024;
/// Pieces that may wait for it.
const QUEUE: usize = 8;

/// What has been seen of some content.
#[derive(Default)]
struct Seen {
    hasher: Hasher,
    checks: Builder,
}

impl Seen {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.checks.update(bytes);
    }
}

/// Takes in content, in order.
pub(super) struct Hashing(Place);

enum Place {
    Here(Seen, u64),
    There(SyncSender<Bytes>, JoinHandle<Seen>),
    /// The thread is gone without a result: nothing can be said of the content.
    Lost,
}

impl Hashing {
    pub(super) fn new() -> Self {
        Self(Place::Here(Seen::default(), 0))
    }

    /// The next bytes. Blocks while the thread is behind.
    pub(super) fn update(&mut self, bytes: &Bytes) {
        match &mut self.0 {
            Place::Here(seen, count) => {
                seen.update(bytes);
                *count += bytes.len() as u64;
                if *count > HERE_MAX {
                    self.move_out();
                }
            }
            Place::There(queue, _) => {
                if queue.send(bytes.clone()).is_err() {
                    self.0 = Place::Lost;
                }
            }
            Place::Lost => {}
        }
    }

    fn move_out(&mut self) {
        let (queue, pieces) = sync_channel(QUEUE);
        let Place::Here(seen, count) = std::mem::replace(&mut self.0, Place::Lost) else { return };
        // What has been seen is handed over once the thread is there, and stays here if there is none to be had.
        let (hand_over, take_over) = sync_channel(1);
        let thread = std::thread::Builder::new().name("larder-hash".to_owned()).spawn(move || {
            let seen = take_over.recv().unwrap_or_default();
            go_on(seen, &pieces)
        });
        self.0 = match thread {
            Ok(thread) => {
                let _ = hand_over.send(seen);
                Place::There(queue, thread)
            }
            Err(_) => Place::Here(seen, count),
        };
    }

    fn finish(self) -> Option<Seen> {
        match self.0 {
            Place::Here(seen, _) => Some(seen),
            Place::There(queue, thread) => {
                drop(queue);
                thread.join().ok()
            }
            Place::Lost => None,
        }
    }

    /// The digest and the checksums of all that came. `None` if a thread was lost.
    pub(super) fn all(self) -> Option<(Digest, Checks)> {
        self.finish().map(|seen| (seen.hasher.finish(), seen.checks.finish()))
    }

    /// The running hash, for somebody who goes on with it. `None` if a thread was lost.
    pub(super) fn hasher(self) -> Option<Hasher> {
        self.finish().map(|seen| seen.hasher)
    }
}

fn go_on(mut seen: Seen, pieces: &Receiver<Bytes>) -> Seen {
    while let Ok(bytes) = pieces.recv() {
        seen.update(&bytes);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn here_or_there_the_result_is_the_same() {
        for size in [0, 1, HERE_MAX as usize, 3 * HERE_MAX as usize + 17] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let (mut one, mut other) = (Hashing::new(), Hashing::new());
            for piece in content.chunks(100_000) {
                one.update(&Bytes::copy_from_slice(piece));
                other.update(&Bytes::copy_from_slice(piece));
            }
            let (digest, checks) = one.all().unwrap();
            assert_eq!((digest, checks.size()), (Digest::of(&content), size as u64));
            assert_eq!(other.hasher().unwrap().finish(), digest);
        }
    }
}
