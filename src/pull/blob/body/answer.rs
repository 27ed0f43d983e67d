//! What a question about a blob is answered with.

use super::BlobBody;
use crate::pull::answer::{AnswerSource, Stale};
use crate::reference::MediaType;

/// A blob to serve.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Bytes of the whole blob; `None` while upstream has not said it and the bytes are arriving.
    pub size: Option<u64>,
    /// Its media type, if the repository has it as a manifest.
    pub media_type: Option<MediaType>,
    /// The bytes.
    pub body: BlobBody,
    /// Where they come from.
    pub source: AnswerSource,
    /// Set if upstream could not confirm the caller's right.
    pub stale: Option<Stale>,
}

/// The size of a blob, and how it is known.
#[derive(Debug)]
pub struct BlobSize {
    /// Bytes of the blob.
    pub size: u64,
    /// Its media type, if the repository has it as a manifest.
    pub media_type: Option<MediaType>,
    /// Where the answer comes from.
    pub source: AnswerSource,
    /// Set if upstream could not confirm the caller's right.
    pub stale: Option<Stale>,
}
