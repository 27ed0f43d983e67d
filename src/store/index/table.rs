//! The rows of the index: in sled, or in memory once sled has failed too often.
//!
//! Every call of sled is fenced: an error or a panic of sled, and a row that fails its checksum, are a [`Failure`], after
//! which the caller rebuilds the table from the files.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::reference::Digest;
use crate::store::error::Error;
use crate::support::clock::Timestamp;

/// Bytes of sled's page cache.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of an encoded row.
const ROW_BYTES: usize = 20;

/// What is known of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its last access.
    pub(crate) used_at: Timestamp,
}

/// The rows of all blobs.
pub(crate) enum Table {
    /// In the database.
    Sled(sled::Db),
    /// In memory, until the next start.
    Memory(HashMap<Digest, Row>),
}

/// Why the rows cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("sled failed: {0}")]
    Sled(sled::Error),
    #[error("sled panicked")]
    Panic,
    #[error("a row is damaged")]
    Row,
    #[error("a key has {0} bytes")]
    Key(usize),
    #[error("the clean-stop marker cannot be written: {0}: {cause}", cause = .0.cause())]
    Marker(Error),
}

impl Table {
    /// Opens the database; creates it if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(5_000))
            .print_profile_on_drop(false);
        fenced(|| config.open()).map(Self::Sled)
    }

    /// Writes everything to disk; `false` if the table is in memory.
    pub(crate) fn flush(&self) -> Result<bool, Failure> {
        let Self::Sled(db) = self else { return Ok(false) };
        fenced(|| db.flush()).map(|_| true)
    }

    pub(crate) fn row(&self, digest: Digest) -> Result<Option<Row>, Failure> {
        match self {
            Self::Memory(rows) => Ok(rows.get(&digest).copied()),
            Self::Sled(db) => {
                fenced(|| db.get(digest.as_bytes()))?.map(|value| Row::decode(&value)).transpose()
            }
        }
    }

    /// Sets a row; returns the one before.
    pub(crate) fn put(&mut self, digest: Digest, row: Row) -> Result<Option<Row>, Failure> {
        match self {
            Self::Memory(rows) => Ok(rows.insert(digest, row)),
            Self::Sled(db) => fenced(|| db.insert(digest.as_bytes(), &row.encode()))?
                .map(|value| Row::decode(&value))
                .transpose(),
        }
    }

    /// Removes a row and returns it.
    pub(crate) fn remove(&mut self, digest: Digest) -> Result<Option<Row>, Failure> {
        match self {
            Self::Memory(rows) => Ok(rows.remove(&digest)),
            Self::Sled(db) => {
                fenced(|| db.remove(digest.as_bytes()))?.map(|value| Row::decode(&value)).transpose()
            }
        }
    }

    /// Writes these rows to a new database.
    pub(crate) fn fill(&self, rows: &[(Digest, Row)]) -> Result<(), Failure> {
        let Self::Sled(db) = self else { return Ok(()) };
        for (digest, row) in rows {
            fenced(|| db.insert(digest.as_bytes(), &row.encode()))?;
        }
        Ok(())
    }

    pub(crate) fn rows(&self) -> Result<Vec<(Digest, Row)>, Failure> {
        let db = match self {
            Self::Memory(rows) => return Ok(rows.iter().map(|(digest, row)| (*digest, *row)).collect()),
            Self::Sled(db) => db,
        };
        let pairs = fenced(|| db.iter().collect::<Result<Vec<_>, _>>())?;
        pairs
            .iter()
            .map(|(key, value)| {
                let digest = <[u8; 32]>::try_from(key.as_ref()).ok().map(Digest::from_bytes);
                Ok((digest.ok_or(Failure::Key(key.len()))?, Row::decode(value)?))
            })
            .collect()
    }
}

impl Row {
    /// Little endian: size, last access, and the CRC-32C of both.
    pub(crate) fn encode(self) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        out[..8].copy_from_slice(&self.size.to_le_bytes());
        out[8..16].copy_from_slice(&self.used_at.0.to_le_bytes());
        let own = crc32c::crc32c(&out[..16]);
        out[16..].copy_from_slice(&own.to_le_bytes());
        out
    }

    /// Reads what [`Row::encode`] wrote.
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Failure> {
        let Ok(value) = <&[u8; ROW_BYTES]>::try_from(value) else { return Err(Failure::Row) };
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| value[at + n]));
        let own = u32::from_le_bytes(std::array::from_fn(|n| value[16 + n]));
        if crc32c::crc32c(&value[..16]) != own {
            return Err(Failure::Row);
        }
        Ok(Self { size: word(0), used_at: Timestamp(word(8)) })
    }
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

    #[test]
    fn a_row_with_a_flipped_bit_is_not_believed() {
        let row = Row { size: 5, used_at: Timestamp(7) };
        let good = row.encode();
        assert!(matches!(Row::decode(&good), Ok(found) if found == row));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Row::decode(&bad).is_err());
        }
    }

    #[test]
    fn a_table_in_memory_and_one_in_sled_behave_alike() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"x");
        let row = |size| Row { size, used_at: Timestamp(7) };
        let in_sled = Table::open(&directory.path().join("sled")).unwrap();
        for mut table in [in_sled, Table::Memory(HashMap::new())] {
            assert_eq!(table.put(digest, row(1)).unwrap(), None);
            assert_eq!(table.put(digest, row(2)).unwrap(), Some(row(1)));
            assert_eq!(table.row(digest).unwrap(), Some(row(2)));
            assert_eq!(table.rows().unwrap(), [(digest, row(2))]);
            assert_eq!(table.remove(digest).unwrap(), Some(row(2)));
            assert_eq!(table.row(digest).unwrap(), None);
        }
    }
}
