//! What the store writes down beside the bytes: which repository may hand out what, whom upstream let read it, what a
//! tag means, which registry is out.
//!
//! Records are small files, read and written off the async threads. An unreadable one counts as absent: it is asked for
//! again.

use std::sync::Arc;
use std::time::Duration;

use crate::reference::{Digest, Principal, Registry, Repository, Tag};
use crate::store::error::Error;
use crate::store::{Member, Store, TagRecord, blocking, records::grants, records::tags};
use crate::support::clock::Timestamp;

/// A tag that keeps its meaning is written down again only after this long: a pull must not cost a sync.
const TAG_RENEWAL: Duration = Duration::from_secs(3_600);

impl Store {
    /// What `digest` is in `repository`, if that repository may hand it out. Says nothing about the bytes.
    pub async fn member(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        let (inner, repository) = (Arc::clone(&self.0), repository.clone());
        absent_on_panic(move || tags::member(&inner.layout, &repository, &digest)).await
    }

    /// Remembers that `repository` may hand out `digest`.
    ///
    /// # Errors
    /// The disk.
    pub async fn add_member(
        &self,
        repository: &Repository,
        digest: Digest,
        member: Member,
    ) -> Result<(), Error> {
        let (inner, repository) = (Arc::clone(&self.0), repository.clone());
        blocking(move || tags::add_member(&inner.layout, &repository, &digest, &member)).await
    }

    /// Whether `registry` itself once sent the bytes of `digest`.
    pub async fn received_from(&self, registry: &Registry, digest: Digest) -> bool {
        let (inner, registry) = (Arc::clone(&self.0), registry.clone());
        absent_on_panic(move || tags::received(&inner.layout, &registry, &digest).then_some(()))
            .await
            .is_some()
    }

    /// Whom upstream let read `repository`, and when it last said so. An unreadable record counts as absent.
    pub async fn grants(&self, repository: &Repository) -> Vec<(Principal, Timestamp)> {
        let (inner, repository) = (Arc::clone(&self.0), repository.clone());
        absent_on_panic(move || Some(grants::all(&inner.layout, &repository))).await.unwrap_or_default()
    }

    /// Remembers that upstream let `principal` read `repository` at `proved_at`.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_grant(
        &self,
        repository: &Repository,
        principal: Principal,
        proved_at: Timestamp,
    ) -> Result<(), Error> {
        let (inner, repository) = (Arc::clone(&self.0), repository.clone());
        blocking(move || grants::set(&inner.layout, &repository, &principal, proved_at)).await
    }

    /// Ends a right.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_grant(&self, repository: &Repository, principal: Principal) -> Result<(), Error> {
        let (inner, repository) = (Arc::clone(&self.0), repository.clone());
        blocking(move || grants::remove(&inner.layout, &repository, &principal)).await
    }

    /// Ends every right to `repository`, or to all of them; returns how many there were.
    ///
    /// # Errors
    /// The disk. Some may have ended before.
    pub async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, Error> {
        let (inner, repository) = (Arc::clone(&self.0), repository.cloned());
        blocking(move || match repository {
            Some(repository) => grants::remove_of(&inner.layout, &repository),
            None => grants::remove_all(&inner.layout),
        })
        .await
    }

    /// Since when `registry` could not be asked, as far as that was written down.
    pub async fn outage(&self, registry: &Registry) -> Option<Timestamp> {
        let (inner, registry) = (Arc::clone(&self.0), registry.clone());
        absent_on_panic(move || tags::outage(&inner.layout, &registry)).await
    }

    /// Writes down since when a registry cannot be asked, or that it can.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_outage(&self, registry: &Registry, since: Option<Timestamp>) -> Result<(), Error> {
        let (inner, registry) = (Arc::clone(&self.0), registry.clone());
        blocking(move || tags::set_outage(&inner.layout, &registry, since)).await
    }

    /// What `tag` last meant.
    pub async fn tag(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        let (inner, repository, tag) = (Arc::clone(&self.0), repository.clone(), tag.clone());
        absent_on_panic(move || tags::tag(&inner.layout, &repository, &tag)).await
    }

    /// Remembers what upstream said that `tag` means now.
    ///
    /// # Errors
    /// The disk.
    pub async fn confirm_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) -> Result<(), Error> {
        let (inner, repository, tag) = (Arc::clone(&self.0), repository.clone(), tag.clone());
        blocking(move || {
            let now = inner.clock.now();
            let fresh = tags::tag(&inner.layout, &repository, &tag)
                .is_some_and(|r| r.digest == digest && r.confirmed_at.age_at(now) < TAG_RENEWAL);
            if fresh {
                return Ok(());
            }
            tags::set_tag(&inner.layout, &repository, &tag, TagRecord { digest, confirmed_at: now })?;
            inner.tags_changed.notify_one();
            Ok(())
        })
        .await
    }

    /// Forgets a tag that upstream does not have any more.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        let (inner, repository, tag) = (Arc::clone(&self.0), repository.clone(), tag.clone());
        blocking(move || {
            tags::remove_tag(&inner.layout, &repository, &tag)?;
            inner.tags_changed.notify_one();
            Ok(())
        })
        .await
    }
}

async fn absent_on_panic<T: Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok().flatten()
}
