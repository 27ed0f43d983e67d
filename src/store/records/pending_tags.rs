//! Tags whose records are still being written: what a reader sees until they are on disk.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::tags::TagRecord;
use crate::reference::{Repository, Tag};

/// The records by tag. Bounded by the writes that wait.
#[derive(Debug, Default)]
pub(crate) struct PendingTags(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    records: HashMap<(Repository, Tag), (TagRecord, u64)>,
    added: u64,
}

/// One record until it is written.
#[derive(Debug)]
pub(crate) struct PendingTag {
    name: (Repository, Tag),
    number: u64,
}

impl PendingTags {
    /// The record of a tag that is being written.
    pub(crate) fn find(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        let pending = self.0.lock();
        if pending.records.is_empty() {
            return None;
        }
        pending.records.get(&(repository.clone(), tag.clone())).map(|(record, _)| *record)
    }

    /// A record is going to be written.
    pub(crate) fn add(&self, repository: &Repository, tag: &Tag, record: TagRecord) -> PendingTag {
        let mut pending = self.0.lock();
        pending.added += 1;
        let (name, number) = ((repository.clone(), tag.clone()), pending.added);
        pending.records.insert(name.clone(), (record, number));
        PendingTag { name, number }
    }

    /// It was written, or could not be. A newer one of the same tag stays.
    pub(crate) fn remove(&self, written: &PendingTag) {
        let mut pending = self.0.lock();
        if pending.records.get(&written.name).is_some_and(|(_, number)| *number == written.number) {
            pending.records.remove(&written.name);
        }
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
}
