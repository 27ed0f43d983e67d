//! The memory of the rows: 64 bytes a blob, in chunks that are never moved.
//!
//! A vector of all rows would be twice as large as it needs to be right after each doubling, and for a moment both
//! sizes are in memory. A chunk is allocated when the one before it is full. The second half of a SHA-512 digest, which
//! few blobs have, is in a table beside them. Not here: what is in which list, and which row belongs to a digest
//! (`rows`).

use std::collections::HashMap;

use crate::reference::Digest;
use crate::store::budget::share::OwnerId;
use crate::support::clock::Timestamp;

/// No slot: the end of a list.
pub(crate) const NONE: u32 = u32::MAX;

/// Slots of one chunk: 64 KiB, what a thousand blobs take.
const CHUNK_SLOTS: usize = 1_024;

/// Bytes of a digest that are in its slot: all of a SHA-256 digest, the first half of a SHA-512 digest.
const DIGEST_BYTES: usize = 32;

/// What is known of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its last access; in memory no later than 2106-02-07, the last second of 32 bits.
    pub(crate) used_at: Timestamp,
    /// The registry that it was first received from.
    pub(crate) owner: OwnerId,
    /// Whether it was used again after the pull that stored it.
    pub(crate) reused: bool,
}

/// The memory of all rows. At most 2³² - 1 of them.
#[derive(Default)]
pub(crate) struct Slots {
    chunks: Vec<Vec<Slot>>,
    /// The second halves of SHA-512 digests, by their slots.
    second_halves: HashMap<u32, [u8; DIGEST_BYTES]>,
}

/// A row, and its place in the list that it is in.
struct Slot {
    digest: [u8; DIGEST_BYTES],
    size: u64,
    owner: OwnerId,
    used_at: u32,
    before: u32,
    after: u32,
    reused: bool,
    content: Content,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Sha256,
    Sha512,
    Nothing,
}

impl Slots {
    /// Takes a slot that there has not been yet; in no list.
    pub(crate) fn push(&mut self, digest: &Digest, row: Row) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_SLOTS) {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        let full = (self.chunks.len() - 1) * CHUNK_SLOTS;
        let chunk = &mut self.chunks[full / CHUNK_SLOTS];
        let slot = (full + chunk.len()) as u32;
        chunk.push(Slot::empty());
        self.fill(slot, digest, row);
        slot
    }

    /// Puts a blob into a slot that holds nothing; in no list.
    pub(crate) fn fill(&mut self, slot: u32, digest: &Digest, row: Row) {
        let (first, second) = digest.as_bytes().split_at(DIGEST_BYTES);
        let second: Option<&[u8; DIGEST_BYTES]> = second.try_into().ok();
        if let Some(second) = second {
            self.second_halves.insert(slot, *second);
        }
        let at = self.at_mut(slot);
        at.digest.copy_from_slice(first);
        at.content = if second.is_some() { Content::Sha512 } else { Content::Sha256 };
        (at.before, at.after) = (NONE, NONE);
        self.set_row(slot, row);
    }

    /// Takes the blob out of a slot.
    pub(crate) fn clear(&mut self, slot: u32) {
        if std::mem::replace(&mut self.at_mut(slot).content, Content::Nothing) == Content::Sha512 {
            self.second_halves.remove(&slot);
        }
    }

    /// Whether a slot holds a blob.
    pub(crate) fn is_filled(&self, slot: u32) -> bool {
        let chunk = self.chunks.get(slot as usize / CHUNK_SLOTS);
        let at = chunk.and_then(|chunk| chunk.get(slot as usize % CHUNK_SLOTS));
        at.is_some_and(|at| at.content != Content::Nothing)
    }

    /// Whether a slot holds this blob.
    pub(crate) fn holds(&self, slot: u32, digest: &Digest) -> bool {
        self.at(slot).digest[..] == digest.as_bytes()[..DIGEST_BYTES] && self.digest(slot) == *digest
    }

    pub(crate) fn digest(&self, slot: u32) -> Digest {
        let at = self.at(slot);
        match self.second_halves.get(&slot) {
            Some(second) if at.content == Content::Sha512 => Digest::from_sha512(at.digest, *second),
            _ => Digest::from_sha256(at.digest),
        }
    }

    pub(crate) fn row(&self, slot: u32) -> Row {
        let Slot { size, owner, used_at, reused, .. } = *self.at(slot);
        Row { size, used_at: Timestamp(used_at.into()), owner, reused }
    }

    pub(crate) fn set_row(&mut self, slot: u32, Row { size, used_at, owner, reused }: Row) {
        let at = self.at_mut(slot);
        (at.size, at.owner, at.reused) = (size, owner, reused);
        at.used_at = u32::try_from(used_at.0).unwrap_or(u32::MAX);
    }

    /// The slot before this one in its list.
    pub(crate) fn before(&self, slot: u32) -> u32 {
        self.at(slot).before
    }

    pub(crate) fn set_before(&mut self, slot: u32, before: u32) {
        self.at_mut(slot).before = before;
    }

    /// The slot after this one in its list, or in that of the free ones.
    pub(crate) fn after(&self, slot: u32) -> u32 {
        self.at(slot).after
    }

    pub(crate) fn set_after(&mut self, slot: u32, after: u32) {
        self.at_mut(slot).after = after;
    }

    fn at(&self, slot: u32) -> &Slot {
        &self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
    }

    fn at_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
    }
}

impl Slot {
    fn empty() -> Self {
        Self {
            digest: [0; DIGEST_BYTES],
            size: 0,
            owner: OwnerId::UNKNOWN,
            used_at: 0,
            before: NONE,
            after: NONE,
            reused: false,
            content: Content::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> Row {
        Row { size: n, used_at: Timestamp(n), owner: OwnerId(n), reused: n % 2 == 1 }
    }

    #[test]
    fn a_blob_takes_no_more_than_half_of_150_bytes_in_memory() {
        // Its place in the table by digest: four bytes and one of control, in a table that is 7/16 full at least.
        let in_table = (size_of::<u32>() + 1) * 16 / 7;
        assert!(size_of::<Slot>() + in_table <= 76, "{}", size_of::<Slot>());
    }

    #[test]
    fn what_is_put_in_is_what_is_read_out_of_every_chunk_and_by_both_algorithms() {
        let digest = |n: u64| match n % 3 {
            0 => Digest::computed(crate::reference::Algorithm::Sha512, &n.to_le_bytes()),
            _ => Digest::of(&n.to_le_bytes()),
        };
        let mut slots = Slots::default();
        let count = 3 * CHUNK_SLOTS as u64 + 1;
        for n in 0..count {
            assert_eq!(u64::from(slots.push(&digest(n), row(n))), n);
        }
        for n in 0..count {
            let slot = n as u32;
            assert_eq!((slots.digest(slot), slots.row(slot)), (digest(n), row(n)));
            assert!(slots.holds(slot, &digest(n)) && !slots.holds(slot, &digest(n + 3)), "{n}");
        }
        slots.clear(0);
        assert!(!slots.is_filled(0) && slots.is_filled(1) && !slots.is_filled(count as u32));
        slots.fill(0, &digest(1), row(5));
        assert_eq!((slots.digest(0), slots.row(0)), (digest(1), row(5)), "no half of the digest before");
    }

    #[test]
    fn of_two_sha512_digests_with_the_same_first_half_each_is_itself() {
        let [one, other] = [1, 2].map(|byte| Digest::from_sha512([7; 32], [byte; 32]));
        let mut slots = Slots::default();
        let slot = slots.push(&one, row(1));
        assert!(slots.holds(slot, &one) && !slots.holds(slot, &other));
        assert!(!slots.holds(slot, &Digest::from_sha256([7; 32])));
    }

    #[test]
    fn a_clock_beyond_the_year_2106_is_its_last_second() {
        let mut slots = Slots::default();
        let slot = slots.push(&Digest::of(b"x"), Row { used_at: Timestamp(u64::MAX), ..row(1) });
        assert_eq!(slots.row(slot).used_at, Timestamp(u32::MAX.into()));
    }
}
