//! Directories of content that could not be synced: what has got its name in them since, a power cut may take.
//!
//! A record must not name such content, in no later batch either. Each is synced again before something names content.
//! Not here: directories of records, which nothing names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::error::Error;

/// Directories and why they could not be synced.
pub(super) type Failed = BTreeMap<PathBuf, Error>;

/// Those of one store: `blobs`, what is in it, and what that is in. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Unsynced {
    content: Arc<Path>,
    failed: Arc<Mutex<Failed>>,
}

impl Unsynced {
    /// None yet; content is below this directory.
    pub(super) fn new(content: &Path) -> Self {
        Self { content: content.into(), failed: Arc::default() }
    }

    /// These could not be synced.
    pub(super) fn add(&self, failed: &Failed) {
        let of_content = |at: &Path| at.starts_with(&self.content) || self.content.starts_with(at);
        let added = failed.iter().filter(|(at, _)| of_content(at));
        self.failed.lock().extend(added.map(|(at, error)| (at.clone(), error.clone())));
    }

    /// Syncs each of them again; returns those where that fails. Blocks.
    pub(super) fn retry(&self, sync: impl Fn(&Path) -> Result<(), Error>) -> Failed {
        // Not locked while the disk works. What fails in another thread meanwhile is added to it.
        let before = self.failed.lock().clone();
        for at in before.keys() {
            if sync(at).is_ok() {
                self.failed.lock().remove(at);
            }
        }
        self.failed.lock().clone()
    }
}
