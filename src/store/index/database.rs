//! The rows of the index in sled, so that a start after a clean stop knows when each blob was used.
//!
//! The rows of all digests that begin with the same two bytes are one value: sled keeps about 500 bytes in memory for
//! each seven of its values, however small they are. At a million blobs a value has fifteen rows.
//!
//! Every call of sled is fenced: an error or a panic of sled, and a value that fails its checksum, are a [`Failure`],
//! after which the caller makes the database anew. Rows are read back at a start alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::rows::Row;
use crate::reference::Digest;
use crate::store::budget::share::OwnerId;
use crate::store::integrity::crc32c;
use crate::support::clock::Timestamp;

/// Bytes of sled's page cache.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of a digest that name the value that its row is in.
const GROUP_BYTES: usize = 2;
/// Bytes of an encoded row, without its digest.
const ROW_BYTES: usize = 25;

/// The database of the rows.
pub(crate) struct Database(sled::Db);

/// Why the rows cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("sled failed: {0}")]
    Sled(sled::Error),
    #[error("sled panicked")]
    Panic,
    #[error("rows are damaged")]
    Rows,
}

impl Database {
    /// Opens the database; creates it if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(5_000))
            .print_profile_on_drop(false);
        fenced(|| config.open()).map(Self)
    }

    /// Writes everything to disk.
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        fenced(|| self.0.flush()).map(drop)
    }

    /// Sets rows. Those that follow each other in the order of their digests are written together.
    pub(crate) fn put(&self, rows: &[(Digest, Row)]) -> Result<(), Failure> {
        for rows in rows.chunk_by(|(one, _), (next, _)| group(one) == group(next)) {
            let Some((first, _)) = rows.first() else { continue };
            self.change(group(first), |kept| {
                kept.retain(|(digest, _)| rows.iter().all(|(set, _)| set != digest));
                kept.extend_from_slice(rows);
            })?;
        }
        Ok(())
    }

    /// Removes a row.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), Failure> {
        self.change(group(digest), |kept| kept.retain(|(found, _)| found != digest))
    }

    /// Every row, in no order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<(Digest, Row), Failure>> {
        let mut pairs = self.0.iter();
        let values = std::iter::from_fn(move || fenced(|| pairs.next().transpose()).transpose());
        values.flat_map(|pair| {
            let rows = pair.and_then(|(_, value)| decode(&value));
            let (rows, failure) =
                rows.map_or_else(|failure| (Vec::new(), Some(failure)), |rows| (rows, None));
            rows.into_iter().map(Ok).chain(failure.map(Err))
        })
    }

    fn change(&self, group: &[u8], change: impl FnOnce(&mut Vec<(Digest, Row)>)) -> Result<(), Failure> {
        let value = fenced(|| self.0.get(group))?;
        let mut rows = value.map_or_else(|| Ok(Vec::new()), |value| decode(&value))?;
        change(&mut rows);
        if rows.is_empty() {
            fenced(|| self.0.remove(group)).map(drop)
        } else {
            fenced(|| self.0.insert(group, encode(&rows))).map(drop)
        }
    }
}

/// The key of the value that a digest's row is in.
fn group(digest: &Digest) -> &[u8] {
    &digest.as_bytes()[..GROUP_BYTES]
}

/// Each row: the length of the digest (one byte), the digest, then, little endian, size, last access, owner, and
/// whether it was used again (one byte). After the last of them the CRC-32C of everything.
fn encode(rows: &[(Digest, Row)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * (1 + 32 + ROW_BYTES) + 4);
    for (digest, row) in rows {
        let digest = digest.as_bytes();
        out.push(digest.len() as u8);
        out.extend_from_slice(digest);
        out.extend_from_slice(&row.size.to_le_bytes());
        out.extend_from_slice(&row.used_at.0.to_le_bytes());
        out.extend_from_slice(&row.owner.0.to_le_bytes());
        out.push(row.reused.into());
    }
    let own = crc32c::crc32c(&out);
    out.extend_from_slice(&own.to_le_bytes());
    out
}

/// Reads what [`encode`] wrote.
fn decode(value: &[u8]) -> Result<Vec<(Digest, Row)>, Failure> {
    let (mut rest, own) = value.split_last_chunk::<4>().ok_or(Failure::Rows)?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*own) {
        return Err(Failure::Rows);
    }
    let mut rows = Vec::new();
    while let Some((&len, after)) = rest.split_first() {
        let (digest, after) = after.split_at_checked(len.into()).ok_or(Failure::Rows)?;
        let (row, after) = after.split_first_chunk::<ROW_BYTES>().ok_or(Failure::Rows)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| row[at + n]));
        let digest = Digest::from_bytes(digest).ok_or(Failure::Rows)?;
        let (used_at, owner) = (Timestamp(word(8)), OwnerId(word(16)));
        rows.push((digest, Row { size: word(0), used_at, owner, reused: row[24] != 0 }));
        rest = after;
    }
    Ok(rows)
}

/// Calls sled so that neither its errors nor its panics reach the caller's thread.
fn fenced<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Failure::Sled),
        // The panic hook has printed its message.
        Err(_) => Err(Failure::Panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(size: u64) -> Row {
        Row { size, used_at: Timestamp(7), owner: OwnerId(9), reused: size % 2 == 1 }
    }

    #[test]
    fn rows_with_a_flipped_bit_or_cut_off_are_not_believed() {
        let rows = [(Digest::of(b"x"), row(5)), (Digest::from_bytes(&[9; 64]).unwrap(), row(6))];
        let good = encode(&rows);
        assert_eq!(decode(&good).unwrap(), rows);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err());
        }
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err());
        }
    }

    #[test]
    fn what_was_set_last_is_read_again_whatever_else_is_in_its_group() {
        let directory = tempfile::tempdir().unwrap();
        let with = |bytes: &[u8]| {
            let mut digest = [7; 32];
            digest[..bytes.len()].copy_from_slice(bytes);
            Digest::from_bytes(&digest).unwrap()
        };
        let (one, neighbour, other) = (with(&[1, 2, 3]), with(&[1, 2, 4]), with(&[1, 3]));
        let database = Database::open(&directory.path().join("sled")).unwrap();
        let rows = || {
            let mut rows = database.rows().collect::<Result<Vec<_>, _>>().unwrap();
            rows.sort_by_key(|(digest, _)| *digest);
            rows
        };
        database.put(&[(one, row(1)), (neighbour, row(2)), (other, row(3))]).unwrap();
        database.put(&[(one, row(4))]).unwrap();
        assert_eq!(rows(), [(one, row(4)), (neighbour, row(2)), (other, row(3))]);
        database.remove(&one).unwrap();
        assert_eq!(rows(), [(neighbour, row(2)), (other, row(3))]);
        database.remove(&neighbour).unwrap();
        database.remove(&other).unwrap();
        database.remove(&other).unwrap();
        assert_eq!(rows(), []);
    }
}
