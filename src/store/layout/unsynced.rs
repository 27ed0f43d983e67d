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
pub(in crate::store) type Failed = BTreeMap<PathBuf, Error>;

/// Those of one store: `blobs`, what is in it, and what that is in. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(in crate::store) struct Unsynced {
    content: Arc<Path>,
    failed: Arc<Mutex<Failures>>,
}

/// Each with a number of its own: one that failed again is another failure.
#[derive(Debug, Default)]
struct Failures {
    at: BTreeMap<PathBuf, (Error, u64)>,
    count: u64,
}

impl Unsynced {
    /// None yet; content is below this directory.
    pub(in crate::store) fn new(content: &Path) -> Self {
        Self { content: content.into(), failed: Arc::default() }
    }

    /// These could not be synced.
    pub(in crate::store) fn add(&self, failed: &Failed) {
        let of_content = |at: &Path| at.starts_with(&self.content) || self.content.starts_with(at);
        let mut failures = self.failed.lock();
        for (at, error) in failed.iter().filter(|(at, _)| of_content(at)) {
            failures.count += 1;
            let failure = (error.clone(), failures.count);
            failures.at.insert(at.clone(), failure);
        }
    }

    /// Syncs each of them again; returns those where that fails. Blocks.
    pub(super) fn retry(&self, sync: impl Fn(&Path) -> Result<(), Error>) -> Failed {
        // Not locked while the disk works. What fails in another thread meanwhile is added to it, and is not undone by
        // a sync that went well before.
        let before: Vec<_> =
            self.failed.lock().at.iter().map(|(at, (_, number))| (at.clone(), *number)).collect();
        for (at, number) in before {
            if sync(&at).is_ok() {
                let failures = &mut self.failed.lock().at;
                if failures.get(&at).is_some_and(|(_, newest)| *newest == number) {
                    failures.remove(&at);
                }
            }
        }
        self.failed.lock().at.iter().map(|(at, (error, _))| (at.clone(), error.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_fails_in_another_thread_while_it_is_synced_again_stays_unsynced() {
        let content = Path::new("/store/blobs");
        let (unsynced, at) = (Unsynced::new(content), content.join("sha256"));
        let failed = Failed::from([(at.clone(), Error::Closed), ("/store/refs".into(), Error::Closed)]);
        unsynced.add(&failed);
        let fails_meanwhile = |_: &Path| {
            unsynced.add(&failed);
            Ok(())
        };
        assert!(unsynced.retry(fails_meanwhile).keys().eq([&at]));
        assert!(unsynced.retry(|_| Err(Error::Closed)).keys().eq([&at]));
        assert!(unsynced.retry(|_| Ok(())).is_empty());
    }
}
