//! Whether there is room for a blob in the store: asked before upstream is, so that nothing is fetched for the store alone
//! that it would not take.

use crate::pull::config::Config;
use crate::reference::Registry;
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

    /// Whether the operator named the registry.
    pub(crate) fn is_named(&self, registry: &Registry) -> bool {
        self.config.current().is_named(registry)
    }

    /// For whom content of a registry is stored: one that the operator did not name takes at most its share.
    pub(crate) fn owner(&self, registry: &Registry) -> Owner {
        if self.is_named(registry) { Owner::unlimited(registry) } else { Owner::limited(registry) }
    }

    /// Whether `bytes` of a registry could be stored now; one byte where it is not known how many there will be.
    ///
    /// # Errors
    /// Why they could not.
    pub(crate) async fn check(&self, registry: &Registry, bytes: Option<u64>) -> Result<(), Error> {
        self.store.check_room(self.owner(registry), bytes.unwrap_or(1)).await
    }
}
