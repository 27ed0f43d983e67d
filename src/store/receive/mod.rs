//! Receiving blobs: bytes are written to a file of `ingest/` and hashed (`ingest`, `hashing`), can be read meanwhile
//! (`growing`), and become a blob once their digest is proved. Parts of a blob that is not being downloaded are kept
//! here too (`partial`).
//!
//! Not here: the room for the bytes (`budget`, `admission`), and the commit with its records (`blobs`, `content`).

pub(super) mod growing;
pub(super) mod hashing;
pub(super) mod ingest;
pub(super) mod partial;
