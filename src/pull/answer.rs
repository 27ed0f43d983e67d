//! How an answer was come by, and how old it may be.

use bytes::Bytes;

use super::error::Error;
use crate::reference::{Digest, MediaType};
use crate::support::clock::Timestamp;
use crate::support::metric_labels::label_values;

label_values! {
    /// Where an answer comes from.
    pub enum AnswerSource: "source" {
        /// The store; upstream was not asked.
        Hit => "hit",
        /// A download that was under way.
        Join => "join",
        /// Upstream.
        Fill => "fill",
        /// The store, after upstream confirmed it.
        Revalidated => "revalidated",
        /// The store; upstream is asked in the background.
        Refreshing => "refreshing",
        /// The store, because upstream could not be asked.
        Stale => "stale",
        /// Upstream, past the store.
        Passthrough => "passthrough",
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
