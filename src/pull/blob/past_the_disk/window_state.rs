//! What a window holds: the chunks that came last, where its readers are, and up to where they may read. No waiting
//! here.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::memory::MemoryShare;
use crate::pull::blob::withheld_tail::{MIRRORED_PASSED, TAIL, Withheld};
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store;

/// Bytes of one window that withholds no more than the tail: several chunks of upstream beside it.
const WINDOW_BYTES: usize = 512 * 1024;

/// The state of a window.
pub(super) struct State {
    /// The offset of the first byte that is kept.
    pub(super) start: u64,
    /// The offset after the last one.
    pub(super) end: u64,
    /// The hash of everything before `end`.
    hasher: Hasher,
    chunks: VecDeque<Chunk>,
    /// Where the readers are that are waited for: those that fell out are not among them.
    pub(super) readers: HashMap<u64, Position>,
    pub(super) joined: u64,
    /// Whether clients that have been promised the first bytes and have not come kept readers waiting for too long.
    is_begun: bool,
    pub(super) outcome: Option<Outcome>,
    withheld: Withheld,
    share: MemoryShare,
}

/// Where a reader is.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) at: u64,
    /// When it took something last, or came.
    pub(super) since: Instant,
}

/// Bytes in a window.
#[derive(Clone)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) bytes: Bytes,
    /// The hash of everything before it.
    pub(super) before: Hasher,
}

/// A hash, and the bytes that it has not seen yet.
pub(super) struct Unhashed {
    before: Hasher,
    bytes: Bytes,
}

impl Unhashed {
    /// The hash of all.
    pub(super) fn hash(mut self) -> Hasher {
        self.before.update(&self.bytes);
        self.before
    }
}

impl Chunk {
    /// What the hash of everything before byte `at`, which is in this chunk or at its end, is made of.
    pub(super) fn until(&self, at: u64) -> Option<Unhashed> {
        let len = usize::try_from(at.checked_sub(self.start)?).ok()?;
        (len <= self.bytes.len())
            .then(|| Unhashed { before: self.before.clone(), bytes: self.bytes.slice(..len) })
    }
}

/// Bytes a second at which the slowest clients set no pace that others would mind. On a busy node the fastest of twenty
/// clients waits for some other all the time, and each of them comes along.
const PACE: u64 = 1024 * 1024;

/// For how long the slowest clients may keep the others waiting: for so long at a time, and on the whole no longer than
/// the window takes at [`PACE`]. A client that takes a little again and again would else set the pace of all.
pub(super) struct LagBudget {
    max: Duration,
    left: Duration,
    at: Instant,
    was_waiting: bool,
    end: u64,
}

impl LagBudget {
    /// All of it.
    pub(super) fn new(max: Duration, now: Instant) -> Self {
        Self { max, left: max, at: now, was_waiting: false, end: 0 }
    }

    /// Takes in what has passed until now; returns whether it is used up. Then it is renewed, because the slowest are
    /// not waited for any more. `is_any_waiting` says whether clients are being kept waiting from now on, `end` up to
    /// which byte the window has come.
    pub(super) fn charge(&mut self, now: Instant, is_any_waiting: bool, end: u64) -> bool {
        let passed = now - std::mem::replace(&mut self.at, now);
        let moved = end.saturating_sub(std::mem::replace(&mut self.end, end));
        let earned = Duration::from_micros(moved.saturating_mul(1_000_000) / PACE);
        self.left = if self.was_waiting {
            (self.left + earned).saturating_sub(passed)
        } else {
            self.left + earned + passed
        };
        self.left = self.left.min(self.max);
        self.was_waiting = is_any_waiting;
        let is_used_up = is_any_waiting && self.left.is_zero();
        if is_used_up {
            *self = Self { end, ..Self::new(self.max, now) };
        }
        is_used_up
    }
}

/// How a window ended.
pub(super) enum Outcome {
    Verified,
    Failed(Error),
    /// The writer is gone; what is kept can still be read.
    Abandoned,
}

impl State {
    /// A window that begins at byte `start`; `hasher` has seen everything before it.
    pub(super) fn new(start: u64, hasher: Hasher, withheld: Withheld, share: MemoryShare) -> Self {
        let (chunks, readers) = (VecDeque::new(), HashMap::new());
        let (end, joined, is_begun, outcome) = (start, 0, false, None);
        Self { start, end, hasher, chunks, readers, joined, is_begun, outcome, withheld, share }
    }

    /// Takes space for so many bytes more, if there is any; returns whether there is.
    pub(super) fn take_room_for(&mut self, more: usize) -> bool {
        let buffered = usize::try_from(self.end - self.start).unwrap_or(usize::MAX);
        let most = if self.withholds_more_than_the_tail() { MIRRORED_PASSED as usize } else { WINDOW_BYTES };
        buffered + more <= most && self.share.resize(buffered + more)
    }

    /// Whether content of a mirror is withheld that could be read but for that.
    pub(super) fn withholds_more_than_the_tail(&self) -> bool {
        self.outcome.is_none() && self.readable() < self.withheld.all_but_the_tail(self.end)
    }

    /// Whether a mirror delivers it.
    pub(super) fn is_mirrored(&self) -> bool {
        self.withheld.is_mirrored()
    }

    /// From now on the tail alone is withheld: there is no space for more.
    pub(super) fn withhold_the_tail_alone(&mut self) {
        self.withheld.withhold_tail_alone();
    }

    /// Whether a reader has taken everything that is readable.
    pub(super) fn is_any_waiting(&self) -> bool {
        let readable = self.readable();
        self.readers.values().any(|reader| reader.at >= readable)
    }

    /// Whether the first bytes are kept for clients that have not come yet. Without a reader they always are: what is
    /// read of upstream is not thrown away.
    pub(super) fn keeps_first(&self, expected: usize) -> bool {
        expected > 0 && (!self.is_begun || self.readers.is_empty())
    }

    /// Drops what every reader has taken, as far as the space is needed.
    pub(super) fn drop_taken(&mut self, more: usize) {
        let slowest = self.readers.values().map(|reader| reader.at).min();
        while !self.take_room_for(more)
            && let Some(first) = self.chunks.front()
            && slowest.is_none_or(|at| at >= first.start + first.bytes.len() as u64)
        {
            self.drop_first();
        }
    }

    /// Waits no longer for readers that have taken nothing for as long as others may be kept waiting (`lag_max`), nor
    /// for those that are behind all others, nor for clients that have not come. A reader that comes before its bytes
    /// are dropped is waited for again.
    pub(super) fn go_on_without_the_slowest(&mut self, now: Instant, lag_max: Duration) {
        self.is_begun = true;
        let readable = self.readable();
        self.readers.retain(|_, reader| reader.at >= readable || now - reader.since < lag_max);
        self.drop_first();
    }

    /// Drops the first chunk; readers that have not taken it fall out.
    fn drop_first(&mut self) {
        if let Some(first) = self.chunks.pop_front() {
            self.start = first.start + first.bytes.len() as u64;
            self.readers.retain(|_, reader| reader.at >= self.start);
        }
    }

    /// Up to which byte everything has come.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The hash of everything that has come.
    pub(super) fn hasher(&self) -> Hasher {
        self.hasher.clone()
    }

    /// Adds the next bytes. `after` has seen them and everything before them.
    pub(super) fn add(&mut self, bytes: Bytes, after: Hasher) {
        let before = std::mem::replace(&mut self.hasher, after);
        let start = self.end;
        self.end += bytes.len() as u64;
        self.chunks.push_back(Chunk { start, bytes, before });
    }

    /// Up to which byte may be read.
    fn readable(&self) -> u64 {
        match self.outcome {
            Some(Outcome::Verified) => self.end,
            _ => self.withheld.readable(self.end),
        }
    }

    /// Up to which byte a client may read that was told a size of `announced` bytes: before the whole is verified never
    /// to the end that it was told. `None` if the content has another size.
    pub(super) fn readable_for(&self, announced: Option<u64>) -> Option<u64> {
        let is_verified = matches!(self.outcome, Some(Outcome::Verified));
        let size = self.withheld.size().or(is_verified.then_some(self.end));
        match (announced, size) {
            (Some(announced), Some(size)) if announced != size => None,
            (Some(announced), None) if self.end > announced => None,
            (Some(announced), None) => Some(self.readable().min(announced.saturating_sub(TAIL))),
            _ => Some(self.readable()),
        }
    }

    pub(super) fn chunk_at(&self, at: u64) -> Option<&Chunk> {
        let next = self.chunks.partition_point(|chunk| chunk.start <= at);
        self.chunks.get(next.checked_sub(1)?)
    }

    /// What the hash of everything before byte `at` is made of; hashing itself takes too long under a lock.
    pub(super) fn unhashed_at(&self, at: u64) -> Option<Unhashed> {
        if at == self.end {
            return Some(Unhashed { before: self.hasher.clone(), bytes: Bytes::new() });
        }
        self.chunk_at(at)?.until(at)
    }

    /// # Errors
    /// The digest or the size is not what it should be.
    pub(super) fn verify(&self, expected: Digest) -> Result<(), Error> {
        if let Some(size) = self.withheld.size()
            && size != self.end
        {
            return Err(store::Error::TooShort { digest: expected, expected: size, got: self.end }.into());
        }
        let actual = self.hasher.clone().finish();
        let right = actual == expected;
        if right { Ok(()) } else { Err(store::Error::Mismatch { expected, actual: actual.into() }.into()) }
    }
}
