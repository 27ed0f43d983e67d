//! The tags that changed since `index.json` was last written: from those who write records to the task that writes it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::reference::{Repository, Tag};

/// Tags that are told one by one; after more of them all tags are read again.
const TAGS_MAX: usize = 4_096;

/// What changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TagChanges {
    /// These tags, by their whole names (`registry/repository:tag`).
    Some(BTreeMap<String, (Repository, Tag)>),
    /// Any tag may have: after a start, and after very many changes.
    Any,
}

/// Changes that nothing has been written of yet.
#[derive(Debug)]
pub(crate) struct ChangedTags {
    changes: Mutex<TagChanges>,
    notify: Notify,
}

impl ChangedTags {
    /// An earlier process may have stopped before it wrote `index.json`: any tag may have changed.
    pub(crate) fn new() -> Self {
        let notify = Notify::new();
        notify.notify_one();
        Self { changes: Mutex::new(TagChanges::Any), notify }
    }

    /// A tag was set or removed.
    pub(crate) fn record(&self, repository: &Repository, tag: &Tag) {
        let mut changes = self.changes.lock();
        if let TagChanges::Some(tags) = &mut *changes {
            tags.insert(format!("{repository}:{tag}"), (repository.clone(), tag.clone()));
            if tags.len() > TAGS_MAX {
                *changes = TagChanges::Any;
            }
        }
        drop(changes);
        self.notify.notify_one();
    }

    /// Nothing is known any more, because what was taken could not be written; the next change tells of all.
    pub(crate) fn forget(&self) {
        *self.changes.lock() = TagChanges::Any;
    }

    /// Waits for a change; returns at once the first time.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Takes what changed.
    pub(crate) fn take(&self) -> TagChanges {
        std::mem::replace(&mut self.changes.lock(), TagChanges::Some(BTreeMap::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_many_changes_are_told_as_one_and_one_that_was_taken_is_not_told_again() {
        let changed = ChangedTags::new();
        let app: Repository = "reg.test/app".parse().unwrap();
        assert_eq!(changed.take(), TagChanges::Any, "after a start");
        changed.record(&app, &"v1".parse().unwrap());
        let TagChanges::Some(tags) = changed.take() else { panic!("one change") };
        assert_eq!(tags.into_keys().collect::<Vec<_>>(), ["reg.test/app:v1"]);
        assert_eq!(changed.take(), TagChanges::Some(BTreeMap::new()));
        for n in 0..=TAGS_MAX {
            changed.record(&app, &format!("v{n}").parse().unwrap());
        }
        assert_eq!(changed.take(), TagChanges::Any);
    }
}
