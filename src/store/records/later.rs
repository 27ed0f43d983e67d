//! Records that no answer waits for: readers see them at once, and they are written behind what is being written
//! already.

use super::Records;
use super::members::{self, Member};
use super::tags::TagRecord;
use crate::reference::{Digest, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::layout::batch::{End, Outcome};
use crate::store::layout::write_behind::Place;

impl Records {
    /// As [`Records::add_member`], in a place behind what is being written already, unless it is known: the answer does
    /// not wait for the disk. Readers see it at once; without a place, only as long as it is in memory. A membership
    /// that is ended later does not return.
    pub fn add_member_later(
        &self,
        place: Option<Place<'_>>,
        repository: &Repository,
        digest: Digest,
        member: Member,
    ) {
        self.cache.add_member(repository.clone(), digest, member.clone(), self.cache.age());
        let Some(place) = place else { return };
        let (this, repository) = (self.clone(), repository.clone());
        let write = move |staging: &Layout| -> (Result<(), Error>, End) {
            let is_known = staging.is_written_earlier(&this.layout.member(&repository, &digest))
                || members::find(&this.layout, &repository, &digest).is_some();
            if !is_known && !this.may_record(&repository) {
                // Readers see it as long as it is in memory.
                return (Ok(()), Box::new(|_| ()));
            }
            let staged = if is_known { Ok(()) } else { members::add(staging, &repository, &digest, &member) };
            let grants = this.stage_grants(staging, &repository);
            let end = move |outcome| {
                grants.end(&outcome);
                if is_known {
                    // It may say something else.
                    this.cache.forget_member(&repository, &digest);
                }
                if let Outcome::Failed(error) = outcome {
                    this.cache.forget_member(&repository, &digest);
                    let cause = error.cause();
                    tracing::error!(%repository, %digest, %error, cause, "a confirmed blob could not be recorded");
                }
            };
            (staged, Box::new(end))
        };
        place.stage(Box::new(write));
    }

    /// Waits, a second at most, until one more record may be written behind what is being written already; `None` if
    /// too much waits.
    pub async fn place(&self) -> Option<Place<'_>> {
        self.writes.place().await
    }

    /// As [`Records::confirm_tag`], behind what is being written already: the answer does not wait for the disk.
    /// Readers see the record at once. One whose manifest is not in the store by then is kept in memory alone, without
    /// a write that would have to be undone, and so is one where too much waits to be written. Nothing is written if
    /// the record on the disk, read a moment ago, says the same.
    pub async fn confirm_tag_later(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        let record = TagRecord { digest, confirmed_at: self.clock.now() };
        // In this order: what is not pending any more has left the cache before.
        if self.pending_tags.find(repository, tag).is_none()
            && self.cache.tag(repository, tag).is_some_and(|found| found.says(&record))
        {
            return;
        }
        let place = self.writes.place().await;
        let pending = self.pending_tags.add(repository, tag, record);
        let Some(place) = place else { return pending.keep() };
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let write = move |staging: &Layout| -> (Result<(), Error>, End) {
            let manifest = this.layout.blob(&digest);
            let is_there = staging.is_written_earlier(&manifest) || manifest.exists();
            if !is_there || !this.may_record(&repository) {
                return (Ok(()), Box::new(|_| pending.keep()));
            }
            staging.names(manifest);
            let written = this.write_tag(staging, &repository, &tag, record);
            let (is_new, staged) = (matches!(written, Ok(true)), written.map(drop));
            let grants = this.stage_grants(staging, &repository);
            let end = move |outcome| {
                grants.end(&outcome);
                this.cache.forget_tag(&repository, &tag);
                match outcome {
                    Outcome::Durable | Outcome::Fragile(_) => {
                        if is_new {
                            this.changed_tags.record(&repository, &tag);
                        }
                        pending.written();
                    }
                    Outcome::NamesNothing => pending.keep(),
                    Outcome::Failed(error) => {
                        let cause = error.cause();
                        tracing::error!(%repository, %tag, %error, cause, "a tag could not be recorded");
                        pending.keep();
                    }
                }
            };
            (staged, Box::new(end))
        };
        place.stage(Box::new(write));
    }
}
