//! Tags whose records are not on disk: what a reader sees until they are.
//!
//! A record is here while it is being written, and stays, within a bound, where it could not be, or where the manifest that
//! it names is in memory alone.

use std::collections::HashMap;

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

/// One record until it is written.
#[derive(Debug)]
pub(crate) struct PendingTag {
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
    pub(crate) fn add(&self, repository: &Repository, tag: &Tag, record: TagRecord) -> PendingTag {
        let mut pending = self.0.lock();
        pending.added += 1;
        let (name, number) = ((repository.clone(), tag.clone()), pending.added);
        pending.records.insert(name.clone(), (record, number));
        PendingTag { name, number }
    }

    /// It is on disk. A newer one of the same tag that is being written stays.
    pub(crate) fn remove(&self, written: &PendingTag) {
        let mut pending = self.0.lock();
        pending.take(written);
        pending.kept.remove(&written.name);
    }

    /// It is not going to be on disk.
    pub(crate) fn keep(&self, unwritten: &PendingTag) {
        let mut pending = self.0.lock();
        if let Some(record) = pending.take(unwritten) {
            pending.kept.insert(unwritten.name.clone(), record);
        }
    }

    /// What is on disk counts, or that nothing is there.
    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag) {
        let mut pending = self.0.lock();
        if !pending.kept.is_empty() {
            pending.kept.remove(&(repository.clone(), tag.clone()));
        }
    }
}

impl Pending {
    fn take(&mut self, of: &PendingTag) -> Option<TagRecord> {
        let is_newest = self.records.get(&of.name).is_some_and(|(_, number)| *number == of.number);
        is_newest.then(|| self.records.remove(&of.name)).flatten().map(|(record, _)| record)
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
            (PendingTags::default(), "reg.test/app".parse().unwrap(), "v1".parse().unwrap());
        let record = |content: &[u8]| TagRecord { digest: Digest::of(content), confirmed_at: Timestamp(1) };
        let first = pending.add(&app, &tag, record(b"first"));
        let second = pending.add(&app, &tag, record(b"second"));
        pending.remove(&first);
        assert_eq!(pending.find(&app, &tag), Some(record(b"second")));
        pending.remove(&second);
        assert_eq!(pending.find(&app, &tag), None);
    }

    #[test]
    fn a_record_that_is_not_going_to_be_on_disk_is_seen_until_another_one_is() {
        let (pending, app, tag) =
            (PendingTags::default(), "reg.test/app".parse().unwrap(), "v1".parse().unwrap());
        let record = |content: &[u8]| TagRecord { digest: Digest::of(content), confirmed_at: Timestamp(1) };
        pending.keep(&pending.add(&app, &tag, record(b"first")));
        assert_eq!(pending.find(&app, &tag), Some(record(b"first")));
        let second = pending.add(&app, &tag, record(b"second"));
        assert_eq!(pending.find(&app, &tag), Some(record(b"second")));
        pending.remove(&second);
        assert_eq!(pending.find(&app, &tag), None);
        pending.keep(&pending.add(&app, &tag, record(b"third")));
        pending.forget(&app, &tag);
        assert_eq!(pending.find(&app, &tag), None, "it was removed");
    }
}
