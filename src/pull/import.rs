//! Images brought in by the owner of the store, for machines that reach no registry.
//!
//! Every byte is verified as if it had come from a registry. Who may read an image is what the owner says, dated now:
//! once the registry can be asked again, it is asked when that is no longer fresh, as for any other right.
//!
//! Nothing waits for ever for a disk that hangs: for a piece, and for what makes content durable, [`DISK_WAIT`].

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::access::Access;
use super::error::Error;
use super::manifest::Manifests;
use crate::reference::{Digest, Document, MANIFEST_BYTES_MAX, Principal, Repository, Tag};
use crate::store::{self, Member, Owner, Store, WholeContent};
use crate::support::tasks::Tasks;

/// How long the disk may take for a piece, and for content to become durable, which a slow one takes minutes for. An
/// import has no way past the disk as a pull has, and no client waits for it.
const DISK_WAIT: Duration = Duration::from_secs(600);

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
            ingest = within(DISK_WAIT, written).await?.map_err(ended)??;
        }
        let (store, repository) = (self.store.clone(), repository.clone());
        let done = self
            .tasks
            .spawn_blocking(move || store.commit(ingest.verify()?, &repository, Some(&Member::Blob)));
        Ok(within(DISK_WAIT, done).await?.map_err(ended)??)
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
        if self.store.is_disk_hanging() {
            return Err(store::Error::Hangs.into());
        }
        let owner = Owner::unlimited(repository.registry());
        let content = WholeContent { repository, digest, bytes, member, owner };
        Ok(within(DISK_WAIT, self.store.put(content)).await??)
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

/// What comes of `work`, unless the disk does not end it in time; it goes on then.
async fn within<T>(wait: Duration, work: impl Future<Output = T>) -> Result<T, store::Error> {
    tokio::time::timeout(wait, work).await.map_err(|_| store::Error::Hangs)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::time::Instant;

    use super::*;
    use crate::pull::for_tests::{self, Parts};
    use crate::store::HANGS_AFTER;
    use crate::support::time_for_tests::{as_time_passes_by, threads_rest};

    fn importer(parts: &Parts) -> Importer {
        let Parts { store, access, manifests, .. } = parts;
        Importer::new(store.clone(), access.clone(), manifests.clone(), Tasks::default())
    }

    /// What comes of `work`, and how long it took.
    async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
        let start = Instant::now();
        let done = as_time_passes_by(HANGS_AFTER / 10, 2 * DISK_WAIT, work).await;
        (done, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_import_does_not_wait_for_ever_for_a_disk_that_hangs() {
        let repository: Repository = "reg.test/app".parse().unwrap();
        let hangs = |done: &Result<(), Error>| matches!(done, Err(Error::Store(store::Error::Hangs)));
        let parts = Parts::new();
        let mut held = None;
        let bytes = stream::iter([b"one", b"two"]).map(|piece| {
            // From the second piece on.
            held = (piece == b"two").then(|| parts.store.hang());
            Ok::<_, String>(Bytes::from_static(piece))
        });
        let importer = importer(&parts);
        let import = importer.blob(&repository, Digest::of(b"onetwo"), 6, bytes);
        let (done, took) = timed(import).await;
        assert!(hangs(&done), "{done:?} after {took:?}");
        assert!(took >= DISK_WAIT, "a slow disk is waited for: {took:?}");
        let manifest = || {
            let bytes = Bytes::from_static(for_tests::MANIFEST);
            importer.manifest(&repository, Digest::of(&bytes), bytes)
        };
        timed(tokio::time::sleep(HANGS_AFTER)).await;
        let (done, took) = timed(manifest()).await;
        assert!(hangs(&done) && took < HANGS_AFTER, "it is known that it hangs: {done:?} after {took:?}");
        drop(held);
        // The calls that hung end.
        threads_rest().await;
        let (done, _) = timed(manifest()).await;
        assert!(done.is_ok(), "{done:?}");
        let parts = Parts::new();
        let (_held, importer) = (parts.store.hang(), self::importer(&parts));
        let bytes = Bytes::from_static(for_tests::MANIFEST);
        let (done, _) = timed(importer.manifest(&repository, Digest::of(for_tests::MANIFEST), bytes)).await;
        assert!(hangs(&done), "a slow disk is waited for, and not for ever: {done:?}");
    }
}
