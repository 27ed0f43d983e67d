//! A window: one body from upstream that several clients share without the disk.
//!
//! The last bytes that arrived are kept in memory. Upstream is read no faster than the slowest client takes them, so
//! that any number of clients of a blob that cannot be stored cost one download. A client that keeps the others waiting
//! falls out once, and nothing waits for it from then on: it goes on by a request of its own, with the hash of what it
//! has, and is verified as a whole like every other.
//!
//! Promises: no more memory than its share (`memory`); the tail is withheld until the digest is verified, and
//! more of what a mirror delivers, as far as there is memory for it (`withheld_tail`). Deliberately not here: where the
//! bytes come from (`fill`), and what a client does that fell out (`body`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::memory::MemoryShare;
use super::window_state::{Chunk, LagBudget, Outcome, Position, State, Unhashed};
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::blob::withheld_tail::Withheld;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};

/// How long a client may keep others waiting that have taken everything ([`LagBudget`]).
const LAG_MAX: Duration = Duration::from_millis(500);
/// Bytes that are kept or dropped as one: less than the window without the tail, so that what is dropped was readable.
const CHUNK_BYTES: usize = 64 * 1024;

/// The writing end. Dropped without [`Window::finish`] or [`Window::fail`], its readers fall out.
pub(crate) struct Window {
    shared: Arc<Shared>,
    lag: Mutex<LagBudget>,
}

/// Where clients join a window. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WindowHandle(Arc<Shared>);

/// The reading end of one client.
pub(crate) struct WindowReader {
    shared: Arc<Shared>,
    id: u64,
    /// The hash of everything before the byte that it joined at; `None` of one that joined ahead of what had come.
    joined: Option<Hasher>,
    /// The chunk that was read from last and the hash of everything before it.
    last: Option<Chunk>,
    at: u64,
    /// The size that its client was told.
    announced: Option<u64>,
}

/// What a reader gets.
pub(crate) enum Windowed {
    /// The next bytes.
    Bytes(Bytes),
    /// All have been returned, and the whole was verified.
    End,
    /// The next bytes are gone. With them the hash of everything before them; `None` for a reader that joined ahead of
    /// what had come and took nothing.
    FellOut(Option<Hasher>),
}

struct Shared {
    digest: Digest,
    state: Mutex<State>,
    /// Something came, or it is over.
    arrived: Notify,
    /// Something was taken, or a reader came or left.
    taken: Notify,
}

impl std::fmt::Debug for WindowHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("WindowHandle")
            .field("start", &state.start)
            .field("end", &state.end)
            .finish_non_exhaustive()
    }
}

impl Window {
    /// A window that begins after the `written` bytes of the blob `digest`.
    pub(crate) fn new(digest: Digest, written: HashedStart, withheld: Withheld, share: MemoryShare) -> Self {
        let state = Mutex::new(State::new(written.len(), written.hasher(), withheld, share));
        let shared = Arc::new(Shared { digest, state, arrived: Notify::new(), taken: Notify::new() });
        Self { shared, lag: Mutex::new(LagBudget::new(LAG_MAX, Instant::now())) }
    }

    /// Where clients join.
    pub(crate) fn handle(&self) -> WindowHandle {
        WindowHandle(Arc::clone(&self.shared))
    }

    /// Adds the next bytes, as fast as there is space for them. `expected` says how many clients have been promised
    /// this download and have not joined yet: the first bytes are kept for them, as long as that keeps no reader
    /// waiting for too long.
    pub(crate) async fn append(&self, mut bytes: Bytes, expected: impl Fn() -> usize) {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.append_chunk(chunk, &expected).await;
            self.shared.arrived.notify_waiters();
        }
    }

    async fn append_chunk(&self, chunk: Bytes, expected: &impl Fn() -> usize) {
        // Before the lock is taken that readers wait for. Nothing else adds to the window.
        let mut hasher = self.shared.state.lock().hasher();
        hasher.update(&chunk);
        loop {
            let mut taken = std::pin::pin!(self.shared.taken.notified());
            // Registered before the look, so that nothing that is taken in between is missed.
            taken.as_mut().enable();
            {
                let mut state = self.shared.state.lock();
                if !state.keeps_first(expected()) {
                    state.drop_taken(chunk.len());
                }
                let (now, mut lag) = (Instant::now(), self.lag.lock());
                if state.take_room_for(chunk.len()) {
                    lag.charge(now, false, state.end());
                    return state.add(chunk, hasher);
                }
                if state.withholds_more_than_the_tail() {
                    state.withhold_the_tail_alone();
                    self.shared.arrived.notify_waiters();
                    continue;
                }
                if lag.charge(now, state.is_any_waiting(), state.end()) {
                    state.go_on_without_the_slowest(now, LAG_MAX);
                    continue;
                }
            }
            // Not only until something is taken: those who lag are waited for so long at most.
            let _ = tokio::time::timeout(LAG_MAX / 4, taken).await;
        }
    }

    /// Whether everything has come, and is what it should be.
    ///
    /// # Errors
    /// The digest or the size is not what it should be.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        self.shared.state.lock().verify(self.shared.digest)
    }

    /// The end of a blob that was verified: readers get the tail.
    pub(crate) fn finish(self) {
        self.shared.state.lock().outcome = Some(Outcome::Verified);
        self.shared.arrived.notify_waiters();
    }

    /// The rest cannot be had: readers get what is readable, then this error.
    pub(crate) fn fail(self, error: Error) {
        self.shared.state.lock().outcome = Some(Outcome::Failed(error));
        self.shared.arrived.notify_waiters();
    }

    /// Waits until no client reads.
    pub(crate) async fn no_reader(&self) {
        loop {
            let mut taken = std::pin::pin!(self.shared.taken.notified());
            taken.as_mut().enable();
            if self.shared.state.lock().readers.is_empty() {
                return;
            }
            taken.await;
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.shared.state.lock().outcome.get_or_insert(Outcome::Abandoned);
        self.shared.arrived.notify_waiters();
    }
}

impl WindowHandle {
    /// Whether a client reads.
    pub(crate) fn has_reader(&self) -> bool {
        !self.0.state.lock().readers.is_empty()
    }

    /// The offset after the last byte that has come.
    pub(crate) fn received(&self) -> u64 {
        self.0.state.lock().end
    }

    /// A reader from byte `at` on, for a client that was told a size of `announced` bytes; `None` if that byte is gone
    /// from the window, or further ahead than `ahead_max`.
    pub(crate) fn join(&self, at: u64, ahead_max: u64, announced: Option<u64>) -> Option<WindowReader> {
        let mut state = self.0.state.lock();
        if at < state.start || at > state.end.saturating_add(ahead_max) {
            return None;
        }
        state.joined += 1;
        let id = state.joined;
        state.readers.insert(id, Position { at, since: Instant::now() });
        let unhashed = state.unhashed_at(at);
        drop(state);
        let joined = unhashed.map(Unhashed::hash);
        self.0.taken.notify_waiters();
        Some(WindowReader { shared: Arc::clone(&self.0), id, joined, last: None, at, announced })
    }

    /// Up to which byte a client at byte `at` may read of what came before the window too; waits until that is more.
    /// `None` if it will not be: the client goes on by itself.
    ///
    /// # Errors
    /// Why the rest cannot be had.
    pub(crate) async fn readable_beyond(
        &self,
        at: u64,
        announced: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        loop {
            let mut arrived = std::pin::pin!(self.0.arrived.notified());
            arrived.as_mut().enable();
            {
                let state = self.0.state.lock();
                match state.readable_for(announced) {
                    None => return Ok(None),
                    Some(readable) if readable > at => return Ok(Some(readable)),
                    Some(_) => {}
                }
                match &state.outcome {
                    None => {}
                    Some(Outcome::Failed(error)) => return Err(error.clone()),
                    Some(Outcome::Verified) => return Ok(Some(state.end)),
                    Some(Outcome::Abandoned) => return Ok(None),
                }
            }
            arrived.await;
        }
    }

    /// Whether a mirror delivers it.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.0.state.lock().is_mirrored()
    }
}

impl WindowReader {
    /// The next bytes.
    ///
    /// # Errors
    /// Upstream, or content that is not what the digest says; then the tail has not been returned.
    pub(crate) async fn next(&mut self) -> Result<Windowed, Error> {
        loop {
            let shared = Arc::clone(&self.shared);
            let mut arrived = std::pin::pin!(shared.arrived.notified());
            arrived.as_mut().enable();
            if let Some(next) = self.take()? {
                shared.taken.notify_waiters();
                return Ok(next);
            }
            arrived.await;
        }
    }

    /// The hash of everything before the next byte, for a client that goes on by itself; `None` as in
    /// [`Windowed::FellOut`].
    pub(crate) fn so_far(&self) -> Option<Hasher> {
        self.hash_so_far(self.shared.state.lock())
    }

    fn take(&mut self) -> Result<Option<Windowed>, Error> {
        let mut state = self.shared.state.lock();
        let fell_out = |state: MutexGuard<'_, State>| Ok(Some(Windowed::FellOut(self.hash_so_far(state))));
        if self.at < state.start {
            return fell_out(state);
        }
        let Some(until) = state.readable_for(self.announced) else { return fell_out(state) };
        if self.at < until
            && let Some(chunk) = state.chunk_at(self.at).cloned()
        {
            let from = (self.at - chunk.start) as usize;
            let to = usize::try_from(until - chunk.start).unwrap_or(usize::MAX).min(chunk.bytes.len());
            let bytes = chunk.bytes.slice(from..to);
            self.at += bytes.len() as u64;
            self.last = Some(chunk);
            state.readers.insert(self.id, Position { at: self.at, since: Instant::now() });
            return Ok(Some(Windowed::Bytes(bytes)));
        }
        match &state.outcome {
            None => Ok(None),
            Some(Outcome::Verified) => Ok(Some(Windowed::End)),
            Some(Outcome::Failed(error)) => Err(error.clone()),
            Some(Outcome::Abandoned) => fell_out(state),
        }
    }

    /// Hashes without the lock.
    fn hash_so_far(&self, state: MutexGuard<'_, State>) -> Option<Hasher> {
        if let Some(last) = self.last.as_ref() {
            drop(state);
            return last.until(self.at).map(Unhashed::hash);
        }
        let unhashed = state.unhashed_at(self.at);
        drop(state);
        unhashed.map(Unhashed::hash).or_else(|| self.joined.clone())
    }
}

impl Drop for WindowReader {
    fn drop(&mut self) {
        self.shared.state.lock().readers.remove(&self.id);
        self.shared.taken.notify_waiters();
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
