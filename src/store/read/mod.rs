//! Reading blobs: each is opened once for all its readers (`open_blobs`, `blob`), and every chunk is compared with its
//! checksum before it leaves (`checked_file`), from the page cache where it is there (`page_cache`).
//!
//! Also what readers hold on to: blobs that are being read are not evicted (`in_use`), and what is kept in memory has
//! limits (`limits`). Not here: finding a blob of the store, and what becomes of a damaged one (`blobs`, `quarantine`).

pub(super) mod blob;
mod buffers;
pub(super) mod checked_file;
pub(super) mod in_use;
pub(super) mod limits;
pub(super) mod open_blobs;
mod page_cache;
pub(super) mod recent_comparisons;
pub(super) mod rehashing;
pub(super) mod removals;
mod stored_checksums;
