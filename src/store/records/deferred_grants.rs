//! Grants that are not on disk because their repository has no record of content there.
//!
//! A grant alone opens nothing, and a directory for each name that a client invents would stay for ever. It is written
//! with the repository's first membership, tag or synthesized index, and kept here until then.
//!
//! Bounded: what is pushed out is in the memory of `pull` still, and is written with the first proof that is an hour
//! younger. Changed by the thread that writes alone, in the order of its writes, so that a grant that ends does not
//! return.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::reference::{Principal, Repository};
use crate::store::records::grants::GRANTS_MAX;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;

/// Repositories at most: as many as a node begins to pull from in the moment that their first manifests take.
const REPOSITORIES_MAX: usize = 1_024;

type OfRepository = BoundedMap<Principal, Timestamp>;

/// The grants by repository. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct DeferredGrants(Arc<Mutex<BoundedMap<Repository, OfRepository>>>);

impl Default for DeferredGrants {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(BoundedMap::new(REPOSITORIES_MAX))))
    }
}

impl DeferredGrants {
    /// Those of `repository`.
    pub(super) fn of(&self, repository: &Repository) -> Vec<(Principal, Timestamp)> {
        let all = self.0.lock();
        let grants = all.peek(repository).into_iter().flat_map(OfRepository::iter);
        grants.map(|(principal, at)| (*principal, *at)).collect()
    }

    /// One more.
    pub(super) fn add(&self, repository: &Repository, principal: Principal, proved_at: Timestamp) {
        let mut all = self.0.lock();
        let grants = all.get_or_insert_with(repository.clone(), || BoundedMap::new(GRANTS_MAX));
        grants.insert(principal, proved_at);
    }

    /// The grant of `principal` on `repository` is written, or ends.
    pub(super) fn remove(&self, repository: &Repository, principal: &Principal) {
        let mut all = self.0.lock();
        let is_empty = all.get(repository).is_some_and(|grants| {
            grants.remove(principal);
            grants.is_empty()
        });
        if is_empty {
            all.remove(repository);
        }
    }

    /// Those of `repository` end, or all; returns how many there were.
    pub(super) fn clear(&self, repository: Option<&Repository>) -> usize {
        let mut all = self.0.lock();
        let Some(repository) = repository else {
            let count = all.iter().map(|(_, grants)| grants.len()).sum();
            all.clear();
            return count;
        };
        all.remove(repository).map_or(0, |grants| grants.len())
    }
}
