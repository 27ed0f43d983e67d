//! When upstream last said what a tag means, as closely as the rules need it: the store's records may lag an hour.
//!
//! Bounded; when it is full it begins anew, which costs questions.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::reference::{Digest, Repository, Tag};
use crate::support::clock::Moment;

/// Tags that are remembered at most.
const TAGS_MAX: usize = 4_096;

/// What each tag meant, and when that was said.
#[derive(Default)]
pub(crate) struct Confirmed(Mutex<HashMap<(Repository, Tag), (Digest, Moment)>>);

impl Confirmed {
    pub(crate) fn find(&self, repository: &Repository, tag: &Tag) -> Option<(Digest, Moment)> {
        self.lock().get(&(repository.clone(), tag.clone())).copied()
    }

    pub(crate) fn note(&self, repository: &Repository, tag: &Tag, digest: Digest, at: Moment) {
        let mut all = self.lock();
        if all.len() >= TAGS_MAX {
            all.clear();
        }
        all.insert((repository.clone(), tag.clone()), (digest, at));
    }

    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag) {
        self.lock().remove(&(repository.clone(), tag.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Repository, Tag), (Digest, Moment)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Questions about tags that are asked behind their callers at most.
const BEHIND_MAX: usize = 64;

/// The tags that are being asked about behind their callers' backs.
#[derive(Default)]
pub(crate) struct Refreshing(Arc<Mutex<HashSet<(Repository, Tag)>>>);

/// One of them, until it is dropped.
pub(crate) struct Place {
    all: Arc<Mutex<HashSet<(Repository, Tag)>>>,
    of: (Repository, Tag),
}

impl Refreshing {
    /// A place for a question, unless the same is being asked or too many are.
    pub(crate) fn enter(&self, repository: &Repository, tag: &Tag) -> Option<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = (repository.clone(), tag.clone());
        (all.len() < BEHIND_MAX && all.insert(of.clone())).then(|| Place { all: Arc::clone(&self.0), of })
    }
}

impl Place {
    pub(crate) fn of(&self) -> (&Repository, &Tag) {
        (&self.of.0, &self.of.1)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.of);
    }
}
