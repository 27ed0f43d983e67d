//! Records: small files that say which digests a repository may serve and to whom, which digest a tag has, which
//! registry is unreachable, and what is pinned (`pins`).
//!
//! They are the truth: no index stands between them and a request. They are read and written on blocking threads, each
//! as a whole, so that a crash leaves a record as it was or as it became. An unreadable record counts as absent, and
//! upstream is asked again.
//!
//! Not here: the bytes, and the decision whether a request may have them (`pull` decides).

pub(super) mod aliases;
pub(super) mod cache;
pub(super) mod changed_tags;
mod closed;
mod content_records;
mod deferred_grants;
pub(super) mod expire;
pub(super) mod file;
pub(super) mod grants;
mod inodes;
mod kept_grants;
mod later;
pub(super) mod members;
pub(super) mod outages;
pub(super) mod pending_tags;
pub(super) mod pins;
pub(super) mod tags;
pub(super) mod walk;

use std::sync::Arc;
use std::time::Duration;

use crate::reference::{Digest, Registry, Repository, Tag};
use crate::store::disk::blocking;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::layout::write_behind::WriteBehind;
use crate::store::records::aliases::SynthesizedIndex;
use crate::store::records::cache::RecordsCache;
use crate::store::records::changed_tags::ChangedTags;
use crate::store::records::deferred_grants::DeferredGrants;
use crate::store::records::inodes::InodeShortage;
use crate::store::records::members::Member;
use crate::store::records::pending_tags::PendingTags;
use crate::store::records::tags::TagRecord;
use crate::support::clock::{Clock, Timestamp};

/// Tags of a repository that are looked at for the one that was confirmed last.
const LATEST_OF_MAX: usize = 64;

/// The records of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    layout: Layout,
    clock: Clock,
    changed_tags: Arc<ChangedTags>,
    cache: Arc<RecordsCache>,
    pending_tags: Arc<PendingTags>,
    deferred_grants: DeferredGrants,
    inodes: InodeShortage,
    writes: WriteBehind,
}

impl Records {
    /// The records under `layout`, which must have been prepared.
    pub(super) fn new(layout: Layout, clock: Clock) -> Self {
        let writes = WriteBehind::new(layout.clone());
        Self {
            layout,
            clock,
            changed_tags: Arc::new(ChangedTags::new()),
            cache: Arc::default(),
            pending_tags: Arc::default(),
            deferred_grants: DeferredGrants::default(),
            inodes: InodeShortage::default(),
            writes,
        }
    }

    /// From now on `is_short` says whether the filesystem is short of inodes.
    pub(super) fn ask_for_inodes(&self, is_short: impl Fn() -> bool + Send + Sync + 'static) {
        self.inodes.ask(is_short);
    }

    /// Whether something may be recorded of `repository`: where inodes are short, one that has no directory gets none,
    /// and what would be recorded is in memory alone. Blocks.
    fn may_record(&self, repository: &Repository) -> bool {
        self.layout.marked(repository, "").is_dir() || !self.inodes.is_there()
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
        blocking::find(self.layout.calls(), move || this.look_for_member(&repository, digest)).await
    }

    /// What `digest` is in `repository`, if that and the receipt of its bytes were looked up a moment ago. Asks no
    /// disk.
    pub(super) fn known(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        let is_received = self.cache.is_received(repository.registry(), digest);
        is_received.then(|| self.cache.member(repository, digest)).flatten()
    }

    /// As [`Records::member`]. Blocks.
    pub(super) fn look_for_member(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        if let Some(member) = self.cache.member(repository, digest) {
            return Some(member);
        }
        let read_at = self.cache.age();
        let member = members::find(&self.layout, repository, &digest)?;
        self.cache.add_member(repository.clone(), digest, member.clone(), read_at);
        Some(member)
    }

    /// As [`Records::received_from`]. Blocks.
    pub(super) fn look_for_receipt(&self, registry: &Registry, digest: Digest) -> bool {
        if self.cache.is_received(registry, digest) {
            return true;
        }
        let read_at = self.cache.age();
        let is_received = members::is_received(&self.layout, registry, &digest);
        if is_received {
            self.cache.add_received(registry.clone(), digest, read_at);
        }
        is_received
    }

    /// Ends the membership of `digest` in `repository`, durably, also if the caller gives up.
    ///
    /// # Errors
    /// The disk. [`Error::Hangs`]: it ends when the disk goes on.
    pub async fn remove_member(&self, repository: &Repository, digest: Digest) -> Result<(), Error> {
        let (this, repository) = (self.clone(), repository.clone());
        let remove = move || {
            let removed = members::remove(&this.layout, &repository, &digest);
            this.cache.forget_member(&repository, &digest);
            removed
        };
        // After what is being written already: a manifest of a moment ago must not come back. There is one for each
        // membership that ends, and none for what was none.
        self.writes.run_surely(remove).await
    }

    /// Stages by `staging` that `repository` may serve `digest`, if that is what `member` says, and that an endpoint of
    /// its registry has sent the bytes; [`Records::note_received`] follows. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn stage_received(
        &self,
        staging: &Layout,
        repository: &Repository,
        digest: &Digest,
        member: Option<&Member>,
    ) -> Result<(), Error> {
        // A manifest that was asked for as a blob stays a manifest of its type.
        let is_manifest = || {
            staging.is_written_earlier(&self.layout.member(repository, digest))
                || matches!(members::find(&self.layout, repository, digest), Some(Member::Manifest(_)))
        };
        if let Some(member) = member.filter(|member| **member != Member::Blob || !is_manifest()) {
            members::add(staging, repository, digest, member)?;
        }
        members::add_received(staging, repository.registry(), digest, self.clock.now())
    }

    /// What was staged has its names, or could not be written: what was read before may say something else.
    pub(super) fn note_received(&self, repository: &Repository, digest: &Digest) {
        self.cache.forget_member(repository, digest);
    }

    /// Whether `registry` itself has sent the bytes of `digest`.
    pub async fn received_from(&self, registry: &Registry, digest: Digest) -> bool {
        if self.cache.is_received(registry, digest) {
            return true;
        }
        let (this, registry) = (self.clone(), registry.clone());
        blocking::find(self.layout.calls(), move || this.look_for_receipt(&registry, digest).then_some(()))
            .await
            .is_some()
    }

    /// Removes records of absent content that are older than `life`, and returns how many there were; ends early once
    /// `is_stopping`. Blocks.
    pub(super) fn expire(&self, life: Duration, is_stopping: &dyn Fn() -> bool) -> usize {
        let removed = expire::remove(&self.layout, self.clock.now(), life, is_stopping);
        if removed > 0 {
            self.cache.forget_all();
        }
        removed
    }

    /// Since when `registry` has been unreachable, if that was recorded.
    pub async fn outage(&self, registry: &Registry) -> Option<Timestamp> {
        let (this, registry) = (self.clone(), registry.clone());
        blocking::find(self.layout.calls(), move || outages::find(&this.layout, &registry)).await
    }

    /// Whether `registry` ever delivered something that is recorded.
    pub async fn has_delivered(&self, registry: &Registry) -> bool {
        let (this, registry) = (self.clone(), registry.clone());
        blocking::find(self.layout.calls(), move || {
            outages::has_delivered(&this.layout, &registry).then_some(())
        })
        .await
        .is_some()
    }

    /// Records since when `registry` has been unreachable, or with `None` that it is reachable.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_outage(&self, registry: &Registry, since: Option<Timestamp>) -> Result<(), Error> {
        let (this, registry) = (self.clone(), registry.clone());
        let set = move || outages::set(&this.layout, &registry, since);
        blocking::record(self.layout.calls(), set).await
    }

    /// The digest that `tag` last had.
    pub async fn tag(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        if let Some(pending) = self.pending_tags.find(repository, tag) {
            return Some(pending);
        }
        if let Some(cached) = self.cache.tag(repository, tag) {
            return Some(cached);
        }
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let find = move || {
            let read_at = this.cache.age();
            let record = tags::find(&this.layout, &repository, &tag)?;
            this.cache.add_tag(repository, tag, record, read_at);
            Some(record)
        };
        blocking::find(self.layout.calls(), find).await
    }

    /// The record of the tag of `repository` that was confirmed last, as far as it is on the disk.
    pub async fn latest_tag(&self, repository: &Repository) -> Option<TagRecord> {
        let (this, repository) = (self.clone(), repository.clone());
        let find = move || {
            let records = tags::of(&this.layout, &repository).take(LATEST_OF_MAX).map(|(_, record)| record);
            records.max_by_key(|record| record.confirmed_at)
        };
        blocking::find(self.layout.calls(), find).await
    }

    /// Writes the record of a tag by `layout`, unless it says the same and is recent; returns whether it did. One that
    /// is going to be replaced in the same batch is not recent. Blocks.
    fn write_tag(
        &self,
        layout: &Layout,
        repository: &Repository,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<bool, Error> {
        let is_recent = !layout.is_written_earlier(&layout.tag(repository, tag))
            && tags::find(layout, repository, tag).is_some_and(|found| found.says(&record));
        if !is_recent {
            tags::set(layout, repository, tag, record)?;
        }
        Ok(!is_recent)
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
        let added = self.pending_tags.added();
        let remove = move || {
            this.pending_tags.forget(&repository, &tag, added);
            let removed = tags::remove(&this.layout, &repository, &tag);
            this.cache.forget_tag(&repository, &tag);
            removed?;
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
        blocking::find(self.layout.calls(), found).await.is_some()
    }

    /// Records that upstream does not have `tag`.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_absent_upstream(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let set = move || aliases::set_absent(&this.layout, &repository, &tag, this.clock.now());
        blocking::record(self.layout.calls(), set).await
    }

    /// The index `digest` that was synthesized for `repository`.
    pub async fn synthesized_index(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Option<SynthesizedIndex> {
        let (this, repository) = (self.clone(), repository.clone());
        blocking::find(self.layout.calls(), move || aliases::synthesized(&this.layout, &repository, &digest))
            .await
    }
}

#[cfg(test)]
mod tests;
