//! When upstream last said what a tag names, as precisely as the freshness rules need it: the store's records may lag
//! an hour; since when it has been served from its record because upstream could not say; and which tags are being
//! asked about in the background.
//!
//! Bounded; a tag that is forgotten costs one request, or is served stale for as long as if that began now. Nothing
//! here outlives a restart.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::reference::{Digest, Repository, Tag};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Moment, Timestamp};

/// Tags remembered at most.
const TAGS_MAX: usize = 4_096;
/// Tags that are asked about in the background at the same time.
const REFRESHES_MAX: usize = 64;

type TagName = (Repository, Tag);

/// What each tag named, and when upstream said so.
pub(crate) struct ConfirmedTags {
    confirmed: Mutex<BoundedMap<TagName, (Digest, Moment)>>,
    stale_since: Mutex<BoundedMap<TagName, Timestamp>>,
}

impl Default for ConfirmedTags {
    fn default() -> Self {
        let (confirmed, stale_since) = (BoundedMap::new(TAGS_MAX), BoundedMap::new(TAGS_MAX));
        Self { confirmed: Mutex::new(confirmed), stale_since: Mutex::new(stale_since) }
    }
}

impl ConfirmedTags {
    pub(crate) fn find(&self, repository: &Repository, tag: &Tag) -> Option<(Digest, Moment)> {
        self.confirmed.lock().get(&(repository.clone(), tag.clone())).copied()
    }

    pub(crate) fn record(&self, repository: &Repository, tag: &Tag, digest: Digest, at: Moment) {
        self.confirmed.lock().insert((repository.clone(), tag.clone()), (digest, at));
    }

    /// Records that upstream says now what the tag names, and that this is served.
    pub(crate) fn confirm(&self, repository: &Repository, tag: &Tag, digest: Digest, now: Timestamp) {
        self.record(repository, tag, digest, Moment::recorded(now));
        self.stale_since.lock().remove(&(repository.clone(), tag.clone()));
    }

    /// How long the tag has been served from its record because upstream could not say what it names, or did not
    /// deliver that: since `begun`, if nothing is known of it. Only [`Self::confirm`] ends that time, and no change of
    /// the reason.
    pub(crate) fn stale_for(
        &self,
        repository: &Repository,
        tag: &Tag,
        begun: Timestamp,
        now: Timestamp,
    ) -> Duration {
        let name = (repository.clone(), tag.clone());
        self.stale_since.lock().get_or_insert_with(name, || begun).age_at(now)
    }

    /// Whether upstream said what the tag names since the daemon started.
    pub(crate) fn is_known(&self, repository: &Repository, tag: &Tag) -> bool {
        self.confirmed.lock().peek(&(repository.clone(), tag.clone())).is_some()
    }

    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag) {
        let name = (repository.clone(), tag.clone());
        self.confirmed.lock().remove(&name);
        self.stale_since.lock().remove(&name);
    }
}

/// The tags that are being asked about in the background.
#[derive(Default)]
pub(crate) struct Refreshes(Arc<Mutex<HashSet<TagName>>>);

/// One of them, until it is dropped.
pub(crate) struct Refresh {
    all: Arc<Mutex<HashSet<TagName>>>,
    name: TagName,
}

impl Refreshes {
    /// Begins to refresh a tag, unless that is under way or too many are.
    pub(crate) fn begin(&self, repository: &Repository, tag: &Tag) -> Option<Refresh> {
        let mut all = self.0.lock();
        let name = (repository.clone(), tag.clone());
        let begun = all.len() < REFRESHES_MAX && all.insert(name.clone());
        begun.then(|| Refresh { all: Arc::clone(&self.0), name })
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.all.lock().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_stale_from_the_first_time_until_upstream_says_what_it_names() {
        let (tags, app, tag) =
            (ConfirmedTags::default(), "reg.test/app".parse().unwrap(), "v1".parse().unwrap());
        let stale_for = |tag: &Tag, at| tags.stale_for(&app, tag, Timestamp(at), Timestamp(at));
        let at = |seconds| stale_for(&tag, seconds).as_secs();
        assert_eq!([at(100), at(160)], [0, 60]);
        assert_eq!(stale_for(&"v2".parse().unwrap(), 160).as_secs(), 0, "another tag");
        tags.confirm(&app, &tag, Digest::of(b"x"), Timestamp(200));
        assert_eq!([at(300), at(310)], [0, 10]);
        tags.forget(&app, &tag);
        assert_eq!(at(400), 0);
    }

    #[test]
    fn a_tag_is_refreshed_once_at_a_time_and_again_afterwards() {
        let (refreshes, app) = (Refreshes::default(), "reg.test/app".parse().unwrap());
        let tag = |n: usize| format!("v{n}").parse().unwrap();
        let first = refreshes.begin(&app, &tag(0));
        assert!(first.is_some() && refreshes.begin(&app, &tag(0)).is_none());
        let others: Vec<_> = (1..REFRESHES_MAX).filter_map(|n| refreshes.begin(&app, &tag(n))).collect();
        assert!(refreshes.begin(&app, &tag(REFRESHES_MAX)).is_none(), "more than allowed");
        drop((first, others));
        assert!(refreshes.begin(&app, &tag(0)).is_some());
    }
}
