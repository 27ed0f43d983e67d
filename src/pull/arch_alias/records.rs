//! What is remembered of arch aliases: which names upstream does not have, the indexes that were synthesized, and which
//! alias a name's last manifest came from.
//!
//! Promises: what was answered by an alias can be answered again in an outage, after a restart too. Only what was of
//! use is written down, so that clients that ask for ever new names leave nothing on the disk. The disk may fail: then
//! memory has it. Bounded; what was used longest ago goes first.

use parking_lot::Mutex;

use crate::pull::error::{Error, Fault};
use crate::reference::{Digest, Repository, Tag};
use crate::store::{Records, SynthesizedIndex};
use crate::support::bounded_map::BoundedMap;

/// Entries of each kind in memory at most.
const ENTRIES_MAX: usize = 1_024;

/// The records, in memory and in the store.
pub(crate) struct AliasRecords {
    records: Records,
    indexes: Mutex<BoundedMap<(Repository, Digest), SynthesizedIndex>>,
    absent: Mutex<BoundedMap<(Repository, Tag), ()>>,
    /// The alias that the last manifest of a name came from: its blobs are there too.
    last: Mutex<BoundedMap<Repository, Repository>>,
}

impl AliasRecords {
    pub(crate) fn new(records: Records) -> Self {
        Self {
            records,
            indexes: Mutex::new(BoundedMap::new(ENTRIES_MAX)),
            absent: Mutex::new(BoundedMap::new(ENTRIES_MAX)),
            last: Mutex::new(BoundedMap::new(ENTRIES_MAX)),
        }
    }

    /// Whether upstream does not have a name, by what it answers now, or answered before it could not be asked any
    /// more.
    pub(crate) async fn is_absent(&self, repository: &Repository, tag: &Tag, error: &Error) -> bool {
        match error.fault() {
            Fault::NotFound => {
                self.absent.lock().insert((repository.clone(), tag.clone()), ());
                true
            }
            // It is absent to this caller; to another it may be there.
            Fault::Refused(_) | Fault::AuthenticationRequired => true,
            Fault::Outage => {
                let known = self.is_known_absent(repository, tag);
                self.records.is_absent_upstream(repository, tag).await
                    // Not if the tag was pulled since.
                    || known && self.records.tag(repository, tag).await.is_none()
            }
            Fault::Declined | Fault::Query | Fault::Invalid | Fault::Ours => false,
        }
    }

    fn is_known_absent(&self, repository: &Repository, tag: &Tag) -> bool {
        self.absent.lock().get(&(repository.clone(), tag.clone())).is_some()
    }

    /// An alias answered for a name: that upstream does not have the name is written down, if upstream said so.
    pub(crate) async fn answered(&self, repository: &Repository, tag: &Tag) {
        if self.is_known_absent(repository, tag)
            && let Err(error) = self.records.set_absent_upstream(repository, tag).await
        {
            tracing::error!(%repository, %tag, %error, "an absent name could not be recorded");
        }
    }

    /// An index that was synthesized for a repository.
    pub(crate) async fn index(&self, repository: &Repository, digest: Digest) -> Option<SynthesizedIndex> {
        let known = self.indexes.lock().get(&(repository.clone(), digest)).cloned();
        match known {
            Some(known) => Some(known),
            None => self.records.synthesized_index(repository, digest).await,
        }
    }

    /// Records an index that was synthesized for a repository, and returns its digest.
    pub(crate) async fn record_index(&self, repository: &Repository, index: SynthesizedIndex) -> Digest {
        let digest = Digest::of(&index.bytes);
        if let Err(error) = self.records.set_synthesized_index(repository, &index).await {
            tracing::error!(%repository, %digest, %error, "a synthesized index could not be recorded");
        }
        self.indexes.lock().insert((repository.clone(), digest), index);
        digest
    }

    /// The aliases of a name, the one that its last manifest came from first.
    pub(crate) fn likely_first(
        &self,
        repository: &Repository,
        mut aliases: Vec<Repository>,
    ) -> Vec<Repository> {
        let last = self.last.lock().get(repository).cloned();
        aliases.sort_by_key(|alias| Some(alias) != last.as_ref());
        aliases
    }

    /// Records which alias a manifest of a name came from.
    pub(crate) fn came_from(&self, repository: &Repository, alias: Repository) {
        self.last.lock().insert(repository.clone(), alias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests;
    use crate::upstream;

    #[tokio::test]
    async fn a_name_is_absent_in_an_outage_only_if_upstream_said_so_before() {
        let (store, _clock, _directory) = for_tests::store();
        let records = AliasRecords::new(store.records().clone());
        let (app, tag): (Repository, Tag) = ("reg.test/app".parse().unwrap(), "v1".parse().unwrap());
        let host = || "reg.test:443".to_owned();
        let outage =
            Error::Upstream(upstream::Error::ServerError { host: host(), status: 503, retry_after: None });
        let gone =
            upstream::Error::NotFound { host: host(), unknown: upstream::Unknown::Unsaid, public: false };
        assert!(!records.is_absent(&app, &tag, &outage).await);
        assert!(records.is_absent(&app, &tag, &gone.into()).await);
        assert!(records.is_absent(&app, &tag, &outage).await);
        assert!(!records.is_absent(&app, &tag, &Error::NotStored(None)).await);
    }
}
