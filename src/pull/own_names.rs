//! Manifests and blobs under their own names, with what a pull sets off besides: prefetching, and the priority of
//! runtimes over background work.
//!
//! Promises: what a runtime asks for is noted as such before background work goes on; a manifest that was pulled is
//! remembered for prefetching only if a client asked for it.
//!
//! Deliberately not here: names that are made of others (`arch_alias`), and where content is found (`manifest`,
//! `blob`).

use std::sync::Arc;

use super::access::{Access, Purpose, Subject};
use super::answer::{AnswerSource, ManifestAnswer};
use super::blob::{BlobAnswer, BlobRange, BlobSize, Blobs};
use super::context::{Priority, PullContext};
use super::error::Error;
use super::manifest::{ManifestUse, Manifests};
use super::prefetch::Prefetch;
use super::registry_client::RegistryClient;
use crate::reference::{Digest, MANIFEST_BYTES_MAX, MediaType, Reference};
use crate::upstream::{AuthContext, Listing, Page};

/// What repositories hold. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OwnNames {
    manifests: Manifests,
    blobs: Blobs,
    prefetch: Prefetch,
    access: Access,
    upstream: Arc<dyn RegistryClient>,
}

impl OwnNames {
    pub(crate) fn new(
        manifests: Manifests,
        blobs: Blobs,
        prefetch: Prefetch,
        access: Access,
        upstream: Arc<dyn RegistryClient>,
    ) -> Self {
        Self { manifests, blobs, prefetch, access, upstream }
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn manifest(
        &self,
        context: &PullContext,
        reference: &Reference,
        wanted: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        let foreground = context.priority() == Priority::Foreground;
        if foreground && matches!(reference, Reference::Tag(_)) {
            self.blobs.foreground().record();
        }
        let answer = self.manifests.find(context, reference, wanted).await?;
        if foreground && matches!(reference, Reference::Digest(_)) {
            if answer.source == AnswerSource::Fill {
                self.blobs.foreground().record();
            }
            if wanted == ManifestUse::Pull {
                self.prefetch.remember(context, &answer);
            }
        }
        Ok(answer)
    }

    /// A blob, whole whatever range is wanted.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn blob(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        let mut answer = self.blobs.find(context, digest, wanted).await?;
        if answer.media_type.is_none() {
            answer.media_type = self.manifest_type(context, digest, answer.source, answer.size).await;
        }
        // Some runtimes ask for every layer from its first byte on by `Range`.
        if matches!(wanted, BlobRange::Whole | BlobRange::From(0))
            && context.priority() == Priority::Foreground
        {
            self.prefetch.begin(context, digest);
        }
        Ok(answer)
    }

    /// The size of a blob.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn blob_size(&self, context: &PullContext, digest: Digest) -> Result<BlobSize, Error> {
        let mut answer = self.blobs.size(context, digest).await?;
        if answer.media_type.is_none() {
            let size = Some(answer.size);
            answer.media_type = self.manifest_type(context, digest, answer.source, size).await;
        }
        Ok(answer)
    }

    /// The media type of content that may be a manifest: what is fetched as one is recorded as one a moment later. A
    /// blob from the store has had its record looked up, and is no manifest if it is larger than any.
    async fn manifest_type(
        &self,
        context: &PullContext,
        digest: Digest,
        source: AnswerSource,
        size: Option<u64>,
    ) -> Option<MediaType> {
        if size.is_some_and(|size| size > MANIFEST_BYTES_MAX as u64) {
            return None;
        }
        let repository = context.repository();
        if let Some(media_type) = self.manifests.kept_type(repository, digest) {
            return Some(media_type);
        }
        if source == AnswerSource::Hit {
            return None;
        }
        self.access.membership().manifest_type(repository, digest).await
    }

    /// A page of tags or referrers, always upstream's own.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn list(
        &self,
        context: &PullContext,
        listing: &Listing,
        query: Option<String>,
    ) -> Result<Page, Error> {
        let (upstream, repository) = (&self.upstream, context.repository());
        let query = &query;
        let request = |auth: AuthContext| async move {
            Ok(upstream.list(repository, listing, query.clone(), &auth).await?)
        };
        Ok(self.access.ask(context, &Subject::List, Purpose::Prove, request).await?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::Config;
    use crate::pull::for_tests::{self, Parts};
    use crate::support::live::Live;
    use crate::support::tasks::Tasks;

    #[tokio::test]
    async fn a_manifest_that_is_not_written_yet_has_its_own_type_when_it_is_asked_for_as_a_blob() {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, for_tests::MANIFEST);
        let Parts { manifests, blobs, access, registry, store, .. } = &parts;
        let config = Live::<Config>::default();
        let prefetch = Prefetch::new(config, access.clone(), blobs.clone(), Tasks::default());
        let registry = Arc::clone(registry) as Arc<dyn RegistryClient>;
        let own_names = OwnNames::new(manifests.clone(), blobs.clone(), prefetch, access.clone(), registry);
        let context = for_tests::pull(&app);
        let held = store.hold_writes().await;
        own_names.manifest(&context, &digest.into(), ManifestUse::Pull).await.unwrap();
        let size = own_names.blob_size(&context, digest).await.unwrap();
        let part = own_names.blob(&context, digest, BlobRange::Bytes { start: 0, end: 4 }).await.unwrap();
        for media_type in [size.media_type, part.media_type] {
            assert_eq!(media_type.unwrap().as_str(), MediaType::OCI_MANIFEST);
        }
        drop(held);
    }
}
