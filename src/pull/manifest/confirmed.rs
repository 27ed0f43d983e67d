//! When upstream last said what a tag names, as precisely as the freshness rules need it: the store's records may lag an
//! hour. And which tags are being asked about in the background.
//!
//! Bounded; a tag that is forgotten costs one request.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::reference::{Digest, Repository, Tag};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Moment;

/// Tags remembered at most.
const TAGS_MAX: usize = 4_096;
/// Tags that are asked about in the background at the same time.
const REFRESHES_MAX: usize = 64;

type TagName = (Repository, Tag);

/// What each tag named, and when upstream said so.
pub(crate) struct ConfirmedTags(Mutex<BoundedMap<TagName, (Digest, Moment)>>);

impl Default for ConfirmedTags {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(TAGS_MAX)))
    }
}

impl ConfirmedTags {
    pub(crate) fn find(&self, repository: &Repository, tag: &Tag) -> Option<(Digest, Moment)> {
        self.0.lock().get(&(repository.clone(), tag.clone())).copied()
    }

    pub(crate) fn record(&self, repository: &Repository, tag: &Tag, digest: Digest, at: Moment) {
        self.0.lock().insert((repository.clone(), tag.clone()), (digest, at));
    }

    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag) {
        self.0.lock().remove(&(repository.clone(), tag.clone()));
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
