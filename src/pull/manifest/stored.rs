//! Manifests in the store and in memory: what a repository may hand out, verified.
//!
//! A damaged manifest is quarantined, an unreadable one is logged; both count as absent, so that upstream is asked.

use std::sync::Arc;
use std::time::Duration;

use super::kept::KeptManifests;
use crate::pull::access::membership::Membership;
use crate::pull::answer::{AnswerSource, ManifestAnswer};
use crate::reference::{Digest, Document, MANIFEST_BYTES_MAX, MediaType, Repository};
use crate::store::{self, Member, Store};
use crate::support::byte_budget::ByteBudget;

/// The longest wait for the memory of a large one: less than a client waits.
const MEMORY_WAIT: Duration = Duration::from_secs(10);

/// The stored manifests.
#[derive(Clone)]
pub(crate) struct StoredManifests {
    store: Store,
    membership: Membership,
    kept: KeptManifests,
    /// For large manifests that are being served from the store or the shared tier, by the domains of those who own
    /// registries: one has as many names as it likes.
    memory: Arc<ByteBudget<String>>,
}

impl StoredManifests {
    pub(crate) fn new(store: Store, membership: Membership, kept: KeptManifests) -> Self {
        let memory = Arc::new(ByteBudget::of_two_shares(MANIFEST_BYTES_MAX));
        Self { store, membership, kept, memory }
    }

    /// The memory that large manifests are read into, from the store and from the shared tier.
    pub(crate) fn memory(&self) -> Arc<ByteBudget<String>> {
        Arc::clone(&self.memory)
    }

    /// A manifest that is here, sound, and a member of `repository`.
    pub(crate) async fn find(&self, repository: &Repository, digest: Digest) -> Option<ManifestAnswer> {
        let hit = |media_type, bytes| ManifestAnswer {
            digest,
            media_type,
            bytes,
            source: AnswerSource::Hit,
            stale: None,
        };
        if let Some((media_type, bytes)) = self.kept.find(repository, digest) {
            return Some(hit(media_type, bytes));
        }
        let (blob, Some(Member::Manifest(media_type))) = self.store.received_blob(repository, digest).await?
        else {
            return None;
        };
        let size = usize::try_from(blob.size()).unwrap_or(usize::MAX);
        let owner = || repository.registry().owner_domain();
        // Without memory it counts as absent.
        let reserved = self.memory.reserve_if_large(owner, size, MEMORY_WAIT).await.ok()?;
        match Box::pin(blob.read_all(MANIFEST_BYTES_MAX)).await {
            Ok(bytes) => {
                let bytes = reserved.hold(bytes);
                let media_type = self.mended(repository, digest, media_type, &bytes).await?;
                self.kept.add_stored(repository, digest, &media_type, &bytes);
                Some(hit(media_type, bytes))
            }
            Err(store::Error::Damaged { reason, .. }) => {
                self.store.quarantine(&blob, reason).await;
                None
            }
            Err(error) => {
                tracing::error!(%repository, %digest, %error, "a cached manifest cannot be read; upstream is asked");
                None
            }
        }
    }

    /// The type of a stored manifest. A recorded type that says nothing, as object stores send it, is replaced by the
    /// document's own; `None` where the document names none: upstream may have been mended.
    async fn mended(
        &self,
        repository: &Repository,
        digest: Digest,
        recorded: MediaType,
        bytes: &[u8],
    ) -> Option<MediaType> {
        if !recorded.is_useless() {
            return Some(recorded);
        }
        let media_type = Document::parse(bytes, None).ok()?.media_type;
        let member = Member::Manifest(media_type.clone());
        if let Err(error) = self.store.records().add_member(repository, digest, member).await {
            tracing::error!(%repository, %digest, %error, "the media type of a manifest could not be recorded");
        }
        Some(media_type)
    }

    /// The media type of a manifest that is in memory.
    pub(crate) fn kept_type(&self, repository: &Repository, digest: Digest) -> Option<MediaType> {
        self.kept.type_of(repository, digest)
    }

    /// Whether the repository may still hand out a manifest; if not, it is forgotten.
    pub(crate) async fn is_still_member(&self, repository: &Repository, digest: Digest) -> bool {
        let is_member = self.membership.is_confirmed(repository, digest).await;
        if !is_member {
            self.kept.forget_one(repository, digest);
        }
        is_member
    }

    /// Forgets what is in memory: an image was removed.
    pub(crate) fn forget(&self) {
        self.kept.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests;
    use crate::support::live::Live;

    #[tokio::test]
    async fn a_manifest_is_found_in_its_own_repository_only() {
        let (store, _clock, _directory) = for_tests::store();
        let digest = for_tests::remember_manifest(&store, "reg.test/app").await;
        let stored = StoredManifests::new(
            store.clone(),
            Membership::new(store.records().clone()),
            KeptManifests::new(Live::default(), store.clone()),
        );
        let [app, other]: [Repository; 2] =
            ["reg.test/app", "reg.test/other"].map(|name| name.parse().unwrap());
        for _ in ["from disk", "from memory"] {
            assert_eq!(stored.find(&app, digest).await.unwrap().source, AnswerSource::Hit);
            assert!(stored.find(&other, digest).await.is_none());
        }
    }
}
