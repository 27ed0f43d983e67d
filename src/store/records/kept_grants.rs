//! Grants as the records keep them: on disk beside the content that they open, else in memory (`deferred_grants`).

use super::Records;
use super::grants;
use crate::reference::{Principal, Repository};
use crate::store::disk::blocking;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::layout::batch::{End, Outcome};
use crate::store::layout::write_behind::Place;
use crate::support::clock::Timestamp;

impl Records {
    /// The principals that upstream let read `repository`, and when it last did; `None` if the disk does not say.
    pub async fn grants(&self, repository: &Repository) -> Option<Vec<(Principal, Timestamp)>> {
        let (this, repository) = (self.clone(), repository.clone());
        let find = move || {
            // First what is not on the disk: it leaves the memory when it is there.
            let deferred = this.deferred_grants.of(&repository);
            let mut all = grants::all(&this.layout, &repository);
            let is_on_disk = |principal: &Principal| all.iter().any(|(other, _)| other == principal);
            let more: Vec<_> = deferred.into_iter().filter(|(one, _)| !is_on_disk(one)).collect();
            all.extend(more);
            Some(all)
        };
        blocking::find(self.layout.calls(), find).await
    }

    /// Records that upstream let `principal` read `repository` at `proved_at`, in a place behind what is being written
    /// already: the answer does not wait for the disk. A grant that is ended later does not return. It is on the disk
    /// once there is content of the repository that it opens.
    pub fn set_grant_later(
        &self,
        place: Place<'_>,
        repository: &Repository,
        principal: Principal,
        proved_at: Timestamp,
    ) {
        let (this, repository) = (self.clone(), repository.clone());
        let write = move |staging: &Layout| -> (Result<(), Error>, End) {
            this.deferred_grants.add(&repository, principal, proved_at);
            if !staging.names_content(&repository) {
                return (Ok(()), Box::new(|_| ()));
            }
            let written = this.stage_grants(staging, &repository);
            (Ok(()), Box::new(move |outcome| written.end(&outcome)))
        };
        place.stage(Box::new(write));
    }

    /// Stages by `staging` the grants on `repository` that are not on the disk yet. For the thread that writes alone.
    pub(in crate::store) fn stage_grants(&self, staging: &Layout, repository: &Repository) -> StagedGrants {
        let mut staged =
            StagedGrants { records: self.clone(), repository: repository.clone(), grants: vec![] };
        for (principal, at) in self.deferred_grants.of(repository) {
            match grants::set(staging, repository, &principal, at) {
                Ok(()) => staged.grants.push(principal),
                Err(error) => staged.log(&error),
            }
        }
        staged
    }

    /// Content of `repository` has been recorded, by another thread than the one that writes: its grants are to be on
    /// the disk too.
    pub(in crate::store) fn write_grants_later(&self, repository: &Repository) {
        if self.deferred_grants.of(repository).is_empty() {
            return;
        }
        let (this, repository) = (self.clone(), repository.clone());
        let write = move |staging: &Layout| -> (Result<(), Error>, End) {
            if !staging.names_content(&repository) {
                return (Ok(()), Box::new(|_| ()));
            }
            let written = this.stage_grants(staging, &repository);
            (Ok(()), Box::new(move |outcome| written.end(&outcome)))
        };
        // Without a place they are written with what is recorded next.
        if let Some(place) = self.writes.place_now() {
            place.stage(Box::new(write));
        }
    }

    /// Ends the grant of `principal` on `repository`, durably, also if the caller gives up: there is one for each grant
    /// that ends.
    ///
    /// # Errors
    /// The disk. [`Error::Hangs`]: it ends when the disk goes on.
    pub async fn remove_grant(&self, repository: &Repository, principal: Principal) -> Result<(), Error> {
        let (this, repository) = (self.clone(), repository.clone());
        let remove = move || {
            this.deferred_grants.remove(&repository, &principal);
            grants::remove(&this.layout, &repository, &principal)
        };
        self.writes.run_surely(remove).await
    }

    /// Ends every grant on `repository`, or on all repositories, also if the caller gives up; returns how many there
    /// were. `done` is called when none is left.
    ///
    /// # Errors
    /// The disk; some grants may have ended before. [`Error::Hangs`]: they end when it goes on.
    pub async fn revoke(
        &self,
        repository: Option<&Repository>,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<usize, Error> {
        let (this, repository) = (self.clone(), repository.cloned());
        let remove = move || {
            let deferred = this.deferred_grants.clear(repository.as_ref());
            let removed = match repository {
                Some(repository) => grants::remove_of(&this.layout, &repository),
                None => grants::remove_all(&this.layout),
            }?;
            done();
            Ok(deferred + removed)
        };
        self.writes.run_surely(remove).await
    }
}

/// Grants that are being written.
pub(in crate::store) struct StagedGrants {
    records: Records,
    repository: Repository,
    grants: Vec<Principal>,
}

impl StagedGrants {
    /// What became of them. Those that could not be written are kept in memory, and are written with what is recorded
    /// next.
    pub(in crate::store) fn end(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Durable | Outcome::Fragile(_) => {
                let deferred = &self.records.deferred_grants;
                self.grants.iter().for_each(|principal| deferred.remove(&self.repository, principal));
            }
            Outcome::Failed(error) if !self.grants.is_empty() => self.log(error),
            Outcome::Failed(_) | Outcome::NamesNothing => {}
        }
    }

    fn log(&self, error: &Error) {
        let (repository, cause) = (&self.repository, error.cause());
        tracing::error!(%repository, %error, cause, "a grant could not be written to disk; it may hold until the next start only");
    }
}
