//! Manifests and blobs under their own names, with what a pull sets off besides: prefetching, and the priority of
//! runtimes over background work.

use std::sync::Arc;

use super::access::{Access, Purpose, Subject};
use super::answer::{AnswerSource, ManifestAnswer};
use super::blob::{BlobAnswer, BlobRange, BlobSize, Blobs};
use super::context::{Priority, PullContext};
use super::error::Error;
use super::manifest::{ManifestUse, Manifests};
use super::prefetch::Prefetch;
use super::registry_client::RegistryClient;
use crate::reference::{Digest, Reference};
use crate::upstream::{AuthContext, Listing, Page};

/// What repositories hold. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Content {
    manifests: Manifests,
    blobs: Blobs,
    prefetch: Prefetch,
    access: Access,
    upstream: Arc<dyn RegistryClient>,
}

impl Content {
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
        if answer.source != AnswerSource::Hit {
            answer.media_type = self.access.membership().manifest_type(context.repository(), digest).await;
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
        if answer.source != AnswerSource::Hit {
            answer.media_type = self.access.membership().manifest_type(context.repository(), digest).await;
        }
        Ok(answer)
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
