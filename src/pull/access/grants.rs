//! What is known of rights: proofs (kept on disk too), noes, and outages (in memory only).
//!
//! Promises: a right that upstream ended, or that was revoked, is gone from memory and disk at once; a proof is dated
//! by the wall clock for the disk and by the monotonic clock besides, so that a clock set back makes no proof young
//! again. Everything here is bounded; what is forgotten costs one question to upstream.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pull::error::Error;
use crate::pull::metrics::Metrics;
use crate::reference::{Digest, Principal, Registry, Repository, Tag};
use crate::store::Store;
use crate::support::clock::{Moment, Timestamp};
use crate::support::metrics::RegistryLabels;

/// A proof is written down again only after this long: a pull must not cost a sync.
const RENEWAL: Duration = Duration::from_secs(3_600);
/// Repositories whose proofs are in memory at most.
const REPOSITORIES_MAX: usize = 8_192;
/// Proofs of one repository in memory at most, as on disk.
const PROOFS_MAX: usize = 256;
/// Noes remembered at most.
const NOES_MAX: usize = 16_384;
/// How long a repository is known to be closed to those without a credential of their own.
const CLOSED_FOR: Duration = Duration::from_secs(4 * 3_600);
/// How often it is tried again in the background meanwhile.
const REPROBE_EVERY: Duration = Duration::from_secs(600);

/// What a question was about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Tag(Tag),
    Manifest(Digest),
    Blob(Digest),
    List,
}

/// A question and who asked it.
pub(crate) type Question = (Repository, Subject, Principal);

/// When upstream last let a principal read a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proof {
    proved: Moment,
    written_at: Option<Timestamp>,
}

type Proofs = HashMap<Principal, Proof>;

/// A repository that neither the node nor an anonymous caller may read.
struct Closed {
    since: Instant,
    probed: Instant,
}

/// What an unidentified caller of a closed repository may expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Nothing is known.
    Unknown,
    /// Closed.
    Closed,
    /// Closed, and it is time to see whether it still is.
    ClosedProbe,
}

/// All of it.
pub(crate) struct Grants {
    store: Store,
    negative_ttl: Duration,
    proofs: Mutex<HashMap<Repository, Proofs>>,
    noes: Mutex<HashMap<Question, (Instant, Error)>>,
    closed: Mutex<HashMap<Repository, Closed>>,
    /// Since when registries cannot be asked; `None`: they can.
    outages: Mutex<HashMap<Registry, Option<Timestamp>>>,
    metrics: Arc<Metrics>,
    labels: Arc<RegistryLabels>,
}

impl Grants {
    pub(crate) fn new(
        store: Store,
        negative_ttl: Duration,
        metrics: Arc<Metrics>,
        labels: Arc<RegistryLabels>,
    ) -> Self {
        Self {
            store,
            negative_ttl,
            proofs: Mutex::default(),
            noes: Mutex::default(),
            closed: Mutex::default(),
            outages: Mutex::default(),
            metrics,
            labels,
        }
    }

    /// The age of each principal's proof for `repository`.
    pub(crate) async fn of(&self, repository: &Repository) -> Vec<(Principal, Duration, Timestamp)> {
        let now = self.store.clock().now();
        if let Some(found) = self.in_memory(repository, now) {
            return found;
        }
        let loaded = self.store.grants(repository).await;
        {
            let mut all = lock(&self.proofs);
            make_room(&mut all, REPOSITORIES_MAX, repository);
            let proofs = all.entry(repository.clone()).or_default();
            for (principal, at) in loaded {
                let proof = Proof { proved: Moment::recorded(at), written_at: Some(at) };
                proofs.entry(principal).or_insert(proof);
            }
        }
        self.in_memory(repository, now).unwrap_or_default()
    }

    fn in_memory(
        &self,
        repository: &Repository,
        now: Timestamp,
    ) -> Option<Vec<(Principal, Duration, Timestamp)>> {
        let all = lock(&self.proofs);
        let proofs = all.get(repository)?;
        Some(
            proofs
                .iter()
                .map(|(principal, proof)| (*principal, proof.proved.age_at(now), proof.proved.at))
                .collect(),
        )
    }

    /// Upstream let `principal` read `repository`.
    pub(crate) async fn proved(&self, repository: &Repository, principal: Principal) {
        // What is on disk has to be known before it can be renewed.
        self.of(repository).await;
        let now = self.store.clock().now();
        let write = {
            let mut all = lock(&self.proofs);
            let proofs = all.entry(repository.clone()).or_default();
            if proofs.len() >= PROOFS_MAX && !proofs.contains_key(&principal) {
                let oldest = proofs.iter().min_by_key(|(_, proof)| proof.proved.at).map(|(who, _)| *who);
                oldest.map(|who| proofs.remove(&who));
            }
            let fresh = Proof { proved: Moment::recorded(now), written_at: None };
            let proof = proofs.entry(principal).or_insert(fresh);
            proof.proved = fresh.proved;
            let write = proof.written_at.is_none_or(|at| at > now || at.age_at(now) >= RENEWAL);
            if write {
                proof.written_at = Some(now);
            }
            write
        };
        self.answered(repository.registry()).await;
        if principal.kind.is_shared() {
            lock(&self.closed).remove(repository);
        }
        if write && let Err(error) = self.store.set_grant(repository, principal, now).await {
            tracing::error!(%repository, %error, "a right could not be written down; it holds until the next start");
        }
    }

    /// Upstream does not let `principal` read `repository` any more.
    pub(crate) async fn ended(&self, repository: &Repository, principal: Principal) -> bool {
        if !self.of(repository).await.iter().any(|(known, ..)| *known == principal) {
            return false;
        }
        lock(&self.proofs).get_mut(repository).map(|proofs| proofs.remove(&principal));
        tracing::info!(%repository, principal = principal.kind.label(), "a right has ended: upstream refused it");
        if let Err(error) = self.store.remove_grant(repository, principal).await {
            tracing::error!(%repository, %error, "a right that ended could not be removed from disk");
        }
        true
    }

    /// Ends every right to a repository, or to all.
    pub(crate) async fn revoke(&self, repository: Option<&Repository>) -> Result<usize, crate::store::Error> {
        let clear = || match repository {
            Some(repository) => drop(lock(&self.proofs).remove(repository)),
            None => lock(&self.proofs).clear(),
        };
        clear();
        let count = self.store.revoke(repository).await?;
        // Whoever read the files just before they went must not have brought them back.
        clear();
        Ok(count)
    }

    /// A no that was given a moment ago to the same question of the same principal.
    pub(crate) fn recent_no(&self, key: &Question) -> Option<Error> {
        let noes = lock(&self.noes);
        noes.get(key).filter(|(at, _)| at.elapsed() < self.negative_ttl).map(|(_, error)| error.clone())
    }

    /// It is to be asked again.
    pub(crate) fn forget_no(&self, key: &Question) {
        lock(&self.noes).remove(key);
    }

    /// Remembers a no for a moment.
    pub(crate) fn said_no(&self, key: Question, error: Error) {
        // Lists are many questions, and asked rarely.
        if self.negative_ttl.is_zero() || key.1 == Subject::List {
            return;
        }
        let mut noes = lock(&self.noes);
        if noes.len() >= NOES_MAX {
            noes.retain(|_, (at, _)| at.elapsed() < self.negative_ttl);
        }
        if noes.len() >= NOES_MAX {
            noes.clear();
        }
        noes.insert(key, (Instant::now(), error));
    }

    /// Neither the node nor an anonymous caller may read `repository`.
    pub(crate) fn closed(&self, repository: &Repository) {
        let now = Instant::now();
        let mut closed = lock(&self.closed);
        make_room(&mut closed, REPOSITORIES_MAX, repository);
        closed.insert(repository.clone(), Closed { since: now, probed: now });
    }

    /// What is known of it.
    pub(crate) fn door(&self, repository: &Repository) -> Door {
        let mut closed = lock(&self.closed);
        match closed.get_mut(repository) {
            Some(door) if door.since.elapsed() < CLOSED_FOR => {
                if door.probed.elapsed() < REPROBE_EVERY {
                    return Door::Closed;
                }
                door.probed = Instant::now();
                Door::ClosedProbe
            }
            _ => Door::Unknown,
        }
    }

    /// An outage of `registry` is noticed; returns how long it has lasted, over restarts too.
    pub(crate) async fn outage(&self, registry: &Registry) -> Duration {
        let now = self.store.clock().now();
        let known = lock(&self.outages).get(registry).copied();
        let since = match known {
            Some(Some(since)) => since,
            // It was well a moment ago.
            Some(None) => now,
            // Not asked since the start: it may have been away before.
            None => self.store.outage(registry).await.filter(|since| *since <= now).unwrap_or(now),
        };
        if known.flatten().is_none() {
            let mut outages = lock(&self.outages);
            make_room(&mut outages, REPOSITORIES_MAX, registry);
            outages.insert(registry.clone(), Some(since));
        }
        if known.flatten().is_none()
            && let Err(error) = self.store.set_outage(registry, Some(since)).await
        {
            tracing::debug!(%registry, %error, "the start of an outage could not be written down");
        }
        self.show(registry, i64::try_from(since.0).unwrap_or(i64::MAX));
        since.age_at(now)
    }

    /// The outages that are noticed, and since when.
    pub(crate) fn outages(&self) -> Vec<(Registry, Timestamp)> {
        let away = |(registry, since): (&Registry, &Option<Timestamp>)| Some((registry.clone(), (*since)?));
        let mut all: Vec<_> = lock(&self.outages).iter().filter_map(away).collect();
        all.sort();
        all
    }

    /// `registry` answered.
    pub(crate) async fn answered(&self, registry: &Registry) {
        {
            let mut outages = lock(&self.outages);
            if outages.get(registry) == Some(&None) {
                return;
            }
            make_room(&mut outages, REPOSITORIES_MAX, registry);
            outages.insert(registry.clone(), None);
        }
        self.show(registry, 0);
        if let Err(error) = self.store.set_outage(registry, None).await {
            tracing::debug!(%registry, %error, "the end of an outage could not be written down");
        }
    }

    fn show(&self, registry: &Registry, since: i64) {
        self.labels
            .with(registry.as_str(), |label| self.metrics.outage.with_label_values(&[label]).set(since));
    }
}

/// Forgets everything when the map is full and the key is new: it costs questions, no rights.
fn make_room<K: Hash + Eq, V>(map: &mut HashMap<K, V>, max: usize, key: &K) {
    if map.len() >= max && !map.contains_key(key) {
        map.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
