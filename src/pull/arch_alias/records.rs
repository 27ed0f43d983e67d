//! What is remembered of names that another form answers for ([`crate::pull::arch_alias::resolve`]): which of them upstream does not have,
//! the indexes that were composed, and where a name's last manifest came from.
//!
//! Promises: what was answered in another form can be answered again in an outage, after a restart too. Only what was of
//! use is written down, so that strangers who ask for ever new names leave nothing on the disk. The disk may fail: then
//! memory has it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pull::error::{Error, Fault};
use crate::pull::manifest::fetch::log_failure;
use crate::reference::{Digest, Repository, Tag};
use crate::store::{Store, SynthesizedIndex};

/// Of each kind remembered in memory at most; when there are more, it begins anew.
const REMEMBERED_MAX: usize = 1_024;

/// The memory, and the store behind it.
pub(crate) struct Forms {
    store: Store,
    memory: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    composed: HashMap<(Repository, Digest), SynthesizedIndex>,
    absent: HashSet<(Repository, Tag)>,
    /// From which repository the last manifest of a name came: its blobs are there too.
    last: HashMap<Repository, Repository>,
}

impl Forms {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, memory: Mutex::default() }
    }

    /// Whether upstream does not have a name, as it says now, or said before it could not be asked any more.
    pub(crate) async fn is_absent(&self, repository: &Repository, tag: &Tag, said: &Error) -> bool {
        let name = (repository.clone(), tag.clone());
        match said.fault() {
            Fault::NotFound => {
                self.lock().absent.insert(name);
                true
            }
            // So it is to this caller; to another it may be there.
            Fault::Refused(_) | Fault::Unidentified => true,
            Fault::Outage => {
                let heard = self.lock().absent.contains(&name);
                self.store.is_absent_upstream(repository, tag).await
                    // Not if it came to be since.
                    || heard && self.store.tag(repository, tag).await.is_none()
            }
            Fault::Declined | Fault::Invalid | Fault::Ours => false,
        }
    }

    /// Another form answered for a name: that upstream does not have it is written down, if upstream said so.
    pub(crate) async fn answered(&self, repository: &Repository, tag: &Tag) {
        let heard = self.lock().absent.contains(&(repository.clone(), tag.clone()));
        if heard {
            let done = self.store.set_absent_upstream(repository, tag).await;
            log_failure(done, repository, "a name that upstream does not have could not be remembered");
        }
    }

    /// An index that was composed for a repository.
    pub(crate) async fn composed(&self, repository: &Repository, digest: Digest) -> Option<SynthesizedIndex> {
        let known = self.lock().composed.get(&(repository.clone(), digest)).cloned();
        match known {
            Some(known) => Some(known),
            None => self.store.synthesized_index(repository, digest).await,
        }
    }

    /// Remembers an index that was composed for a repository, and returns its digest.
    pub(crate) async fn compose(&self, repository: &Repository, composed: SynthesizedIndex) -> Digest {
        let digest = Digest::of(&composed.bytes);
        let done = self.store.set_synthesized_index(repository, &composed).await;
        log_failure(done, repository, "a composed index could not be remembered");
        self.lock().composed.insert((repository.clone(), digest), composed);
        digest
    }

    /// From which repository the last manifest of a name came.
    pub(crate) fn last(&self, repository: &Repository) -> Option<Repository> {
        self.lock().last.get(repository).cloned()
    }

    /// Remembers it.
    pub(crate) fn came_from(&self, repository: &Repository, other: Repository) {
        self.lock().last.insert(repository.clone(), other);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.composed.len() >= REMEMBERED_MAX || inner.absent.len() >= REMEMBERED_MAX {
            *inner = Inner::default();
        }
        if inner.last.len() >= REMEMBERED_MAX {
            inner.last.clear();
        }
        inner
    }
}
