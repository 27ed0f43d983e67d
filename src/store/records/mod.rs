//! Records: small files that say which digests a repository may serve and to whom, which digest a tag has, and which
//! registry is unreachable.
//!
//! They are the truth: no index stands between them and a request. They are read and written on blocking threads, each as
//! a whole, so that a crash leaves a record as it was or as it became. An unreadable record counts as absent, and
//! upstream is asked again.
//!
//! Not here: the bytes, and the decision whether a request may have them (`pull` decides).

pub(super) mod aliases;
pub(super) mod cache;
pub(super) mod changed_tags;
pub(super) mod expire;
pub(super) mod file;
pub(super) mod grants;
pub(super) mod members;
pub(super) mod outages;
pub(super) mod pending_tags;
pub(super) mod tags;
pub(super) mod walk;

use std::sync::Arc;
use std::time::Duration;

use crate::reference::{Digest, Principal, Registry, Repository, Tag};
use crate::store::blocking;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::records::aliases::SynthesizedIndex;
use crate::store::records::cache::RecordsCache;
use crate::store::records::changed_tags::ChangedTags;
use crate::store::records::members::Member;
use crate::store::records::pending_tags::PendingTags;
use crate::store::records::tags::TagRecord;
use crate::store::write_behind::WriteBehind;
use crate::support::clock::{Clock, Timestamp};

/// How old the record of a tag must be to be written again with the same digest: a pull must not cost a sync.
const TAG_RENEWAL: Duration = Duration::from_secs(3_600);

/// The records of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    layout: Layout,
    clock: Clock,
    changed_tags: Arc<ChangedTags>,
    cache: Arc<RecordsCache>,
    pending_tags: Arc<PendingTags>,
    writes: WriteBehind,
}

impl Records {
    /// The records under `layout`, which must have been prepared.
    pub(super) fn new(layout: Layout, clock: Clock) -> Self {
        Self {
            layout,
            clock,
            changed_tags: Arc::new(ChangedTags::new()),
            cache: Arc::default(),
            pending_tags: Arc::default(),
            writes: WriteBehind::default(),
        }
    }

    /// The clock that records are dated by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What `digest` is in `repository`; `None` if the repository may not serve it. Says nothing about the bytes.
    pub async fn member(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        if let Some(member) = self.cache.member(repository, digest) {
            return Some(member);
        }
        let (this, repository) = (self.clone(), repository.clone());
        let find = move || {
            let read_at = this.cache.age();
            let member = members::find(&this.layout, &repository, &digest)?;
            this.cache.add_member(repository, digest, member.clone(), read_at);
            Some(member)
        };
        blocking::find(find).await
    }

    /// Records that `repository` may serve `digest`.
    ///
    /// # Errors
    /// The disk.
    pub async fn add_member(
        &self,
        repository: &Repository,
        digest: Digest,
        member: Member,
    ) -> Result<(), Error> {
        let (this, repository) = (self.clone(), repository.clone());
        let add = move || {
            let added = members::add(&this.layout, &repository, &digest, &member);
            this.cache.forget_member(&repository, &digest);
            added
        };
        blocking::run(add).await
    }

    /// Ends the membership of `digest` in `repository`, durably.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_member(&self, repository: &Repository, digest: Digest) -> Result<(), Error> {
        let (this, repository) = (self.clone(), repository.clone());
        let remove = move || {
            let removed = members::remove(&this.layout, &repository, &digest);
            this.cache.forget_member(&repository, &digest);
            removed
        };
        // After what is being written already: a manifest of a moment ago must not come back.
        self.writes.run(remove).await
    }

    /// As [`Records::add_member`], behind what is being written already, unless it is known: the answer does not wait for the
    /// disk. Readers see it at once.
    pub async fn add_member_later(&self, repository: &Repository, digest: Digest, member: Member) {
        self.cache.add_member(repository.clone(), digest, member.clone(), self.cache.age());
        let (this, repository) = (self.clone(), repository.clone());
        let write = move || {
            if members::find(&this.layout, &repository, &digest).is_some() {
                // It may say something else.
                this.cache.forget_member(&repository, &digest);
                return;
            }
            if let Err(error) = members::add(&this.layout, &repository, &digest, &member) {
                this.cache.forget_member(&repository, &digest);
                let cause = error.cause();
                tracing::error!(%repository, %digest, %error, cause, "a confirmed blob could not be recorded");
            }
        };
        self.writes.later(write).await;
    }

    /// Records that `repository` may serve `digest`, if that is what `member` says, and that an endpoint of its registry
    /// has sent the bytes. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn add_received(
        &self,
        repository: &Repository,
        digest: &Digest,
        member: Option<&Member>,
    ) -> Result<(), Error> {
        // A manifest that was asked for as a blob stays a manifest of its type.
        let is_manifest =
            || matches!(members::find(&self.layout, repository, digest), Some(Member::Manifest(_)));
        if let Some(member) = member.filter(|member| **member != Member::Blob || !is_manifest()) {
            let added = members::add(&self.layout, repository, digest, member);
            self.cache.forget_member(repository, digest);
            added?;
        }
        members::add_received(&self.layout, repository.registry(), digest, self.clock.now())
    }

    /// Whether `registry` itself has sent the bytes of `digest`.
    pub async fn received_from(&self, registry: &Registry, digest: Digest) -> bool {
        if self.cache.is_received(registry, digest) {
            return true;
        }
        let (this, registry) = (self.clone(), registry.clone());
        let find = move || {
            let read_at = this.cache.age();
            members::is_received(&this.layout, &registry, &digest)
                .then(|| this.cache.add_received(registry, digest, read_at))
        };
        blocking::find(find).await.is_some()
    }

    /// Removes expired records and returns how many there were. Blocks.
    pub(super) fn expire(&self) -> usize {
        let removed = expire::remove(&self.layout, self.clock.now());
        if removed > 0 {
            self.cache.forget_all();
        }
        removed
    }

    /// The principals that upstream let read `repository`, and when it last did.
    pub async fn grants(&self, repository: &Repository) -> Vec<(Principal, Timestamp)> {
        let (this, repository) = (self.clone(), repository.clone());
        blocking::find(move || Some(grants::all(&this.layout, &repository))).await.unwrap_or_default()
    }

    /// Records that upstream let `principal` read `repository` at `proved_at`.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_grant(
        &self,
        repository: &Repository,
        principal: Principal,
        proved_at: Timestamp,
    ) -> Result<(), Error> {
        let (this, repository) = (self.clone(), repository.clone());
        blocking::run(move || grants::set(&this.layout, &repository, &principal, proved_at)).await
    }

    /// As [`Records::set_grant`], behind what is being written already: the answer does not wait for the disk. A grant that
    /// is ended later does not return.
    pub async fn set_grant_later(&self, repository: &Repository, principal: Principal, proved_at: Timestamp) {
        let (this, repository) = (self.clone(), repository.clone());
        let write = move || {
            if let Err(error) = grants::set(&this.layout, &repository, &principal, proved_at) {
                let cause = error.cause();
                tracing::error!(%repository, %error, cause, "a grant could not be written to disk; it holds until the next start");
            }
        };
        self.writes.later(write).await;
    }

    /// Ends the grant of `principal` on `repository`, durably.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_grant(&self, repository: &Repository, principal: Principal) -> Result<(), Error> {
        let (this, repository) = (self.clone(), repository.clone());
        self.writes.run(move || grants::remove(&this.layout, &repository, &principal)).await
    }

    /// Ends every grant on `repository`, or on all repositories; returns how many there were.
    ///
    /// # Errors
    /// The disk; some grants may have ended before.
    pub async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, Error> {
        let (this, repository) = (self.clone(), repository.cloned());
        let remove = move || match repository {
            Some(repository) => grants::remove_of(&this.layout, &repository),
            None => grants::remove_all(&this.layout),
        };
        self.writes.run(remove).await
    }

    /// Since when `registry` has been unreachable, if that was recorded.
    pub async fn outage(&self, registry: &Registry) -> Option<Timestamp> {
        let (this, registry) = (self.clone(), registry.clone());
        blocking::find(move || outages::find(&this.layout, &registry)).await
    }

    /// Records since when `registry` has been unreachable, or with `None` that it is reachable.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_outage(&self, registry: &Registry, since: Option<Timestamp>) -> Result<(), Error> {
        let (this, registry) = (self.clone(), registry.clone());
        blocking::run(move || outages::set(&this.layout, &registry, since)).await
    }

    /// The digest that `tag` last had.
    pub async fn tag(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        if let Some(pending) = self.pending_tags.find(repository, tag) {
            return Some(pending);
        }
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        blocking::find(move || tags::find(&this.layout, &repository, &tag)).await
    }

    /// Records that upstream has confirmed `digest` as that of `tag`, just now.
    ///
    /// # Errors
    /// The disk.
    pub async fn confirm_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) -> Result<(), Error> {
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let now = this.clock.now();
        self.writes.run(move || this.write_tag(&repository, &tag, digest, now)).await
    }

    /// As [`Records::confirm_tag`], behind what is being written already: the answer does not wait for the disk. Readers
    /// see the record at once.
    pub async fn confirm_tag_later(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        let record = TagRecord { digest, confirmed_at: self.clock.now() };
        let pending = self.pending_tags.add(repository, tag, record);
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let write = move || {
            if let Err(error) = this.write_tag(&repository, &tag, digest, record.confirmed_at) {
                let cause = error.cause();
                tracing::error!(%repository, %tag, %error, cause, "a tag could not be recorded");
            }
            this.pending_tags.remove(&pending);
        };
        self.writes.later(write).await;
    }

    /// Blocks.
    fn write_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: Digest,
        now: Timestamp,
    ) -> Result<(), Error> {
        let is_recent = tags::find(&self.layout, repository, tag)
            .is_some_and(|r| r.digest == digest && r.confirmed_at.age_at(now) < TAG_RENEWAL);
        if is_recent {
            return Ok(());
        }
        tags::set(&self.layout, repository, tag, TagRecord { digest, confirmed_at: now })?;
        self.changed_tags.record(repository, tag);
        Ok(())
    }

    /// The writes that answers do not wait for.
    pub(super) fn writes(&self) -> &WriteBehind {
        &self.writes
    }

    /// Removes a tag that upstream does not have any more.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let remove = move || {
            tags::remove(&this.layout, &repository, &tag)?;
            this.changed_tags.record(&repository, &tag);
            Ok(())
        };
        self.writes.run(remove).await
    }

    /// The tags that changed since they were last taken.
    pub(super) fn changed_tags(&self) -> &ChangedTags {
        &self.changed_tags
    }

    /// Whether upstream was last known not to have `tag`, and no digest of the tag is known either.
    pub async fn is_absent_upstream(&self, repository: &Repository, tag: &Tag) -> bool {
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let found = move || aliases::is_absent(&this.layout, &repository, &tag).then_some(());
        blocking::find(found).await.is_some()
    }

    /// Records that upstream does not have `tag`.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_absent_upstream(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        blocking::run(move || aliases::set_absent(&this.layout, &repository, &tag, this.clock.now())).await
    }

    /// The index `digest` that was synthesized for `repository`.
    pub async fn synthesized_index(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Option<SynthesizedIndex> {
        let (this, repository) = (self.clone(), repository.clone());
        blocking::find(move || aliases::synthesized(&this.layout, &repository, &digest)).await
    }

    /// Records an index that was synthesized for `repository`.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_synthesized_index(
        &self,
        repository: &Repository,
        index: &SynthesizedIndex,
    ) -> Result<(), Error> {
        let (this, repository, index) = (self.clone(), repository.clone(), index.clone());
        blocking::run(move || aliases::set_synthesized(&this.layout, &repository, &index, this.clock.now()))
            .await
    }
}

#[cfg(test)]
mod tests;
