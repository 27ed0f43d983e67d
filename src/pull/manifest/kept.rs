//! Manifests in memory that are on disk, or will be soon: no answer waits for the disk.
//!
//! A fetched manifest is in memory at once and written behind its answer. One that could not be written, because there
//! was no space, the disk failed or too much waited for it, is written again when it is used again, as long as it is in
//! memory; not while the disk is given a pause. One that may have left the store, by eviction or because it was
//! damaged, is looked for when it is used, and written again if it is gone.

use std::sync::Arc;

use bytes::Bytes;

use super::memory_cache::{Found, MemoryCache};
use crate::pull::config::Config;
use crate::reference::{Digest, MediaType, Repository};
use crate::store::{Member, Owner, Store, WholeContent, WriteWhen};
use crate::support::clock::{Clock, Timestamp};
use crate::support::live::Live;

/// The manifests in memory, and the store that they belong in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KeptManifests {
    config: Live<Config>,
    store: Store,
    memory: Arc<MemoryCache>,
}

/// The write of a manifest. Dropped without an end, by a request that gives up or a write that panics, it has failed.
struct UnderWay {
    memory: Arc<MemoryCache>,
    clock: Clock,
    repository: Repository,
    digest: Digest,
    is_stored: bool,
}

impl UnderWay {
    fn end(mut self, is_stored: bool) {
        self.is_stored = is_stored;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self { memory, clock, repository, digest, is_stored } = self;
        memory.end_write(repository, *digest, *is_stored, clock.now());
    }
}

impl KeptManifests {
    pub(crate) fn new(config: Live<Config>, store: Store) -> Self {
        Self { config, store, memory: Arc::default() }
    }

    /// A manifest of a repository that is in memory.
    pub(crate) fn find(&self, repository: &Repository, digest: Digest) -> Option<(MediaType, Bytes)> {
        let Found { media_type, bytes, on_disk_at } = self.memory.find(repository, digest)?;
        self.store.record_access(digest);
        let removals = self.store.removals();
        // Nearly always nothing has left the store since.
        if on_disk_at != Some(removals)
            && !self.store.is_paused()
            && let Some(when) = self.begin_write(repository, digest, removals)
        {
            let done = self.end_of_write(repository, digest);
            let content = self.content(repository, digest, &media_type, &bytes);
            self.store.put_without_waiting(content, when, done);
        }
        Some((media_type, bytes))
    }

    /// The media type of a manifest that is in memory.
    pub(crate) fn type_of(&self, repository: &Repository, digest: Digest) -> Option<MediaType> {
        self.memory.find(repository, digest).map(|found| found.media_type)
    }

    /// Keeps a manifest that is on disk.
    pub(crate) fn add_stored(
        &self,
        repository: &Repository,
        digest: Digest,
        media_type: &MediaType,
        bytes: &Bytes,
    ) {
        // Before it is marked: a removal from now on is noticed when it is used next.
        let removals = self.store.removals();
        if self.memory.insert(repository, digest, media_type, bytes) {
            self.begin_write(repository, digest, removals);
            self.memory.end_write(repository, digest, true, self.now());
        }
    }

    /// Keeps a manifest that was fetched, and writes it: later if it fits into memory, else before this returns.
    pub(crate) async fn add_fetched(
        &self,
        repository: &Repository,
        digest: Digest,
        media_type: &MediaType,
        bytes: &Bytes,
    ) {
        let content = self.content(repository, digest, media_type, bytes);
        if self.memory.insert(repository, digest, media_type, bytes) {
            self.begin_write(repository, digest, self.store.removals());
            let done = self.end_of_write(repository, digest);
            self.store.put_later(content, done).await;
            return;
        }
        if let Err(error) = self.store.put_for_answer(content).await {
            self.memory.insert_large(repository, digest, media_type, bytes);
            if self.store.should_log(&error) {
                let cause = error.cause();
                tracing::error!(%repository, %error, cause, "a manifest is served but could not be stored");
            }
        }
    }

    /// A manifest as the store takes it.
    fn content(
        &self,
        repository: &Repository,
        digest: Digest,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> WholeContent {
        let registry = repository.registry();
        let is_named = self.config.current().is_named(registry);
        let owner = if is_named { Owner::named(registry) } else { Owner::limited_small(registry) };
        let (repository, bytes, member) =
            (repository.clone(), bytes.clone(), Member::Manifest(media_type.clone()));
        WholeContent { repository, digest, bytes, member, owner }
    }

    fn now(&self) -> Timestamp {
        self.store.clock().now()
    }

    /// Forgets one: its registry has deleted it.
    pub(crate) fn forget_one(&self, repository: &Repository, digest: Digest) {
        self.memory.remove(repository, digest);
    }

    /// Forgets all of them: an image was removed.
    pub(crate) fn forget(&self) {
        self.memory.clear();
    }

    fn begin_write(&self, repository: &Repository, digest: Digest, removals: u64) -> Option<WriteWhen> {
        let may_have_left = |before| self.store.may_have_left(&digest, before);
        self.memory.begin_write(repository, digest, removals, may_have_left, self.now())
    }

    /// The end of a write that begins now, which is to be told whether the manifest is stored.
    fn end_of_write(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> impl FnOnce(bool) + Send + 'static + use<> {
        let (memory, clock) = (Arc::clone(&self.memory), self.store.clock().clone());
        let under_way = UnderWay { memory, clock, repository: repository.clone(), digest, is_stored: false };
        move |is_stored| under_way.end(is_stored)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::pull::for_tests::{self, MANIFEST};
    use crate::reference::Reference;

    #[tokio::test]
    async fn blobs_that_leave_the_store_cost_a_manifest_in_memory_no_look_at_the_disk_unless_it_is_one_of_them()
     {
        let (store, clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let other = for_tests::remember_blob(&store, "reg.test/app", b"other").await;
        let digest = for_tests::remember_manifest(&store, "reg.test/app").await;
        let (kept, media_type) =
            (KeptManifests::new(Live::default(), store.clone()), MediaType::OCI_MANIFEST.parse().unwrap());
        kept.add_stored(&app, digest, &media_type, &Bytes::from_static(MANIFEST));
        for (removed, is_looked_for) in [(other, false), (digest, true)] {
            let before = store.removals();
            store.remove_image(&app, &Reference::Digest(removed)).await.unwrap();
            assert!(store.removals() > before);
            // Without a place what was to be written has failed.
            let full = store.fill_writes();
            assert!(kept.find(&app, digest).is_some());
            drop(full);
            clock.advance(Duration::from_secs(60));
            let write = kept.begin_write(&app, digest, store.removals());
            assert_eq!(write, is_looked_for.then_some(WriteWhen::Always));
        }
    }

    #[tokio::test]
    async fn manifests_of_a_registry_without_a_name_do_not_push_out_what_others_stored() {
        let parts = for_tests::Parts::with_room_for(1_000);
        let ours = for_tests::remember_blob(&parts.store, "reg.test/app", &[7; 400]).await;
        let kept = KeptManifests::new(Live::default(), parts.store.clone());
        let evil: Repository = "evil.test/app".parse().unwrap();
        let media_type = "application/vnd.x".parse().unwrap();
        for n in 0..40_u8 {
            let bytes = Bytes::from(vec![n; 100]);
            kept.add_fetched(&evil, Digest::of(&bytes), &media_type, &bytes).await;
            parts.store.flush().await;
        }
        assert!(parts.store.blob(Digest::of(&[39; 100])).await.is_some(), "the last one is stored");
        assert!(parts.store.blob(ours).await.is_some(), "others' content made way for all of them");
    }

    #[tokio::test]
    async fn while_too_much_waits_to_be_written_a_manifest_is_answered_from_memory_and_written_later() {
        let (store, clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let (kept, bytes) =
            (KeptManifests::new(Live::default(), store.clone()), Bytes::from_static(MANIFEST));
        let (digest, media_type) = (Digest::of(MANIFEST), MediaType::OCI_MANIFEST.parse().unwrap());
        let full = store.fill_writes();
        assert!(kept.add_fetched(&app, digest, &media_type, &bytes).now_or_never().is_none());
        clock.advance(Duration::from_secs(60));
        assert!(kept.find(&app, digest).is_some());
        drop(full);
        clock.advance(Duration::from_secs(60));
        assert!(kept.find(&app, digest).is_some());
        store.flush().await;
        assert!(store.blob(digest).await.is_some());
    }
}
