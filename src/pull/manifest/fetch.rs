//! Manifests from upstream: fetched once for all who ask at the same time as the same principal, verified, stored.
//!
//! Promises: what is returned has the digest that was asked for, or is the registry's answer to a tag; nothing that is
//! both an index and an image is returned; a store that fails costs the pull nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::kept::KeptManifests;
use crate::pull::access::{Access, Purpose, Subject};
use crate::pull::answer::{AnswerSource, ManifestAnswer};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{
    Digest, Document, DocumentError, Kind, MediaType, Principal, Reference, Repository, is_manifest_of,
    manifest_digest,
};
use crate::store::{Member, Store};
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::{Allowed, AuthContext, Manifest, Patience};

/// A verified manifest, fresh from upstream.
#[derive(Debug, Clone)]
pub(crate) struct FetchedManifest {
    pub(crate) digest: Digest,
    media_type: MediaType,
    bytes: Bytes,
}

impl FetchedManifest {
    pub(crate) fn answer(self) -> ManifestAnswer {
        let Self { digest, media_type, bytes } = self;
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
fn type_of(document: Document, recorded: Option<Member>) -> MediaType {
    match recorded {
        Some(Member::Manifest(first)) if !document.names_its_type && !first.is_useless() => first,
        _ => document.media_type,
    }
}

/// What requests are equal: the reference, whether the answer proves a right (a mirror's delivery must not pass for a
/// proof), the principal, and how long they wait.
type Key = (Repository, Reference, bool, Principal, Patience);

/// Fetches manifests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ManifestFetcher {
    access: Access,
    upstream: Arc<dyn RegistryClient>,
    store: Store,
    kept: KeptManifests,
    running: Singleflight<Key, Result<Allowed<FetchedManifest>, Error>>,
}

impl ManifestFetcher {
    /// What it fetches is in `kept` at once, and in `store` soon after.
    pub(crate) fn new(
        access: Access,
        upstream: Arc<dyn RegistryClient>,
        store: Store,
        kept: KeptManifests,
        tasks: Tasks,
    ) -> Self {
        Self { access, upstream, store, kept, running: Singleflight::new(tasks) }
    }

    /// Fetches a manifest. Where the caller has no fresh right, upstream's answer is the proof of one. What a tag names is
    /// asked of authoritative endpoints only: a mirror may be behind, and nothing but the digest tells.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn fetch(
        &self,
        context: &PullContext,
        reference: &Reference,
    ) -> Result<FetchedManifest, Error> {
        let (subject, purpose) = match reference {
            Reference::Digest(digest) => (Subject::Manifest(*digest), self.access.purpose(context).await),
            Reference::Tag(tag) => (Subject::Tag(tag.clone()), Purpose::Prove),
        };
        let request = |auth: AuthContext| {
            let (repository, proves) = (context.repository().clone(), auth.proof.is_some());
            let principal = auth.presented.principal;
            let key = (repository.clone(), reference.clone(), proves, principal, auth.patience);
            let (fetcher, reference) = (self.clone(), reference.clone());
            let fetched = self
                .running
                .run(key, move || async move { fetcher.fetch_as(&repository, &reference, &auth).await });
            async move { fetched.await.unwrap_or(Err(Error::panicked("fetched a manifest"))) }
        };
        Ok(self.access.ask(context, &subject, purpose, request).await?.0)
    }

    async fn fetch_as(
        &self,
        repository: &Repository,
        reference: &Reference,
        auth: &AuthContext,
    ) -> Result<Allowed<FetchedManifest>, Error> {
        let Allowed { value: manifest, proof } = self.upstream.manifest(repository, reference, auth).await?;
        let (digest, proved_by) = match reference {
            Reference::Tag(_) => (manifest_digest(&manifest.bytes), BytesProvedBy::Registry),
            Reference::Digest(digest) if is_manifest_of(&manifest.bytes, digest) => {
                (*digest, BytesProvedBy::Digest)
            }
            Reference::Digest(expected) => {
                let actual = Digest::of(&manifest.bytes);
                return Err(Error::Mismatch { host: manifest.host, expected: *expected, actual });
            }
        };
        Ok(Allowed { value: self.accept(repository, digest, manifest, proved_by).await?, proof })
    }

    /// Takes the manifest `digest` that upstream sent: reads it, keeps it in memory and stores it; a large one before it
    /// returns. What no digest proves has to be a document that a tag can name.
    ///
    /// # Errors
    /// [`Error::Document`].
    pub(crate) async fn accept(
        &self,
        repository: &Repository,
        digest: Digest,
        manifest: Manifest,
        proof: BytesProvedBy,
    ) -> Result<FetchedManifest, Error> {
        let Manifest { bytes, media_type: sent_as, host } = manifest;
        let document = match Document::parse(&bytes, sent_as.as_ref()) {
            Err(DocumentError::Malformed(_)) if proof == BytesProvedBy::Digest => Document::opaque(sent_as),
            parsed => parsed.map_err(|source| Error::Document { host, source })?,
        };
        if let Kind::Index(listed) | Kind::Image(listed) = &document.kind {
            self.access.membership().declare_sizes(repository, listed);
        }
        let recorded = self.store.records().member(repository, digest).await;
        let media_type = type_of(document, recorded);
        // The store keeps what its own digest proves: not a schema 1 document, with its signatures. A type that says nothing
        // is not kept either: upstream is asked again, and may have been mended.
        if Digest::of(&bytes) == digest && !media_type.is_useless() {
            self.kept.add_fetched(repository, digest, &media_type, &bytes).await;
        }
        Ok(FetchedManifest { digest, media_type, bytes })
    }
}
