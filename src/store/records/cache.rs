//! Memberships, receipts and tags in memory: those that were read a moment ago, so that a warm request reads no file
//! for them.
//!
//! Only what is there is remembered, and never that something is not. All is forgotten when records expire.

use parking_lot::Mutex;

use super::members::Member;
use super::tags::TagRecord;
use crate::reference::{Digest, Registry, Repository, Tag};
use crate::support::bounded_map::BoundedMap;

/// Memberships, receipts, and tags, at most: about 2 MiB each.
const ENTRIES_MAX: usize = 16_384;

/// What was read.
#[derive(Debug)]
pub(crate) struct RecordsCache(Mutex<Cached>);

#[derive(Debug)]
struct Cached {
    members: BoundedMap<(Repository, Digest), Member>,
    received: BoundedMap<(Registry, Digest), ()>,
    tags: BoundedMap<(Repository, Tag), TagRecord>,
    age: Age,
}

/// How often records have been forgotten: what was read before that may be gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Age(u64);

impl Default for RecordsCache {
    fn default() -> Self {
        let (members, received) = (BoundedMap::new(ENTRIES_MAX), BoundedMap::new(ENTRIES_MAX));
        let tags = BoundedMap::new(ENTRIES_MAX);
        Self(Mutex::new(Cached { members, received, tags, age: Age::default() }))
    }
}

impl RecordsCache {
    pub(crate) fn member(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        self.0.lock().members.get(&(repository.clone(), digest)).cloned()
    }

    pub(crate) fn is_received(&self, registry: &Registry, digest: Digest) -> bool {
        self.0.lock().received.get(&(registry.clone(), digest)).is_some()
    }

    /// What the record of a tag says on the disk.
    pub(crate) fn tag(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        self.0.lock().tags.get(&(repository.clone(), tag.clone())).copied()
    }

    /// To be asked before a file is read, and passed on with what was read.
    pub(crate) fn age(&self) -> Age {
        self.0.lock().age
    }

    pub(crate) fn add_member(&self, repository: Repository, digest: Digest, member: Member, read_at: Age) {
        let mut cached = self.0.lock();
        if cached.age == read_at {
            cached.members.insert((repository, digest), member);
        }
    }

    pub(crate) fn add_received(&self, registry: Registry, digest: Digest, read_at: Age) {
        let mut cached = self.0.lock();
        if cached.age == read_at {
            cached.received.insert((registry, digest), ());
        }
    }

    pub(crate) fn add_tag(&self, repository: Repository, tag: Tag, record: TagRecord, read_at: Age) {
        let mut cached = self.0.lock();
        if cached.age == read_at {
            cached.tags.insert((repository, tag), record);
        }
    }

    /// The record of a tag was written anew, or removed.
    pub(crate) fn forget_tag(&self, repository: &Repository, tag: &Tag) {
        let mut cached = self.0.lock();
        cached.tags.remove(&(repository.clone(), tag.clone()));
        cached.age.0 += 1;
    }

    /// A membership was written anew, and may say something else.
    pub(crate) fn forget_member(&self, repository: &Repository, digest: &Digest) {
        let mut cached = self.0.lock();
        cached.members.remove(&(repository.clone(), *digest));
        cached.age.0 += 1;
    }

    /// Records were removed.
    pub(crate) fn forget_all(&self) {
        let mut cached = self.0.lock();
        cached.members.clear();
        cached.received.clear();
        cached.tags.clear();
        cached.age.0 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::Timestamp;

    #[test]
    fn what_was_read_before_records_were_removed_is_not_remembered_after_that() {
        let cache = RecordsCache::default();
        let (app, digest): (Repository, _) = ("reg.test/app".parse().unwrap(), Digest::of(b"x"));
        let (tag, record): (Tag, _) =
            ("v1".parse().unwrap(), TagRecord { digest, confirmed_at: Timestamp(1) });
        let add = |age| {
            cache.add_member(app.clone(), digest, Member::Blob, age);
            cache.add_received(app.registry().clone(), digest, age);
            cache.add_tag(app.clone(), tag.clone(), record, age);
        };
        let found = || {
            let is_received = cache.is_received(app.registry(), digest);
            (cache.member(&app, digest).is_some(), is_received, cache.tag(&app, &tag).is_some())
        };
        let before = cache.age();
        add(before);
        assert_eq!(found(), (true, true, true));
        cache.forget_all();
        assert_eq!(found(), (false, false, false));
        add(before);
        assert_eq!(found(), (false, false, false), "read before, added after");
        add(cache.age());
        cache.forget_member(&app, &digest);
        assert_eq!(found(), (false, true, true));
        let before = cache.age();
        cache.forget_tag(&app, &tag);
        add(before);
        assert_eq!(found(), (false, true, false), "read before, added after");
    }
}
