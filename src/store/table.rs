//! The rows of the index: in sled, or in memory once sled has failed too often.
//!
//! Every call of sled is fenced: an error or a panic of its own, and a row that fails its checksum, are all one
//! [`Failure`], after which the caller rebuilds from the files.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::reference::Digest;
use crate::support::clock::Timestamp;

/// Bytes of sled's page cache.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// What is known of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// Bytes.
    pub(super) size: u64,
    /// Its last use.
    pub(super) used_at: Timestamp,
}

/// The rows of all blobs.
pub(super) enum Table {
    /// In the database.
    Sled(sled::Db),
    /// Until the next start.
    Memory(HashMap<Digest, Row>),
}

/// Something that sled did; what exactly does not matter, the answer is the same.
pub(super) struct Failure(pub(super) String);

impl Table {
    /// Opens the database, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(5_000))
            .print_profile_on_drop(false);
        fenced(|| config.open()).map(Self::Sled)
    }

    /// Writes everything down; `false` if there is no database to write to.
    pub(super) fn flush(&self) -> Result<bool, Failure> {
        let Self::Sled(db) = self else { return Ok(false) };
        fenced(|| db.flush()).map(|_| true)
    }

    /// The row of a blob.
    pub(super) fn row(&self, digest: Digest) -> Result<Option<Row>, Failure> {
        match self {
            Self::Memory(rows) => Ok(rows.get(&digest).copied()),
            Self::Sled(db) => {
                fenced(|| db.get(digest.as_bytes()))?.map(|value| Row::decode(&value)).transpose()
            }
        }
    }

    /// Sets a row; returns the one before.
    pub(super) fn put(&mut self, digest: Digest, row: Row) -> Result<Option<Row>, Failure> {
        match self {
            Self::Memory(rows) => Ok(rows.insert(digest, row)),
            Self::Sled(db) => fenced(|| db.insert(digest.as_bytes(), &row.encode()))?
                .map(|value| Row::decode(&value))
                .transpose(),
        }
    }

    /// Removes a row and returns it.
    pub(super) fn remove(&mut self, digest: Digest) -> Result<Option<Row>, Failure> {
        match self {
            Self::Memory(rows) => Ok(rows.remove(&digest)),
            Self::Sled(db) => {
                fenced(|| db.remove(digest.as_bytes()))?.map(|value| Row::decode(&value)).transpose()
            }
        }
    }

    /// Writes these rows to a new database.
    pub(super) fn fill(&self, rows: &[(Digest, Row)]) -> Result<(), Failure> {
        let Self::Sled(db) = self else { return Ok(()) };
        for (digest, row) in rows {
            fenced(|| db.insert(digest.as_bytes(), &row.encode()))?;
        }
        Ok(())
    }

    /// All of them.
    pub(super) fn rows(&self) -> Result<Vec<(Digest, Row)>, Failure> {
        let db = match self {
            Self::Memory(rows) => return Ok(rows.iter().map(|(digest, row)| (*digest, *row)).collect()),
            Self::Sled(db) => db,
        };
        let pairs = fenced(|| db.iter().collect::<Result<Vec<_>, _>>())?;
        pairs
            .iter()
            .map(|(key, value)| {
                let key: [u8; 32] =
                    key.as_ref().try_into().map_err(|_| Failure("a key of a wrong length".into()))?;
                Ok((Digest::from_bytes(key), Row::decode(value)?))
            })
            .collect()
    }
}

impl Row {
    /// Little endian, with a CRC-32C of its own.
    pub(super) fn encode(self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..8].copy_from_slice(&self.size.to_le_bytes());
        out[8..16].copy_from_slice(&self.used_at.0.to_le_bytes());
        let own = crc32c::crc32c(&out[..16]);
        out[16..].copy_from_slice(&own.to_le_bytes());
        out
    }

    /// Reads what [`Row::encode`] wrote.
    pub(super) fn decode(value: &[u8]) -> Result<Self, Failure> {
        let bad = || Failure("a row fails its checksum".to_owned());
        let value: &[u8; 20] = value.try_into().map_err(|_| bad())?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| value[at + n]));
        let own = u32::from_le_bytes(std::array::from_fn(|n| value[16 + n]));
        if crc32c::crc32c(&value[..16]) != own {
            return Err(bad());
        }
        Ok(Self { size: word(0), used_at: Timestamp(word(8)) })
    }
}

/// Calls sled so that neither its errors nor its panics get further than this.
fn fenced<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| Failure(e.to_string())),
        Err(_) => Err(Failure("sled panicked".to_owned())),
    }
}
