//! The blobs that are being read, which must not be evicted under their readers.

use std::collections::HashMap;
use std::sync::Arc;

use crate::reference::Digest;
use crate::support::sync::Mutex;

/// How many handles each blob has that is being read. Bounded by the handles. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct InUse(Arc<Mutex<HashMap<Digest, usize>>>);

impl InUse {
    /// Marks a blob as being read until the mark is dropped. The blob need not exist.
    pub(in crate::store) fn mark(&self, digest: Digest) -> InUseMark {
        *self.0.lock().entry(digest).or_default() += 1;
        InUseMark { all: self.clone(), digest }
    }

    /// The blobs that are being read.
    pub(in crate::store) fn digests(&self) -> Vec<Digest> {
        self.0.lock().keys().copied().collect()
    }

    /// Whether a blob is being read.
    pub(in crate::store) fn contains(&self, digest: &Digest) -> bool {
        self.0.lock().contains_key(digest)
    }
}

/// While it lives, its blob is not evicted.
#[derive(Debug)]
pub(in crate::store) struct InUseMark {
    all: InUse,
    digest: Digest,
}

impl Drop for InUseMark {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_in_use_until_its_last_mark_is_dropped() {
        let in_use = InUse::default();
        let digest = Digest::of(b"x");
        let first = in_use.mark(digest);
        let second = in_use.mark(digest);
        drop(first);
        assert!(in_use.contains(&digest));
        drop(second);
        assert!(!in_use.contains(&digest));
    }
}
