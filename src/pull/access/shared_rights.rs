//! Rights and memberships that other nodes shared for an outage, held in memory for as long as the outage lasts.
//!
//! Promises: only everyone's right is held; it ends when the registry answers, when the registry refuses the repository
//! or the operator revokes rights, and `outage_grace` after its proof. An end is remembered, on disk too, and a right
//! that is to be held has to have been proved after it, by more than clocks may differ. Nothing here is fresh: the
//! registry is asked first, every time.
//!
//! Deliberately not here: what nodes share, and how it is sealed ([`crate::pull::shared_names`]).

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;

use crate::reference::{Digest, Registry, Repository, Tag};
use crate::store::{self, Records};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;

/// Repositories whose rights are held, or have ended, in memory at most.
const REPOSITORIES_MAX: usize = 8_192;
/// Memberships held at most; one that is forgotten is read from the tier again.
const MEMBERS_MAX: usize = 16_384;
/// Tags that are gone, remembered at most; of one that is forgotten what another node shared may count.
const GONE_MAX: usize = 4_096;
/// How much the clocks of two nodes may differ.
const CLOCKS_DIFFER_SECONDS_MAX: u64 = 300;

/// What is to be done when a registry refuses everyone a repository.
type OnClosed = Box<dyn Fn(&Repository, Timestamp) + Send + Sync>;

struct State {
    /// When everyone's right was proved to another node.
    held: BoundedMap<Repository, Timestamp>,
    members: BoundedMap<(Repository, Digest), ()>,
    /// When a right last ended, as this process saw it.
    ended: BoundedMap<Repository, Timestamp>,
    /// When the rights to all repositories last ended, as this process saw it.
    all_ended: Option<Timestamp>,
    /// When a registry said that it does not have a tag any more.
    gone: BoundedMap<(Repository, Tag), Timestamp>,
}

/// What other nodes shared for an outage.
pub(crate) struct SharedRights {
    records: Records,
    state: Mutex<State>,
    on_closed: OnceLock<OnClosed>,
}

impl State {
    fn has_ended(&self, repository: &Repository, proved_at: Timestamp) -> bool {
        let ended = self.ended.peek(repository).copied().max(self.all_ended);
        ended.is_some_and(|ended| is_older(proved_at, ended))
    }

    fn end(&mut self, repository: &Repository, at: Timestamp) {
        self.held.remove(repository);
        self.members.retain(|(of, _), ()| of != repository);
        self.ended.insert(repository.clone(), at);
    }
}

/// Whether a right that was proved at one time may be one from before another time.
pub(crate) fn is_older(proved_at: Timestamp, ended: Timestamp) -> bool {
    proved_at.0 <= ended.0.saturating_add(CLOCKS_DIFFER_SECONDS_MAX)
}

impl SharedRights {
    pub(crate) fn new(records: Records) -> Self {
        let state = State {
            held: BoundedMap::new(REPOSITORIES_MAX),
            members: BoundedMap::new(MEMBERS_MAX),
            ended: BoundedMap::new(REPOSITORIES_MAX),
            all_ended: None,
            gone: BoundedMap::new(GONE_MAX),
        };
        Self { records, state: Mutex::new(state), on_closed: OnceLock::new() }
    }

    /// Calls `on_closed` whenever a registry refuses everyone a repository. Only the first call counts.
    pub(crate) fn on_closed(&self, on_closed: impl Fn(&Repository, Timestamp) + Send + Sync + 'static) {
        let _ = self.on_closed.set(Box::new(on_closed));
    }

    /// Holds everyone's right to a repository, which was proved to another node, for the outage that its registry is
    /// in. Returns whether it is held: not if a right ended here after that proof.
    pub(crate) async fn hold(&self, repository: &Repository, proved_at: Timestamp) -> bool {
        let closed = self.records.closed_at(repository).await;
        if closed.is_some_and(|closed| is_older(proved_at, closed)) {
            return false;
        }
        let mut state = self.state.lock();
        if state.has_ended(repository, proved_at) {
            return false;
        }
        state.held.insert(repository.clone(), proved_at);
        true
    }

    /// Holds a membership of a repository whose right is held.
    pub(crate) fn hold_member(&self, repository: &Repository, digest: Digest) {
        let mut state = self.state.lock();
        if state.held.peek(repository).is_some() {
            state.members.insert((repository.clone(), digest), ());
        }
    }

    /// When everyone's right to a repository was proved that is held here, if that is less than `grace` ago.
    pub(crate) fn held(&self, repository: &Repository, grace: Duration) -> Option<Timestamp> {
        let proved_at = self.state.lock().held.peek(repository).copied()?;
        (proved_at.age_at(self.records.clock().now()) < grace).then_some(proved_at)
    }

    /// Whether a membership is held here. A right it is not.
    pub(crate) fn is_member(&self, repository: &Repository, digest: Digest) -> bool {
        self.state.lock().members.peek(&(repository.clone(), digest)).is_some()
    }

    /// Records that the registry does not have a tag any more.
    pub(crate) fn forget(&self, repository: &Repository, tag: &Tag, at: Timestamp) {
        self.state.lock().gone.insert((repository.clone(), tag.clone()), at);
    }

    /// Records that the registry has a tag.
    pub(crate) fn begin_again(&self, repository: &Repository, tag: &Tag) {
        self.state.lock().gone.remove(&(repository.clone(), tag.clone()));
    }

    /// Whether the registry said after `shared_at`, or about then, that it does not have a tag any more.
    pub(crate) fn is_gone(&self, repository: &Repository, tag: &Tag, shared_at: Timestamp) -> bool {
        let gone = self.state.lock().gone.peek(&(repository.clone(), tag.clone())).copied();
        gone.is_some_and(|gone| is_older(shared_at, gone))
    }

    /// Records that a registry answered: nothing is held of its repositories any more.
    pub(super) fn answered(&self, registry: &Registry) {
        let mut state = self.state.lock();
        if !state.held.is_empty() {
            state.held.retain(|repository, _| repository.registry() != registry);
            state.members.retain(|(repository, _), ()| repository.registry() != registry);
        }
    }

    /// Records that a registry refused everyone a repository. That it refuses one credential says nothing of what is
    /// everyone's.
    pub(super) fn close(&self, repository: &Repository) {
        let now = self.records.clock().now();
        self.state.lock().end(repository, now);
        if let Some(on_closed) = self.on_closed.get() {
            on_closed(repository, now);
        }
    }

    /// Records that the operator revoked the rights to a repository, or to all; on disk only where nodes share rights.
    ///
    /// # Errors
    /// The disk.
    pub(super) async fn revoke(&self, repository: Option<&Repository>) -> Result<(), store::Error> {
        let now = self.records.clock().now();
        {
            let mut state = self.state.lock();
            match repository {
                Some(repository) => state.end(repository, now),
                None => {
                    state.held.clear();
                    state.members.clear();
                    state.all_ended = Some(now);
                }
            }
        }
        match self.on_closed.get() {
            Some(_) => self.records.set_closed(repository, now).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests;

    const GRACE: Duration = Duration::from_secs(86_400);

    #[tokio::test]
    async fn a_right_that_ended_here_is_not_held_by_an_older_proof_of_another_node_after_a_restart_either() {
        let (store, clock, _directory) = for_tests::store();
        let [app, other]: [Repository; 2] =
            ["reg.test/app", "reg.test/other"].map(|name| name.parse().unwrap());
        let start = || {
            let rights = SharedRights::new(store.records().clone());
            rights.on_closed(|_, _| {});
            rights
        };
        let rights = start();
        let proved_at = clock.now();
        assert!(rights.hold(&app, proved_at).await && rights.held(&app, GRACE).is_some());
        rights.close(&app);
        assert!(rights.held(&app, GRACE).is_none());
        assert!(!rights.hold(&app, proved_at).await, "the registry refused it after that proof");
        assert!(rights.hold(&other, proved_at).await);
        rights.revoke(None).await.unwrap();
        assert!(rights.held(&other, GRACE).is_none());
        for rights in [&rights, &start()] {
            assert!(!rights.hold(&other, proved_at).await, "the operator revoked it");
        }
        clock.advance(Duration::from_secs(CLOCKS_DIFFER_SECONDS_MAX + 1));
        assert!(start().hold(&other, clock.now()).await, "the registry allowed it to another node since");
    }

    #[tokio::test]
    async fn a_right_of_another_node_ends_with_the_outage_and_with_the_grace() {
        let (store, clock, _directory) = for_tests::store();
        let app: Repository = "reg.test/app".parse().unwrap();
        let digest = Digest::of(b"x");
        let rights = SharedRights::new(store.records().clone());
        rights.hold_member(&app, digest);
        assert!(!rights.is_member(&app, digest), "without a right");
        assert!(rights.hold(&app, clock.now()).await);
        rights.hold_member(&app, digest);
        rights.answered(&"other.test".parse().unwrap());
        assert!(rights.held(&app, GRACE).is_some() && rights.is_member(&app, digest));
        clock.advance(GRACE);
        assert!(rights.held(&app, GRACE).is_none());
        rights.answered(app.registry());
        assert!(rights.held(&app, 2 * GRACE).is_none() && !rights.is_member(&app, digest));
    }
}
