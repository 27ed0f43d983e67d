//! Images brought in by the owner of the store, for machines that reach no registry.
//!
//! Every byte is verified as if it had come from a registry. Who may read an image is what the owner says, dated now:
//! once the registry can be asked again, it is asked when that is no longer fresh, as for any other right.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::access::Access;
use super::error::Error;
use super::manifest::Manifests;
use crate::reference::{Digest, Document, MANIFEST_BYTES_MAX, Principal, Repository, Tag};
use crate::store::{self, Member, Owner, Store, WholeContent};
use crate::support::tasks::Tasks;

/// Imports images. Cheap to clone.
#[derive(Clone)]
pub struct Importer {
    store: Store,
    access: Access,
    manifests: Manifests,
    tasks: Tasks,
}

impl Importer {
    pub(crate) fn new(store: Store, access: Access, manifests: Manifests, tasks: Tasks) -> Self {
        Self { store, access, manifests, tasks }
    }

    /// Imports a blob of `size` bytes.
    ///
    /// # Errors
    /// Bytes that are not `digest`'s, or not as many; a stream that breaks off; the disk.
    pub async fn blob<E: std::fmt::Display>(
        &self,
        repository: &Repository,
        digest: Digest,
        size: u64,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), Error> {
        let ended = |cause| Error::task_ended("wrote a blob", &cause);
        let mut bytes = std::pin::pin!(bytes);
        let owner = Owner::unlimited(repository.registry());
        let mut ingest = self.store.begin(digest, Some(size), owner).await?;
        while let Some(next) = bytes.next().await {
            let next = next.map_err(|error| Error::ImportCutOff(error.to_string()))?;
            let written = self.tasks.spawn_blocking(move || {
                ingest.write(&next)?;
                ingest.hash(&next);
                Ok::<_, store::Error>(ingest)
            });
            ingest = written.await.map_err(ended)??;
        }
        let (store, repository) = (self.store.clone(), repository.clone());
        let done = self
            .tasks
            .spawn_blocking(move || store.commit(ingest.verify()?, &repository, Some(&Member::Blob)));
        Ok(done.await.map_err(ended)??)
    }

    /// Imports a manifest.
    ///
    /// # Errors
    /// Bytes that are no manifest, or not `digest`'s; the disk.
    pub async fn manifest(&self, repository: &Repository, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        let host = || "the layout".to_owned();
        let actual = Digest::computed(digest.algorithm(), &bytes);
        if bytes.len() > MANIFEST_BYTES_MAX || actual != digest {
            return Err(Error::Mismatch { host: host(), expected: digest, actual: actual.into() });
        }
        let document =
            Document::parse(&bytes, None).map_err(|source| Error::Document { host: host(), source })?;
        let member = Member::Manifest(document.media_type);
        let repository = repository.clone();
        let owner = Owner::unlimited(repository.registry());
        Ok(self.store.put(WholeContent { repository, digest, bytes, member, owner }).await?)
    }

    /// Sets what a tag names, and who may read the repository.
    ///
    /// # Errors
    /// The disk.
    pub async fn names(
        &self,
        repository: &Repository,
        tag: Option<(&Tag, Digest)>,
        readers: &[Principal],
    ) -> Result<(), Error> {
        if let Some((tag, digest)) = tag {
            self.store.records().confirm_tag(repository, tag, digest).await?;
            self.manifests.forget(repository, Some(tag));
        }
        for principal in readers {
            self.access.record_grant(repository, *principal).await;
        }
        Ok(())
    }
}
