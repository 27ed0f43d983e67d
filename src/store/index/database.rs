//! The rows of the index in sled, so that a start after a clean stop knows when each blob was used.
//!
//! Every call of sled is fenced: an error or a panic of sled, and a row that fails its checksum, are a [`Failure`], after
//! which the caller makes the database anew. Nothing is read from it but at a start.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::rows::Row;
use crate::reference::Digest;
use crate::store::share::OwnerId;
use crate::support::clock::Timestamp;

/// Bytes of sled's page cache.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of an encoded row.
const ROW_BYTES: usize = 29;

/// The database of the rows.
pub(crate) struct Database(sled::Db);

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

    /// Sets a row.
    pub(crate) fn put(&self, digest: &Digest, row: Row) -> Result<(), Failure> {
        fenced(|| self.0.insert(digest.as_bytes(), &encode(row))).map(drop)
    }

    /// Removes a row.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), Failure> {
        fenced(|| self.0.remove(digest.as_bytes())).map(drop)
    }

    /// Every row, in the order of the digests.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<(Digest, Row), Failure>> {
        let mut pairs = self.0.iter();
        std::iter::from_fn(move || match fenced(|| pairs.next().transpose()) {
            Ok(Some((key, value))) => {
                let digest = Digest::from_bytes(&key);
                let row =
                    digest.ok_or(Failure::Key(key.len())).and_then(|digest| Ok((digest, decode(&value)?)));
                Some(row)
            }
            Ok(None) => None,
            Err(failure) => Some(Err(failure)),
        })
    }
}

/// Little endian: size, last access, owner, whether it was used again (one byte), and the CRC-32C of these.
fn encode(row: Row) -> [u8; ROW_BYTES] {
    let mut out = [0; ROW_BYTES];
    out[..8].copy_from_slice(&row.size.to_le_bytes());
    out[8..16].copy_from_slice(&row.used_at.0.to_le_bytes());
    out[16..24].copy_from_slice(&row.owner.0.to_le_bytes());
    out[24] = row.reused.into();
    let own = crc32c::crc32c(&out[..25]);
    out[25..].copy_from_slice(&own.to_le_bytes());
    out
}

/// Reads what [`encode`] wrote.
fn decode(value: &[u8]) -> Result<Row, Failure> {
    let Ok(value) = <&[u8; ROW_BYTES]>::try_from(value) else { return Err(Failure::Row) };
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| value[at + n]));
    let own = u32::from_le_bytes(std::array::from_fn(|n| value[25 + n]));
    if crc32c::crc32c(&value[..25]) != own {
        return Err(Failure::Row);
    }
    let (owner, reused) = (OwnerId(word(16)), value[24] != 0);
    Ok(Row { size: word(0), used_at: Timestamp(word(8)), owner, reused })
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
        let row = Row { size: 5, used_at: Timestamp(7), owner: OwnerId(9), reused: true };
        let good = encode(row);
        assert!(matches!(decode(&good), Ok(found) if found == row));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err());
        }
    }

    #[test]
    fn what_was_set_last_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"x");
        let row = |size| Row { size, used_at: Timestamp(7), owner: OwnerId::UNKNOWN, reused: false };
        let database = Database::open(&directory.path().join("sled")).unwrap();
        let rows = || database.rows().collect::<Result<Vec<_>, _>>().unwrap();
        database.put(&digest, row(1)).unwrap();
        database.put(&digest, row(2)).unwrap();
        assert_eq!(rows(), [(digest, row(2))]);
        database.remove(&digest).unwrap();
        assert_eq!(rows(), []);
    }
}
