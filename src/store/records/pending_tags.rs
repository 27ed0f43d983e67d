//! Tags whose records are not on disk: what a reader sees until they are.
//!
//! A record is here while it is being written, and stays, within a bound, where it could not be, or where the manifest
//! that it names is in memory alone.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::tags::TagRecord;
use crate::reference::{Repository, Tag};
use crate::support::bounded_map::BoundedMap;

/// Records that are not going to be on disk, at most: as many tags as a node without room for manifests uses at a time.
const KEPT_MAX: usize = 1_024;

/// The records by tag.
#[derive(Debug)]
pub(crate) struct PendingTags(Mutex<Pending>);

#[derive(Debug)]
struct Pending {
    /// Those that are being written. Bounded by the writes that wait.
    records: HashMap<(Repository, Tag), (TagRecord, u64)>,
    /// Those that are in memory alone.
    kept: BoundedMap<(Repository, Tag), TagRecord>,
    added: u64,
}

impl Default for PendingTags {
    fn default() -> Self {
        let (records, kept) = (HashMap::new(), BoundedMap::new(KEPT_MAX));
        Self(Mutex::new(Pending { records, kept, added: 0 }))
    }
}

/// One record until it is written. Dropped without that, as by a write that panics, it is kept in memory.
#[derive(Debug)]
pub(crate) struct PendingTag {
    all: Arc<PendingTags>,
    name: (Repository, Tag),
    number: u64,
}

impl PendingTags {
    /// The record of a tag that is not on disk, or not yet.
    pub(crate) fn find(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        let mut pending = self.0.lock();
        if pending.records.is_empty() && pending.kept.is_empty() {
            return None;
        }
        let name = (repository.clone(), tag.clone());
        let written = pending.records.get(&name).map(|(record, _)| *record);
        written.or_else(|| pending.kept.get(&name).copied())
    }

    /// A record is going to be written.
    pub(crate) fn add(self: &Arc<Self>, repository: &Repository, tag: &Tag, record: TagRecord) -> PendingTag {
        let mut pending = self.0.lock();
        pending.added += 1;
        let (name, number) = ((repository.clone(), tag.clone()), pending.added);
        pending.records.insert(name.clone(), (record, number));
        PendingTag { all: Arc::clone(self), name, number }
    }

    /// How many have been added until now.
    pub(crate) fn added(&self) -> u64 {
        self.0.lock().added
    }

    /// What is on disk counts, or that nothing is there, and not what is being written of the first `added`.
    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag, added: u64) {
        let mut pending = self.0.lock();
        if pending.kept.is_empty() && pending.records.is_empty() {
            return;
        }
        let name = (repository.clone(), tag.clone());
        pending.kept.remove(&name);
        if pending.records.get(&name).is_some_and(|(_, number)| *number <= added) {
            pending.records.remove(&name);
        }
    }
}

impl PendingTag {
    /// It is on disk. A newer one of the same tag that is being written stays.
    pub(crate) fn written(self) {
        let mut pending = self.all.0.lock();
        pending.take(&self.name, self.number);
        pending.kept.remove(&self.name);
    }

    /// It is not going to be on disk.
    pub(crate) fn keep(self) {
        drop(self);
    }
}

impl Drop for PendingTag {
    fn drop(&mut self) {
        let mut pending = self.all.0.lock();
        if let Some(record) = pending.take(&self.name, self.number) {
            pending.kept.insert(self.name.clone(), record);
        }
    }
}

impl Pending {
    fn take(&mut self, name: &(Repository, Tag), number: u64) -> Option<TagRecord> {
        let is_newest = self.records.get(name).is_some_and(|(_, newest)| *newest == number);
        is_newest.then(|| self.records.remove(name)).flatten().map(|(record, _)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Digest;
    use crate::support::clock::Timestamp;

    #[test]
    fn the_newest_record_of_a_tag_is_seen_until_it_is_written_itself() {
        let (pending, app, tag) =
            (Arc::new(PendingTags::default()), "reg.test/app".parse().unwrap(), "v1".parse().unwrap());
        let record = |content: &[u8]| TagRecord { digest: Digest::of(content), confirmed_at: Timestamp(1) };
        let first = pending.add(&app, &tag, record(b"first"));
        let second = pending.add(&app, &tag, record(b"second"));
        first.written();
        assert_eq!(pending.find(&app, &tag), Some(record(b"second")));
        second.written();
        assert_eq!(pending.find(&app, &tag), None);
    }

    #[test]
    fn a_record_that_is_not_going_to_be_on_disk_is_seen_until_another_one_is() {
        let (pending, app, tag) =
            (Arc::new(PendingTags::default()), "reg.test/app".parse().unwrap(), "v1".parse().unwrap());
        let record = |content: &[u8]| TagRecord { digest: Digest::of(content), confirmed_at: Timestamp(1) };
        pending.add(&app, &tag, record(b"first")).keep();
        assert_eq!(pending.find(&app, &tag), Some(record(b"first")));
        let second = pending.add(&app, &tag, record(b"second"));
        assert_eq!(pending.find(&app, &tag), Some(record(b"second")));
        second.written();
        assert_eq!(pending.find(&app, &tag), None);
        // As by a write that panics.
        drop(pending.add(&app, &tag, record(b"third")));
        assert_eq!(pending.find(&app, &tag), Some(record(b"third")));
        let fourth = pending.add(&app, &tag, record(b"fourth"));
        let added = pending.added();
        let fifth = pending.add(&app, &tag, record(b"fifth"));
        pending.forget(&app, &tag, added);
        assert_eq!(pending.find(&app, &tag), Some(record(b"fifth")), "it is newer than the removal");
        pending.forget(&app, &tag, pending.added());
        drop((fourth, fifth));
        assert_eq!(pending.find(&app, &tag), None, "it was removed");
    }
}
