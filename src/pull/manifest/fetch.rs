//! Manifests: small, verified as a whole. What their movable names mean is `resolve`'s to say.

use bytes::Bytes;

use crate::pull::access::authorize::{Caller, Purpose};
use crate::pull::access::grants::Subject;
use crate::pull::access::rights::Use;
use crate::pull::error::Error;
use crate::pull::{AnswerSource, ManifestUse, Puller};
use crate::reference::{Digest, Document, MANIFEST_BYTES_MAX, MediaType, Reference, Repository};
use crate::store::{self, Member};
use crate::support::clock::Timestamp;
use crate::upstream::{Allowed, AuthContext};

/// A manifest to serve.
#[derive(Debug, Clone)]
pub struct ManifestAnswer {
    /// What it is.
    pub digest: Digest,
    /// What it must be served as.
    pub media_type: MediaType,
    /// The document, byte for byte.
    pub bytes: Bytes,
    /// How it was come by.
    pub source: AnswerSource,
    /// Set if upstream could not be asked what the tag means now, or whether the caller may still have it.
    pub stale: Option<Stale>,
}

/// Why an answer may be out of date.
#[derive(Debug, Clone)]
pub struct Stale {
    /// When upstream last said what the tag means, or that the caller may have it.
    pub confirmed_at: Timestamp,
    /// Why it could not be asked now.
    pub error: Error,
}

impl ManifestAnswer {
    pub(crate) fn stale(self, confirmed_at: Timestamp, error: Error) -> Self {
        Self { source: AnswerSource::Stale, stale: Some(Stale { confirmed_at, error }), ..self }
    }
}

/// A manifest fresh from upstream, verified.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    media_type: MediaType,
    bytes: Bytes,
}

impl Fetched {
    pub(crate) fn answer(self, source: AnswerSource) -> ManifestAnswer {
        let Self { digest, media_type, bytes } = self;
        ManifestAnswer { digest, media_type, bytes, source, stale: None }
    }
}

impl Puller {
    /// A manifest under its own name.
    pub(crate) async fn manifest_of(
        &self,
        repository: &Repository,
        reference: &Reference,
        caller: &Caller,
        step: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        let wanted = if step == ManifestUse::Resolve { Use::Resolve } else { Use::Read };
        match reference {
            Reference::Digest(digest) => {
                let answer = self.manifest_by_digest(repository, *digest, caller, wanted).await?;
                if step != ManifestUse::Single && answer.source == AnswerSource::Fill {
                    self.0.pods.asked();
                }
                if step == ManifestUse::Pull {
                    self.fetch_ahead(repository, &answer, caller);
                }
                Ok(answer)
            }
            Reference::Tag(tag) => Box::pin(self.manifest_by_tag(repository, tag, caller)).await,
        }
    }

    async fn manifest_by_digest(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        wanted: Use,
    ) -> Result<ManifestAnswer, Error> {
        let may_read = self.may_read_cached(repository, caller, wanted).await;
        let Some(answer) = self.manifest_in_store(repository, digest).await else {
            let reference = digest.into();
            let fetched = Box::pin(self.fetch(repository, &reference, caller)).await?;
            return Ok(fetched.answer(AnswerSource::Fill));
        };
        if may_read {
            return Ok(answer);
        }
        let upstream = &self.0.upstream;
        let question = |auth: AuthContext| async move {
            Ok(upstream.confirm_manifest(repository, digest, &auth).await?)
        };
        let subject = Subject::Manifest(digest);
        let asked = Box::pin(self.ask(repository, caller, &subject, Purpose::Prove, question)).await;
        let Err(error) = asked else {
            return Ok(ManifestAnswer { source: AnswerSource::Revalidated, ..answer });
        };
        match self.held_since(repository, caller, &error).await {
            Some(since) => Ok(answer.stale(since, error)),
            None => Err(error),
        }
    }

    /// A manifest that the repository may hand out and that is on disk, sound.
    pub(crate) async fn manifest_in_store(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Option<ManifestAnswer> {
        let store = &self.0.store;
        if let Some((media_type, bytes)) = self.0.recent.find(repository, digest) {
            store.record_access(digest);
            return Some(ManifestAnswer {
                digest,
                media_type,
                bytes,
                source: AnswerSource::Hit,
                stale: None,
            });
        }
        let Member::Manifest(media_type) = self.membership(repository, digest).await? else {
            return None;
        };
        let blob = match store.blob(digest).await {
            Ok(blob) => blob?,
            Err(error) => {
                tracing::error!(%repository, %digest, %error, "a cached manifest cannot be opened, asking upstream");
                return None;
            }
        };
        match Box::pin(blob.read_all(MANIFEST_BYTES_MAX)).await {
            Ok(bytes) => {
                self.0.recent.keep(repository, digest, &media_type, &bytes);
                Some(ManifestAnswer { digest, media_type, bytes, source: AnswerSource::Hit, stale: None })
            }
            Err(store::Error::Damaged { reason, .. }) => {
                store.quarantine(&blob, reason).await;
                None
            }
            Err(error) => {
                tracing::error!(%repository, %digest, %error, "a cached manifest cannot be read, asking upstream");
                None
            }
        }
    }

    /// A manifest from upstream, once for all who ask at the same time as the same principal. Without a right that is
    /// fresh, upstream's yes is the proof of one.
    pub(crate) async fn fetch(
        &self,
        repository: &Repository,
        reference: &Reference,
        caller: &Caller,
    ) -> Result<Fetched, Error> {
        let purpose =
            self.right(repository, caller, Use::Read).await.map_or(Purpose::Prove, Purpose::Deliver);
        let subject = match reference {
            Reference::Digest(digest) => Subject::Manifest(*digest),
            Reference::Tag(tag) => Subject::Tag(tag.clone()),
        };
        let question = |auth: AuthContext| {
            let (puller, repository, reference) = (self.clone(), repository.clone(), reference.clone());
            let kind = (reference.clone(), auth.proof.is_some());
            let key = (repository.clone(), kind, auth.presented.principal);
            let asked = self
                .0
                .manifests
                .run(key, move || async move { puller.fetch_now(&repository, &reference, &auth).await });
            async move { asked.await.unwrap_or(Err(Error::Abandoned)) }
        };
        Ok(self.ask(repository, caller, &subject, purpose, question).await?.0)
    }

    async fn fetch_now(
        &self,
        repository: &Repository,
        reference: &Reference,
        auth: &AuthContext,
    ) -> Result<Allowed<Fetched>, Error> {
        let Allowed { value: manifest, public } =
            self.0.upstream.manifest(repository, reference, auth).await?;
        let host = manifest.host;
        let actual = Digest::of(&manifest.bytes);
        match reference {
            Reference::Digest(expected) if *expected != actual => {
                return Err(Error::Mismatch { host, expected: *expected, actual });
            }
            _ => {}
        }
        let document = Document::parse(&manifest.bytes, manifest.media_type.as_ref())
            .map_err(|source| Error::Document { host, source })?;
        // The type that a digest was first received with stays: the same bytes are never two things.
        let media_type = match self.0.store.member(repository, actual).await {
            Some(Member::Manifest(first)) => first,
            _ => document.media_type,
        };
        let member = Member::Manifest(media_type.clone());
        let stored = self.0.store.put(repository, actual, manifest.bytes.clone(), member).await;
        match stored {
            Err(error) if !self.0.store.should_log(&error) => {}
            stored => log_failure(stored, repository, "a manifest is served but could not be stored"),
        }
        let value = Fetched { digest: actual, media_type, bytes: manifest.bytes };
        Ok(Allowed { value, public })
    }
}

/// What is remembered is for the next pull: this one does not fail for it.
pub(crate) fn log_failure(done: Result<(), store::Error>, repository: &Repository, what: &str) {
    if let Err(error) = done {
        tracing::error!(%repository, %error, "{what}");
    }
}
