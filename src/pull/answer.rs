//! How an answer was come by, and how old it may be.

use bytes::Bytes;

use super::error::Error;
use crate::reference::{Digest, MediaType};
use crate::support::clock::Timestamp;

/// Where an answer comes from; also a label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The store; upstream was not asked.
    Hit,
    /// A download that was under way.
    Join,
    /// Upstream.
    Fill,
    /// The store, after upstream confirmed it.
    Revalidated,
    /// The store; upstream is asked in the background.
    Refreshing,
    /// The store, because upstream could not be asked.
    Stale,
    /// Upstream, past the store.
    Passthrough,
}

impl AnswerSource {
    /// Every source, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::Join,
        Self::Fill,
        Self::Revalidated,
        Self::Refreshing,
        Self::Stale,
        Self::Passthrough,
    ];

    /// The label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Join => "join",
            Self::Fill => "fill",
            Self::Revalidated => "revalidated",
            Self::Refreshing => "refreshing",
            Self::Stale => "stale",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Why an answer may be out of date.
#[derive(Debug, Clone)]
pub struct Stale {
    /// When upstream last confirmed the tag, or the caller's right.
    pub confirmed_at: Timestamp,
    /// Why upstream could not be asked now.
    pub error: Error,
}

/// A manifest to serve.
#[derive(Debug, Clone)]
pub struct ManifestAnswer {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The media type that it is served as.
    pub media_type: MediaType,
    /// The document, byte for byte.
    pub bytes: Bytes,
    /// Where it comes from.
    pub source: AnswerSource,
    /// Set if upstream could not confirm the tag or the caller's right.
    pub stale: Option<Stale>,
}

impl ManifestAnswer {
    /// The same manifest from another source.
    pub(crate) fn with_source(self, source: AnswerSource) -> Self {
        Self { source, ..self }
    }

    /// The same manifest, marked as stale.
    pub(crate) fn stale(self, confirmed_at: Timestamp, error: Error) -> Self {
        Self { source: AnswerSource::Stale, stale: Some(Stale { confirmed_at, error }), ..self }
    }
}
