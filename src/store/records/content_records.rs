//! Records that name content, for an answer that waits for them; the grants of the repository are written with the
//! first of them.

use super::Records;
use super::aliases::{self, SynthesizedIndex};
use super::members::{self, Member};
use super::tags::TagRecord;
use crate::reference::{Digest, Repository, Tag};
use crate::store::disk::blocking;
use crate::store::error::Error;

impl Records {
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
            this.write_grants_later(&repository);
            added
        };
        blocking::record(self.layout.calls(), add).await
    }

    /// Records that upstream has confirmed `digest` as that of `tag`, just now.
    ///
    /// # Errors
    /// The disk.
    pub async fn confirm_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) -> Result<(), Error> {
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let record = TagRecord { digest, confirmed_at: this.clock.now() };
        let added = self.pending_tags.added();
        let write = move || {
            let is_written = this.write_tag(&this.layout, &repository, &tag, record);
            this.cache.forget_tag(&repository, &tag);
            if is_written? {
                this.changed_tags.record(&repository, &tag);
            }
            this.pending_tags.forget(&repository, &tag, added);
            this.write_grants_later(&repository);
            Ok(())
        };
        self.writes.run(write).await
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
        let set = move || {
            aliases::set_synthesized(&this.layout, &repository, &index, this.clock.now())?;
            this.write_grants_later(&repository);
            Ok(())
        };
        blocking::record(self.layout.calls(), set).await
    }
}
