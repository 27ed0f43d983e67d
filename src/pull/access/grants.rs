//! Grants: when upstream last let a principal read a repository. On disk too.
//!
//! Promises: a grant that upstream revoked, or the operator, is gone from memory and disk at once; a grant is dated by
//! the wall clock for the disk and by the monotonic clock besides, so that a clock set back makes no grant young again.
//! Bounded in memory and on disk; what is forgotten costs one request to upstream.

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
struct Proof {
    proved: Moment,
    written_at: Option<Timestamp>,
}

impl Proof {
    fn is_to_be_written(&self, now: Timestamp) -> bool {
        self.written_at.is_none_or(|at| at > now || at.age_at(self.proved.at) >= RENEWAL)
    }
}

type Proofs = BoundedMap<Principal, Proof>;

/// The grants of a store.
pub(crate) struct Grants {
    records: Records,
    repositories: Mutex<BoundedMap<Repository, Proofs>>,
    /// How often rights were revoked by hand.
    revocations: AtomicU64,
}

impl Grants {
    pub(crate) fn new(records: Records) -> Self {
        Self {
            records,
            repositories: Mutex::new(BoundedMap::new(REPOSITORIES_MAX)),
            revocations: AtomicU64::new(0),
        }
    }

    /// The grants of `repository`.
    pub(crate) async fn of(&self, repository: &Repository) -> Vec<Grant> {
        let now = self.records.clock().now();
        if let Some(found) = self.in_memory(repository, now) {
            return found;
        }
        let mut loaded = self.records.grants(repository).await;
        // The oldest first, so that a full map loses the oldest, as the disk does.
        loaded.sort_by_key(|(_, at)| *at);
        {
            let mut repositories = self.repositories.lock();
            let proofs = proofs_of(&mut repositories, repository);
            for (principal, at) in loaded {
                proofs.get_or_insert_with(principal, || Proof {
                    proved: Moment::recorded(at),
                    written_at: Some(at),
                });
            }
        }
        self.in_memory(repository, now).unwrap_or_default()
    }

    fn in_memory(&self, repository: &Repository, now: Timestamp) -> Option<Vec<Grant>> {
        let mut repositories = self.repositories.lock();
        let grant = |(principal, proof): (&Principal, &Proof)| Grant {
            principal: *principal,
            age: proof.proved.age_at(now),
            proved_at: proof.proved.at,
        };
        Some(repositories.get(repository)?.iter().map(grant).collect())
    }

    /// What [`Self::record`] is to be given for a question that is asked now: a right that is revoked until the answer is
    /// there is not brought back by it.
    pub(crate) fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::Acquire)
    }

    /// Records that upstream let `principal` read `repository`, by a proof of this age, unless rights were revoked after
    /// `revocations`. An older proof replaces no younger one.
    pub(crate) async fn record(
        &self,
        repository: &Repository,
        principal: Principal,
        age: Duration,
        revocations: u64,
    ) {
        // What is on disk has to be known before it can be renewed.
        self.of(repository).await;
        let now = self.records.clock().now();
        let proved = Moment::ago(age, now);
        {
            let mut repositories = self.repositories.lock();
            // Under the lock that a revocation takes after it has counted.
            if self.revocations() != revocations {
                return;
            }
            let proofs = proofs_of(&mut repositories, repository);
            let proof = proofs.get_or_insert_with(principal, || Proof { proved, written_at: None });
            if proof.proved.age_at(now) > age {
                proof.proved = proved;
            }
            if !proof.is_to_be_written(now) {
                return;
            }
        }
        // Before it is marked: a request that gives up while it waits must not have marked it.
        // One that is not written is, with the next proof.
        let Some(place) = self.records.place().await else { return };
        let mut repositories = self.repositories.lock();
        if self.revocations() != revocations {
            return;
        }
        // It may have ended meanwhile, or another request may have written it. Under the lock, so that an end from now on is
        // written after it.
        let proof = repositories.get(repository).and_then(|proofs| proofs.get(&principal));
        if let Some(proof) = proof.filter(|proof| proof.is_to_be_written(now)) {
            proof.written_at = Some(proof.proved.at);
            self.records.set_grant_later(place, repository, principal, proof.proved.at);
        }
    }

    /// Ends the grant of `principal`; returns whether there was one.
    pub(crate) async fn end(&self, repository: &Repository, principal: Principal) -> bool {
        let grants = self.of(repository).await;
        let known = grants.iter().any(|grant| grant.principal == principal);
        // A full map may have lost a grant that the disk still has.
        if !known && grants.len() < PRINCIPALS_MAX {
            return false;
        }
        if let Some(proofs) = self.repositories.lock().get(repository) {
            proofs.remove(&principal);
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

    /// Ends every grant of a repository, or of all; returns how many there were.
    ///
    /// # Errors
    /// The disk.
    pub(crate) async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, store::Error> {
        self.revocations.fetch_add(1, Ordering::AcqRel);
        let clear = || match repository {
            Some(repository) => drop(self.repositories.lock().remove(repository)),
            None => self.repositories.lock().clear(),
        };
        clear();
        let count = self.records.revoke(repository).await?;
        // A request that read the files just before they went must not have brought them back.
        clear();
        Ok(count)
    }
}

fn proofs_of<'a>(
    repositories: &'a mut BoundedMap<Repository, Proofs>,
    repository: &Repository,
) -> &'a mut Proofs {
    repositories.get_or_insert_with(repository.clone(), || BoundedMap::new(PRINCIPALS_MAX))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::pull::for_tests;
    use crate::reference::PrincipalKind;

    async fn record(grants: &Grants, repository: &Repository, principal: Principal) {
        grants.record(repository, principal, Duration::ZERO, grants.revocations()).await;
    }

    #[tokio::test]
    async fn a_proof_is_as_old_as_its_token_and_replaces_no_younger_one() {
        let (store, clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let alice = Principal::new(PrincipalKind::Caller, [1; 16]);
        let (grants, minute) = (Grants::new(store.records().clone()), Duration::from_secs(60));
        grants.record(&app, alice, 4 * minute, 0).await;
        store.flush().await;
        for grants in [&grants, &Grants::new(store.records().clone())] {
            assert_eq!(grants.of(&app).await[0].age.as_secs(), 240);
        }
        clock.advance(minute);
        grants.record(&app, alice, minute / 2, 0).await;
        assert_eq!(grants.of(&app).await[0].age.as_secs(), 30);
        grants.record(&app, alice, 5 * minute, 0).await;
        assert_eq!(grants.of(&app).await[0].age.as_secs(), 30, "an older proof made it old");
    }

    #[tokio::test]
    async fn an_answer_to_a_question_from_before_a_revocation_brings_no_right_back() {
        let (store, _clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let alice = Principal::new(PrincipalKind::Caller, [1; 16]);
        let grants = Grants::new(store.records().clone());
        let before = grants.revocations();
        grants.revoke(Some(&app)).await.unwrap();
        grants.record(&app, alice, Duration::ZERO, before).await;
        assert!(grants.of(&app).await.is_empty());
        record(&grants, &app, alice).await;
        assert_eq!(grants.of(&app).await.len(), 1);
    }

    #[tokio::test]
    async fn a_grant_outlives_a_restart_and_a_revoked_one_does_not() {
        let (store, clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let [one, two] = [1, 2].map(|n| Principal::new(PrincipalKind::Caller, [n; 16]));
        let grants = Grants::new(store.records().clone());
        record(&grants, &app, one).await;
        record(&grants, &app, two).await;
        store.flush().await;
        clock.advance(Duration::from_secs(60));
        let ages: Vec<_> =
            Grants::new(store.records().clone()).of(&app).await.iter().map(|grant| grant.age).collect();
        assert_eq!(ages, [Duration::from_secs(60); 2]);

        assert!(grants.end(&app, one).await);
        assert!(!grants.end(&app, one).await, "ended twice");
        for grants in [&grants, &Grants::new(store.records().clone())] {
            let left: Vec<_> = grants.of(&app).await.iter().map(|grant| grant.principal).collect();
            assert_eq!(left, [two]);
        }
        assert_eq!(grants.revoke(Some(&app)).await.unwrap(), 1);
        assert!(
            grants.of(&app).await.is_empty()
                && Grants::new(store.records().clone()).of(&app).await.is_empty()
        );
    }

    #[tokio::test]
    async fn a_request_that_gives_up_while_too_much_waits_to_be_written_loses_and_keeps_no_grant() {
        let (store, _clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let [alice, bob] = [1, 2].map(|n| Principal::new(PrincipalKind::Caller, [n; 16]));
        let grants = Grants::new(store.records().clone());
        record(&grants, &app, bob).await;
        store.flush().await;
        let full = store.fill_writes();
        assert!(record(&grants, &app, alice).now_or_never().is_none());
        assert!(grants.end(&app, bob).now_or_never().is_none());
        drop(full);
        record(&grants, &app, alice).await;
        store.flush().await;
        let on_disk = store.records().grants(&app).await;
        assert_eq!(on_disk.iter().map(|(principal, _)| *principal).collect::<Vec<_>>(), [alice]);
    }

    #[tokio::test]
    async fn invented_principals_push_out_the_oldest_grant_and_grow_nothing() {
        let (store, _clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let grants = Grants::new(store.records().clone());
        for n in 0..=PRINCIPALS_MAX {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&n.to_le_bytes());
            record(&grants, &app, Principal::new(PrincipalKind::Caller, key)).await;
        }
        assert_eq!(grants.of(&app).await.len(), PRINCIPALS_MAX);
    }
}
