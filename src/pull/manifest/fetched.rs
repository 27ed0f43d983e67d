//! A manifest as it comes from upstream: what proves its bytes, and the type to serve it as. Values.

use bytes::Bytes;

use crate::pull::answer::{AnswerSource, ManifestAnswer};
use crate::reference::{Digest, Document, MediaType};
use crate::store::Member;

/// How long a fetch may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchWait {
    /// As long as upstream takes.
    Unbounded,
    /// While the client still waits: there is a record to serve.
    InTime,
}

/// A verified manifest, fresh from upstream.
#[derive(Debug, Clone)]
pub(crate) struct FetchedManifest {
    pub(crate) digest: Digest,
    /// Whether the registry itself sent it, and no mirror.
    pub(crate) is_authoritative: bool,
    pub(super) media_type: MediaType,
    pub(super) bytes: Bytes,
}

impl FetchedManifest {
    pub(crate) fn answer(self) -> ManifestAnswer {
        let Self { digest, media_type, bytes, .. } = self;
        ManifestAnswer { digest, media_type, bytes, source: AnswerSource::Fill, stale: None }
    }
}

/// What says that bytes are the manifest that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BytesProvedBy {
    /// Their digest.
    Digest,
    /// The registry alone, in its answer to a tag.
    Registry,
}

/// The type to serve a document as. The one that it was first received with stays, unless that said nothing or the
/// document names another one itself: a registry, or a copy of it, that sent the wrong type may have been mended.
pub(super) fn type_of(document: Document, recorded: Option<Member>) -> MediaType {
    match recorded {
        Some(Member::Manifest(first)) if !document.names_its_type && !first.is_useless() => first,
        _ => document.media_type,
    }
}
