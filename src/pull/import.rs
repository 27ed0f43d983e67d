//! Images brought in by the owner of the store, for machines that reach no registry.
//!
//! Every byte is verified as if it had come from a registry. Whose right it is to read them is the owner's word, dated
//! now: once the registry can be asked again, it is asked when that has become old, as for any other right.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::task::spawn_blocking;

use super::Puller;
use super::error::Error;
use crate::reference::{Digest, Document, MANIFEST_BYTES_MAX, Principal, Repository, Tag};
use crate::store::{self, Member};

impl Puller {
    /// Takes a blob of `size` bytes in.
    ///
    /// # Errors
    /// Bytes that are not `digest`'s, or not as many; the disk.
    pub async fn import_blob<E>(
        &self,
        repository: &Repository,
        digest: Digest,
        size: u64,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), Error> {
        let mut bytes = std::pin::pin!(bytes);
        let mut ingest = self.0.store.begin(digest, Some(size)).await?;
        while let Some(next) = bytes.next().await {
            let next = next.map_err(|_| Error::Abandoned)?;
            let written = spawn_blocking(move || {
                ingest.write(&next)?;
                ingest.hash(&next);
                Ok::<_, store::Error>(ingest)
            });
            ingest = written.await.map_err(|_| Error::Abandoned)??;
        }
        let (store, repository) = (self.0.store.clone(), repository.clone());
        let done = spawn_blocking(move || store.commit(ingest.verify()?, &repository, &Member::Blob));
        Ok(done.await.map_err(|_| Error::Abandoned)??)
    }

    /// Takes a manifest in.
    ///
    /// # Errors
    /// It is none, or not `digest`'s; the disk.
    pub async fn import_manifest(
        &self,
        repository: &Repository,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let host = || "the layout".to_owned();
        let actual = Digest::of(&bytes);
        if bytes.len() > MANIFEST_BYTES_MAX || actual != digest {
            return Err(Error::Mismatch { host: host(), expected: digest, actual });
        }
        let document =
            Document::parse(&bytes, None).map_err(|source| Error::Document { host: host(), source })?;
        let member = Member::Manifest(document.media_type);
        Ok(self.0.store.put(repository, digest, bytes, member).await?)
    }

    /// Says what a tag means, and who may read the repository.
    ///
    /// # Errors
    /// The disk.
    pub async fn import_names(
        &self,
        repository: &Repository,
        tag: Option<(&Tag, Digest)>,
        readers: &[Principal],
    ) -> Result<(), Error> {
        if let Some((tag, digest)) = tag {
            self.0.store.confirm_tag(repository, tag, digest).await?;
            self.0.confirmed.forget(repository, tag);
        }
        for principal in readers {
            self.0.grants.proved(repository, *principal).await;
        }
        Ok(())
    }
}
