//! Grants: when upstream last let a principal read a repository. On disk too.
//!
//! Promises: a grant that upstream revoked, or the operator, is gone from memory and disk at once; a grant is dated by
//! the wall clock for the disk and by the monotonic clock besides, so that a clock set back makes no grant young again.
//! Bounded in memory and on disk; what is forgotten costs one request to upstream.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::reference::{Principal, Repository};
use crate::store::{self, Records};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Moment, Timestamp};

/// A grant is written to disk again only after this long: a pull must not cost a sync.
const RENEWAL: Duration = Duration::from_secs(3_600);
/// Repositories whose grants are in memory at most.
const REPOSITORIES_MAX: usize = 8_192;
/// Repositories whose revocation has not reached the disk at most; of more, no file is read any more until all rights
/// are revoked, or the next start.
const REVOKED_MAX: usize = 1_024;
/// Grants of one repository in memory at most, as on disk.
const PRINCIPALS_MAX: usize = 256;

/// A grant, as its reader needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) principal: Principal,
    /// Since upstream last proved it.
    pub(crate) age: Duration,
    pub(crate) proved_at: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct DatedProof {
    proved: Moment,
    written_at: Option<Timestamp>,
}

impl DatedProof {
    fn is_to_be_written(&self, now: Timestamp) -> bool {
        self.written_at.is_none_or(|at| at > now || at.age_at(self.proved.at) >= RENEWAL)
    }
}

/// The proofs for one repository.
struct Proofs {
    by_principal: BoundedMap<Principal, DatedProof>,
    /// Whether those on disk are among them.
    are_loaded: bool,
}

impl Proofs {
    fn grants(&self, now: Timestamp) -> Vec<Grant> {
        let grant = |(principal, proof): (&Principal, &DatedProof)| Grant {
            principal: *principal,
            age: proof.proved.age_at(now),
            proved_at: proof.proved.at,
        };
        self.by_principal.iter().map(grant).collect()
    }
}

/// What is in memory.
struct State {
    proofs: BoundedMap<Repository, Proofs>,
    revoked: Revoked,
}

/// Whose files may still say what the operator revoked: they are not read.
#[derive(Default)]
struct Revoked {
    all: bool,
    repositories: HashSet<Repository>,
}

impl Revoked {
    fn add(&mut self, repository: Option<&Repository>) {
        match repository {
            Some(repository) if self.repositories.len() < REVOKED_MAX => {
                self.repositories.insert(repository.clone());
            }
            _ => self.all = true,
        }
    }

    fn has(&self, repository: &Repository) -> bool {
        self.all || self.repositories.contains(repository)
    }

    /// The files of a repository are gone, or all are.
    fn ended(&mut self, repository: Option<&Repository>) {
        match repository {
            Some(repository) => drop(self.repositories.remove(repository)),
            None => *self = Self::default(),
        }
    }
}

impl State {
    fn forget(&mut self, repository: Option<&Repository>) {
        match repository {
            Some(repository) => drop(self.proofs.remove(repository)),
            None => self.proofs.clear(),
        }
    }
}

/// The grants of a store.
pub(crate) struct Grants {
    records: Records,
    repositories: Arc<Mutex<State>>,
    /// How often rights were revoked by hand.
    revocations: AtomicU64,
    /// How often upstream refused what may have been a right.
    refusals: AtomicU64,
}

impl Grants {
    pub(crate) fn new(records: Records) -> Self {
        Self {
            records,
            repositories: Arc::new(Mutex::new(State {
                proofs: BoundedMap::new(REPOSITORIES_MAX),
                revoked: Revoked::default(),
            })),
            revocations: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        }
    }

    /// The grants of `repository`.
    pub(crate) async fn of(&self, repository: &Repository) -> Vec<Grant> {
        let now = self.records.clock().now();
        self.with_proofs(repository, |proofs| proofs.grants(now)).await
    }

    /// What `read` makes of the proofs for `repository`, in memory or, where they are not there, on disk; under the
    /// lock.
    async fn with_proofs<T>(&self, repository: &Repository, read: impl FnOnce(&mut Proofs) -> T) -> T {
        {
            let mut state = self.repositories.lock();
            let is_revoked = state.revoked.has(repository);
            if let Some(proofs) =
                state.proofs.get(repository).filter(|proofs| proofs.are_loaded || is_revoked)
            {
                return read(proofs);
            }
        }
        let revocations = self.revocations();
        let loaded = self.records.grants(repository).await;
        let mut state = self.repositories.lock();
        // Also where the files were read before they went, and their mark with them.
        let is_revoked = state.revoked.has(repository) || self.revocations() != revocations;
        let proofs = proofs_of(&mut state, repository);
        // What the disk does not say now is asked again.
        if let Some(mut loaded) = loaded.filter(|_| !is_revoked && !proofs.are_loaded) {
            // The oldest first, so that a full map loses the oldest, as the disk does.
            loaded.sort_by_key(|(_, at)| *at);
            for (principal, at) in loaded {
                proofs.by_principal.get_or_insert_with(principal, || DatedProof {
                    proved: Moment::recorded(at),
                    written_at: Some(at),
                });
            }
            proofs.are_loaded = true;
        }
        read(proofs)
    }

    /// What [`Self::record`] is to be given for a question that is asked now: a right that is revoked until the answer
    /// is there is not brought back by it.
    pub(crate) fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::Acquire)
    }

    /// How often a right has ended, or may have, other than by its time.
    pub(crate) fn endings(&self) -> u64 {
        self.revocations() + self.refusals.load(Ordering::Acquire)
    }

    /// The time by which grants are dated.
    pub(crate) fn now(&self) -> Timestamp {
        self.records.clock().now()
    }

    /// Records that upstream let `principal` read `repository`, by a proof of this age, unless rights were revoked
    /// after `revocations`. An older proof replaces no younger one.
    pub(crate) async fn record(
        &self,
        repository: &Repository,
        principal: Principal,
        age: Duration,
        revocations: u64,
    ) {
        let prove = |proofs: &mut Proofs| {
            // Under the lock that a revocation takes after it has counted.
            if self.revocations() != revocations {
                return None;
            }
            let now = self.records.clock().now();
            let proved = Moment::ago(age, now);
            let proof =
                proofs.by_principal.get_or_insert_with(principal, || DatedProof { proved, written_at: None });
            if proof.proved.age_at(now) > age {
                proof.proved = proved;
            }
            proof.is_to_be_written(now).then_some(now)
        };
        // What is on disk has to be known before it can be renewed.
        let Some(now) = self.with_proofs(repository, prove).await else { return };
        // Before it is marked: a request that gives up while it waits must not have marked it.
        // One that is not written is, with the next proof.
        let Some(place) = self.records.place().await else { return };
        let mut state = self.repositories.lock();
        if self.revocations() != revocations {
            return;
        }
        // It may have ended meanwhile, or another request may have written it. Under the lock, so that an end from now
        // on is written after it.
        let proof = state.proofs.get(repository).and_then(|proofs| proofs.by_principal.get(&principal));
        if let Some(proof) = proof.filter(|proof| proof.is_to_be_written(now)) {
            proof.written_at = Some(proof.proved.at);
            self.records.set_grant_later(place, repository, principal, proof.proved.at);
        }
    }

    /// Ends the grant of `principal`; returns whether there was one.
    pub(crate) async fn end(&self, repository: &Repository, principal: Principal) -> bool {
        self.refusals.fetch_add(1, Ordering::AcqRel);
        let grants = self.of(repository).await;
        let known = grants.iter().any(|grant| grant.principal == principal);
        let mut are_loaded = false;
        if let Some(proofs) = self.repositories.lock().proofs.get(repository) {
            proofs.by_principal.remove(&principal);
            are_loaded = proofs.are_loaded;
        }
        // A full map may have lost a grant that the disk still has, and the disk may not have said what it has.
        if !known && are_loaded && grants.len() < PRINCIPALS_MAX {
            return false;
        }
        if known {
            let principal = principal.kind.label();
            tracing::info!(%repository, principal, "upstream refused access: the grant has ended");
        }
        if let Err(error) = self.records.remove_grant(repository, principal).await {
            tracing::error!(%repository, %error, "a grant that ended could not be removed from disk");
        }
        known
    }

    /// Ends every grant of a repository, or of all, in memory at once and whatever the disk does; returns how many
    /// there were.
    ///
    /// # Errors
    /// The disk: what is on it may count again after a restart.
    pub(crate) async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, store::Error> {
        self.revocations.fetch_add(1, Ordering::AcqRel);
        {
            let mut state = self.repositories.lock();
            state.forget(repository);
            // What the disk does not take yet, or never, ends in memory now.
            state.revoked.add(repository);
        }
        let (state, revoked) = (Arc::clone(&self.repositories), repository.cloned());
        let ended = move || {
            let mut state = state.lock();
            // A request that read the files just before they went must not have brought them back.
            state.forget(revoked.as_ref());
            state.revoked.ended(revoked.as_ref());
        };
        self.records.revoke(repository, ended).await
    }
}

fn proofs_of<'a>(state: &'a mut State, repository: &Repository) -> &'a mut Proofs {
    state.proofs.get_or_insert_with(repository.clone(), || Proofs {
        by_principal: BoundedMap::new(PRINCIPALS_MAX),
        are_loaded: false,
    })
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
