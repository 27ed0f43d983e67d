//! The blobs that are being read: each opened once, with one copy of its checksums, for all its readers.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::reference::Digest;
use crate::store::blob::{Blob, WeakBlob};

/// Open blobs by digest. Entries without readers are dropped when the map would grow, so that it holds at most twice as
/// many as are being read.
#[derive(Debug, Default)]
pub(super) struct OpenBlobs(Mutex<HashMap<Digest, WeakBlob>>);

impl OpenBlobs {
    /// A blob that is being read.
    pub(super) fn find(&self, digest: &Digest) -> Option<Blob> {
        self.0.lock().get(digest)?.upgrade()
    }

    /// Shares a blob with the readers to come.
    pub(super) fn insert(&self, blob: &Blob) {
        let mut open = self.0.lock();
        if open.len() == open.capacity() {
            open.retain(|_, blob| blob.is_open());
        }
        open.insert(blob.digest(), blob.downgrade());
    }

    /// Shares this blob with no further reader; `false` if that had ended before.
    pub(super) fn remove(&self, blob: &Blob) -> bool {
        let mut open = self.0.lock();
        let is_shared = open.get(&blob.digest()).is_some_and(|shared| shared.is_same(blob));
        if is_shared {
            open.remove(&blob.digest());
        }
        is_shared
    }

    /// Shares no blob of that digest with further readers: they open the file that is there by then.
    pub(super) fn forget(&self, digest: &Digest) {
        self.0.lock().remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::blob::Opened;
    use crate::store::in_use::InUse;
    use crate::store::layout::Layout;

    #[test]
    fn a_blob_is_shared_while_it_is_read_and_not_after_it_was_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let digest = Digest::of(b"x");
        for directory in [layout.blobs(), layout.ingest()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::write(layout.blob(&digest), b"x").unwrap();
        let in_use = InUse::default();
        let open = || match Blob::open(&layout, &digest, &in_use, |_| false).unwrap() {
            Opened::Blob(blob) => blob,
            other => panic!("{other:?}"),
        };
        let shared = OpenBlobs::default();
        let old = open();
        shared.insert(&old);
        assert_eq!(shared.find(&digest).map(|blob| blob.size()), Some(1));
        let new = open();
        shared.insert(&new);
        assert!(!shared.remove(&old), "an old reader does not end the sharing of what replaced its blob");
        assert!(shared.find(&digest).is_some());
        assert!(shared.remove(&new) && !shared.remove(&new));
        shared.insert(&new);
        drop((old, new));
        assert!(shared.find(&digest).is_none() && !in_use.contains(&digest));
    }
}
