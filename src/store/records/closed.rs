//! Marks of rights that ended: when the registry refused everyone access to a repository, and when the operator revoked
//! rights. A right that another node shared has to be newer.
//!
//! Promises: a mark outlives a restart and a power cut. A mark that cannot be read counts as one of now: it may be one.
//! Bounded by the caller, who marks only what has records here or in the shared tier.

use std::path::Path;

use super::{Records, file};
use crate::reference::Repository;
use crate::store::disk::blocking;
use crate::store::error::Error;
use crate::store::layout;
use crate::support::clock::Timestamp;

impl Records {
    /// When everyone's right to `repository` last ended, if that was marked.
    pub async fn closed_at(&self, repository: &Repository) -> Option<Timestamp> {
        let (this, repository) = (self.clone(), repository.clone());
        let now = self.clock.now();
        let find = move || {
            let [of_one, of_all] =
                [this.layout.closed(&repository), this.layout.all_closed()].map(|path| mark_at(&path, now));
            of_one.max(of_all)
        };
        blocking::read(self.layout.calls(), move |_| find()).await.unwrap_or(Some(now))
    }

    /// Marks that everyone's right to `repository` has ended, or to all repositories.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_closed(&self, repository: Option<&Repository>, at: Timestamp) -> Result<(), Error> {
        let (this, repository) = (self.clone(), repository.cloned());
        let write = move || {
            let path = repository
                .map_or_else(|| this.layout.all_closed(), |repository| this.layout.closed(&repository));
            file::write(&this.layout, &path, &at)
        };
        self.writes.run_surely(write).await
    }

    /// Whether the store has any record of `repository`.
    pub async fn has_any(&self, repository: &Repository) -> bool {
        let directory = self.layout.marked(repository, "");
        // What the disk does not say may be one.
        blocking::read(self.layout.calls(), move |_| directory.is_dir()).await.unwrap_or(true)
    }
}

fn mark_at(path: &Path, now: Timestamp) -> Option<Timestamp> {
    match layout::open_regular(path) {
        Ok(None) => None,
        _ => Some(file::read(path).unwrap_or(now)),
    }
}
