//! Manifests: small, verified as a whole, and the only things that have movable names.

use bytes::Bytes;

use super::error::Error;
use super::freshness::{self, Said, Verdict};
use super::{Puller, Source, authorise};
use crate::clock::Timestamp;
use crate::reference::{Digest, Document, MANIFEST_BYTES_MAX, MediaType, Reference, Repository, Tag};
use crate::store::{self, Member};
use crate::upstream;

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
    pub source: Source,
    /// Set if upstream could not be asked what the tag means now.
    pub stale: Option<Stale>,
}

/// Why an answer may be out of date.
#[derive(Debug, Clone)]
pub struct Stale {
    /// When upstream last said what the tag means.
    pub confirmed_at: Timestamp,
    /// Why it could not be asked now.
    pub error: upstream::Error,
}

/// A manifest fresh from upstream, verified.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    digest: Digest,
    media_type: MediaType,
    bytes: Bytes,
}

impl Fetched {
    fn answer(self, source: Source) -> ManifestAnswer {
        let Self { digest, media_type, bytes } = self;
        ManifestAnswer { digest, media_type, bytes, source, stale: None }
    }
}

impl Puller {
    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<ManifestAnswer, Error> {
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(repository, *digest).await,
            Reference::Tag(tag) => self.manifest_by_tag(repository, tag).await,
        }
    }

    async fn manifest_by_digest(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<ManifestAnswer, Error> {
        if let Some(answer) = self.manifest_in_store(repository, digest).await {
            return Ok(answer);
        }
        self.fetch(repository, &digest.into()).await.map(|fetched| fetched.answer(Source::Fill))
    }

    async fn manifest_by_tag(&self, repository: &Repository, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let said = self.ask_what_tag_means(repository, tag).await;
        match freshness::judge(said, self.0.store.tag(repository, tag).await) {
            Verdict::Current(digest) => self.current(repository, tag, digest).await,
            Verdict::Fetch => self.fetch_by_tag(repository, tag).await,
            Verdict::Stale(record, error) => match self.manifest_in_store(repository, record.digest).await {
                Some(answer) => {
                    tracing::warn!(%repository, %tag, %error, "upstream is away, serving what the tag last meant");
                    let stale = Stale { confirmed_at: record.confirmed_at, error };
                    Ok(ManifestAnswer { source: Source::Stale, stale: Some(stale), ..answer })
                }
                None => Err(error.into()),
            },
            Verdict::Forget(error) => {
                let forgotten = self.0.store.remove_tag(repository, tag).await;
                log_failure(forgotten, repository, "a tag that is gone could not be forgotten");
                Err(error.into())
            }
            Verdict::Fail(error) => Err(error.into()),
        }
    }

    async fn ask_what_tag_means(&self, repository: &Repository, tag: &Tag) -> Said {
        let (upstream, key) = (self.0.upstream.clone(), (repository.clone(), tag.clone()));
        let (repository, tag) = key.clone();
        let said = self.0.resolutions.run(key, || async move { upstream.resolve(&repository, &tag).await });
        said.await.unwrap_or(Ok(None))
    }

    async fn current(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: Digest,
    ) -> Result<ManifestAnswer, Error> {
        let answer = match self.manifest_in_store(repository, digest).await {
            Some(answer) => ManifestAnswer { source: Source::Revalidated, ..answer },
            None => match self.fetch(repository, &digest.into()).await {
                Ok(fetched) => fetched.answer(Source::Fill),
                // Some registries announce a digest under which they do not serve the document.
                Err(Error::Upstream(upstream::Error::NotFound { .. })) => {
                    return self.fetch_by_tag(repository, tag).await;
                }
                Err(error) => return Err(error),
            },
        };
        self.confirm_tag(repository, tag, digest).await;
        Ok(answer)
    }

    async fn fetch_by_tag(&self, repository: &Repository, tag: &Tag) -> Result<ManifestAnswer, Error> {
        let fetched = self.fetch(repository, &tag.clone().into()).await?;
        self.confirm_tag(repository, tag, fetched.digest).await;
        Ok(fetched.answer(Source::Fill))
    }

    async fn confirm_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        let confirmed = self.0.store.confirm_tag(repository, tag, digest).await;
        log_failure(confirmed, repository, "a tag could not be remembered");
    }

    /// A manifest that the repository may hand out and that is on disk, sound.
    async fn manifest_in_store(&self, repository: &Repository, digest: Digest) -> Option<ManifestAnswer> {
        let store = &self.0.store;
        let Member::Manifest(media_type) = authorise::may_hand_out(store, repository, digest).await? else {
            return None;
        };
        let read = match store.blob(digest).await {
            Ok(blob) => blob?.read_all(MANIFEST_BYTES_MAX).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) => Some(ManifestAnswer { digest, media_type, bytes, source: Source::Hit, stale: None }),
            Err(store::Error::Damaged { digest, reason }) => {
                store.quarantine(digest, reason).await;
                None
            }
            Err(error) => {
                tracing::error!(%repository, %digest, %error, "a cached manifest cannot be read, asking upstream");
                None
            }
        }
    }

    /// A manifest from upstream, once for all who ask at the same time.
    async fn fetch(&self, repository: &Repository, reference: &Reference) -> Result<Fetched, Error> {
        let (puller, key) = (self.clone(), (repository.clone(), reference.clone()));
        let (repository, reference) = key.clone();
        let fetched =
            self.0.manifests.run(key, || async move { puller.fetch_now(&repository, &reference).await });
        fetched.await.unwrap_or(Err(Error::Abandoned))
    }

    async fn fetch_now(&self, repository: &Repository, reference: &Reference) -> Result<Fetched, Error> {
        let manifest = self.0.upstream.manifest(repository, reference).await?;
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
        log_failure(stored, repository, "a manifest is served but could not be stored");
        Ok(Fetched { digest: actual, media_type, bytes: manifest.bytes })
    }
}

/// What is remembered is for the next pull: this one does not fail for it.
fn log_failure(done: Result<(), store::Error>, repository: &Repository, what: &str) {
    if let Err(error) = done {
        tracing::error!(%repository, %error, "{what}");
    }
}
