//! Whether there is room for a blob in the store: asked before upstream is, so that nothing is fetched for the store
//! alone that it would not take.

use crate::pull::blob::places::Holder;
use crate::pull::config::Config;
use crate::pull::context::Priority;
use crate::reference::{Digest, Registry};
use crate::store::{Error, Owner, Store};
use crate::support::live::Live;

/// Room in the store by registry. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Room {
    config: Live<Config>,
    store: Store,
}

impl Room {
    pub(crate) fn new(config: Live<Config>, store: Store) -> Self {
        Self { config, store }
    }

    /// For whom content of a registry is stored: one that the operator did not name takes at most its share.
    pub(crate) fn owner(&self, registry: &Registry) -> Owner {
        match self.config.current().is_named(registry) {
            true => Owner::named(registry),
            false => Owner::limited(registry),
        }
    }

    /// For whom memory is taken that content of a registry needs on its way into the store.
    pub(crate) fn holder(&self, registry: &Registry) -> Holder {
        Holder::of(registry, &self.config.current())
    }

    /// Whether a blob of `bytes` would be passed by, if a client asked for it: it is large, asked for the first time,
    /// and would take the place of others.
    pub(crate) async fn is_passed_by(&self, digest: Digest, bytes: u64) -> bool {
        self.store.is_passed_by(digest, bytes).await
    }

    /// Why a blob of `bytes` that is asked for is not to be stored although there may be room: as
    /// [`Room::is_passed_by`], and it is remembered that a client asked for it. What the operator wants in the store is
    /// stored. What is fetched ahead of a client is judged as its pull would be, and remembered only with that.
    pub(crate) async fn judge_request(
        &self,
        priority: Priority,
        digest: Digest,
        bytes: Option<u64>,
    ) -> Option<Error> {
        let needed = bytes?;
        let is_passed_by = match priority {
            Priority::Foreground => self.store.pass_by_unless_asked_before(digest, needed).await,
            Priority::Ahead => self.store.is_passed_by(digest, needed).await,
            Priority::Background => false,
        };
        is_passed_by.then_some(Error::PassedBy { needed })
    }

    /// Whether `bytes` of a registry could be stored now; one byte where it is not known how many there will be.
    ///
    /// # Errors
    /// Why they could not.
    pub(crate) async fn check(&self, registry: &Registry, bytes: Option<u64>) -> Result<(), Error> {
        self.store.check_room(self.owner(registry), bytes.unwrap_or(1)).await
    }
}
