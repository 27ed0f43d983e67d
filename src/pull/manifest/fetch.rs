//! Manifests from upstream: fetched once for all who ask at the same time as the same principal, verified, stored.
//!
//! Promises: what is returned has the digest that was asked for, and is a document that Larder serves; a store that
//! fails costs the pull nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::kept::KeptManifests;
use crate::pull::access::{Access, Purpose, Subject};
use crate::pull::answer::{AnswerSource, ManifestAnswer};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Digest, Document, Kind, MediaType, Principal, Reference, Repository};
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
        let Allowed { value: manifest, public } = self.upstream.manifest(repository, reference, auth).await?;
        let actual = Digest::of(&manifest.bytes);
        if let Reference::Digest(expected) = reference
            && *expected != actual
        {
            return Err(Error::Mismatch { host: manifest.host, expected: *expected, actual });
        }
        Ok(Allowed { value: self.accept(repository, manifest).await?, public })
    }

    /// Takes a manifest that upstream sent: reads it, keeps it in memory and stores it; a large one before it returns.
    ///
    /// # Errors
    /// [`Error::Document`].
    pub(crate) async fn accept(
        &self,
        repository: &Repository,
        manifest: Manifest,
    ) -> Result<FetchedManifest, Error> {
        let (host, actual) = (manifest.host, Digest::of(&manifest.bytes));
        let document = Document::parse(&manifest.bytes, manifest.media_type.as_ref())
            .map_err(|source| Error::Document { host, source })?;
        if let Kind::Index(listed) | Kind::Image(listed) = &document.kind {
            self.access.membership().declare_sizes(repository, listed);
        }
        // The type that a digest was first received with stays: the same bytes are never two things.
        let media_type = match self.store.records().member(repository, actual).await {
            Some(Member::Manifest(first)) => first,
            _ => document.media_type,
        };
        self.kept.add_fetched(repository, actual, &media_type, &manifest.bytes).await;
        Ok(FetchedManifest { digest: actual, media_type, bytes: manifest.bytes })
    }
}
