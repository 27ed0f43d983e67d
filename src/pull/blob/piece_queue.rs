//! What lies between the task that receives a blob and the thread that writes it: a short queue of pieces, each of which
//! counts as memory of its download until it is hashed.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::fill_memory::{MemoryOfFill, PieceMemory};

/// Pieces between receiving and writing.
const QUEUE: usize = 8;

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
            (Received::Bytes(bytes), Some(memory)) => memory.hold(bytes),
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
}

/// The receiver is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// A queue whose pieces count as `memory`.
pub(crate) fn piece_queue(memory: MemoryOfFill) -> (PieceSender, mpsc::Receiver<Piece>) {
    let (queue, pieces) = mpsc::channel(QUEUE);
    (PieceSender { queue, memory }, pieces)
}

impl PieceSender {
    /// Waits for memory, and for a place in the queue.
    ///
    /// # Errors
    /// The receiver is gone.
    pub(crate) async fn send(&self, received: Received) -> Result<(), Closed> {
        let memory = match &received {
            Received::Bytes(bytes) => Some(self.memory.take(bytes.len()).await),
            Received::InFile(_) | Received::End => None,
        };
        self.queue.send(Piece { received, memory }).await.map_err(|_| Closed)
    }
}
