//! The open blobs: each opened once, with one copy of its checksums, for all its readers and those that come soon
//! after.
//!
//! What was opened a moment ago is kept open, within bounds, so that the next reader of a small blob costs no trip to
//! another thread. A blob that is kept open is not in use: it may be evicted, and then is closed. One whose file was
//! removed, replaced or written to by another program is opened anew.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::reference::Digest;
use crate::store::read::blob::{Blob, OpenFile, SharedFile, WeakFile};
use crate::store::read::in_use::{InUse, InUseMark};
use crate::store::read::limits::ReadLimits;
use crate::store::read::removals::Removals;
use crate::support::bounded_map::BoundedMap;

/// Blobs that are kept open: a quarter of the descriptors that are reserved for what is not a client.
const KEPT_MAX: usize = 64;
/// Blobs that are kept open besides because their checksums could not be written: the next reader would hash them
/// again.
const UNWRITTEN_MAX: usize = 16;

/// Open blobs by digest.
#[derive(Debug)]
pub(in crate::store) struct OpenBlobs {
    in_use: InUse,
    open: Mutex<Open>,
    removals: Removals,
    limits: ReadLimits,
}

#[derive(Debug)]
struct Open {
    /// Those that are being read. Entries that are closed are dropped when there are as many as `shared_max`, twice as
    /// many as were open at the last time.
    shared: HashMap<Digest, WeakFile>,
    shared_max: usize,
    kept: BoundedMap<Digest, SharedFile>,
    unwritten: BoundedMap<Digest, SharedFile>,
}

impl Open {
    /// The checksums of all that are kept are 4 MiB: only a blob of more than 1 GiB whose checksums could not be
    /// written has more than `limits` say, and is kept among [`UNWRITTEN_MAX`].
    fn keep(&mut self, file: SharedFile, limits: &ReadLimits) {
        if file.has_unwritten_checksums() {
            self.unwritten.insert(file.digest(), file);
            let bytes_of = |kept: &BoundedMap<Digest, SharedFile>| -> u64 {
                kept.iter().map(|(_, file)| file.checksum_bytes()).sum()
            };
            while bytes_of(&self.unwritten) > limits.unwritten_checksum_bytes
                && self.unwritten.remove_oldest().is_some()
            {}
        } else if file.checksum_bytes() <= limits.whole_checksum_bytes {
            self.kept.insert(file.digest(), file);
        }
    }

    fn find(&mut self, digest: &Digest) -> Option<SharedFile> {
        let kept = self.kept.get(digest).or(self.unwritten.get(digest));
        kept.cloned().or_else(|| self.shared.get(digest)?.upgrade())
    }

    fn forget(&mut self, digest: &Digest) {
        self.shared.remove(digest);
        self.kept.remove(digest);
        self.unwritten.remove(digest);
    }

    fn is_shared(&self, file: &SharedFile) -> bool {
        self.shared.get(&file.digest()).is_some_and(|shared| shared.is_same(file))
    }
}

impl OpenBlobs {
    /// No blobs; each that is handed out is marked in `in_use`.
    pub(in crate::store) fn new(in_use: InUse, limits: ReadLimits) -> Self {
        let (kept, unwritten) = (BoundedMap::new(KEPT_MAX), BoundedMap::new(UNWRITTEN_MAX));
        let open = Open { shared: HashMap::new(), shared_max: KEPT_MAX, kept, unwritten };
        Self { in_use, open: Mutex::new(open), removals: Removals::new(), limits }
    }

    /// Within which they are opened.
    pub(in crate::store) fn limits(&self) -> ReadLimits {
        self.limits
    }

    /// The blobs that have left the store since its start.
    pub(in crate::store) fn removals(&self) -> &Removals {
        &self.removals
    }

    /// The blobs that are being read.
    pub(in crate::store) fn in_use(&self) -> Vec<Digest> {
        self.in_use.digests()
    }

    /// Marks a blob as being read, also before it exists.
    pub(in crate::store) fn mark_in_use(&self, digest: &Digest) -> InUseMark {
        self.in_use.mark(*digest)
    }

    /// Whether a blob is being read.
    pub(in crate::store) fn is_in_use(&self, digest: &Digest) -> bool {
        self.in_use.contains(digest)
    }

    /// A blob that is open, and still the file that was opened.
    pub(in crate::store) fn find(&self, digest: &Digest) -> Option<Blob> {
        // Before the file is looked at, so that it is not evicted in between.
        let in_use = self.in_use.mark(*digest);
        let file = self.open.lock().find(digest)?;
        if file.is_unchanged() {
            return Some(Blob::new(file, in_use));
        }
        let mut open = self.open.lock();
        if open.is_shared(&file) {
            open.forget(digest);
        }
        None
    }

    /// Shares a blob with the readers to come, and keeps it open for a while.
    pub(in crate::store) fn insert(&self, file: OpenFile) -> Blob {
        let in_use = self.in_use.mark(file.digest());
        let file = SharedFile::new(file);
        let mut open = self.open.lock();
        if open.shared.len() >= open.shared_max {
            open.shared.retain(|_, file| file.is_open());
            open.shared_max = 2 * open.shared.len().max(KEPT_MAX);
        }
        open.shared.insert(file.digest(), file.downgrade());
        open.keep(file.clone(), &self.limits);
        drop(open);
        // Removed or replaced since it was opened, and forgotten before it was kept: it would stay on disk.
        if !file.is_unchanged() {
            let mut open = self.open.lock();
            if open.is_shared(&file) {
                open.forget(&file.digest());
            }
        }
        Blob::new(file, in_use)
    }

    /// Shares this blob with no further reader; `false` if that had ended before.
    pub(in crate::store) fn remove(&self, blob: &Blob) -> bool {
        let mut open = self.open.lock();
        let is_shared = open.is_shared(blob.file());
        if is_shared {
            open.forget(&blob.digest());
        }
        is_shared
    }

    /// Shares no blob of that digest with further readers: they open the file that is there by then.
    pub(in crate::store) fn forget(&self, digest: &Digest) {
        self.open.lock().forget(digest);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::reference::Algorithm;
    use crate::store::for_tests::SMALL;
    use crate::store::integrity::CHUNK;
    use crate::store::layout::Layout;
    use crate::store::read::blob::Opened;

    fn layout(directory: &tempfile::TempDir) -> Layout {
        let layout = Layout::new(directory.path());
        for directory in [layout.blobs(Algorithm::Sha256), layout.ingest()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        layout
    }

    fn open(layout: &Layout, content: &[u8]) -> OpenFile {
        let digest = Digest::of(content);
        std::fs::write(layout.blob(&digest), content).unwrap();
        let calls = layout.calls();
        match OpenFile::open(layout, &digest, SMALL, |_| false, Some(&mut calls.begin_read())).unwrap() {
            Opened::File(file) => file,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_blob_is_shared_until_it_is_replaced_and_one_that_no_reader_has_may_be_evicted() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let digest = Digest::of(b"x");
        let in_use = InUse::default();
        let shared = OpenBlobs::new(in_use.clone(), SMALL);
        let old = shared.insert(open(&layout, b"x"));
        assert_eq!(shared.find(&digest).map(|blob| blob.size()), Some(1));
        let new = shared.insert(open(&layout, b"x"));
        assert!(!shared.remove(&old), "an old reader does not end the sharing of what replaced its blob");
        assert!(in_use.contains(&digest));
        drop((old, new));
        assert!(!in_use.contains(&digest));
        let again = shared.find(&digest).unwrap();
        assert!(in_use.contains(&digest));
        assert!(shared.remove(&again) && !shared.remove(&again));
        assert!(shared.find(&digest).is_none() && in_use.contains(&digest));
        drop(again);
        assert!(!in_use.contains(&digest), "a search in vain leaves no mark");
    }

    #[test]
    fn a_file_that_was_removed_or_written_to_since_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let shared = OpenBlobs::new(InUse::default(), SMALL);
        let changes: [fn(PathBuf); 2] =
            [|path| std::fs::remove_file(path).unwrap(), |path| std::fs::write(path, b"longer").unwrap()];
        for change in changes {
            let digest = shared.insert(open(&layout, b"x")).digest();
            assert!(shared.find(&digest).is_some());
            change(layout.blob(&digest));
            assert!(shared.find(&digest).is_none());
        }
    }

    #[test]
    fn what_is_kept_open_is_bounded_in_files_and_in_checksums() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let shared = OpenBlobs::new(InUse::default(), SMALL);
        for n in 0..2 * KEPT_MAX {
            drop(shared.insert(open(&layout, &n.to_le_bytes())));
        }
        let found = (0..2 * KEPT_MAX).filter(|n| shared.find(&Digest::of(&n.to_le_bytes())).is_some());
        assert_eq!(found.count(), KEPT_MAX);
        // A blob whose checksums could not be written has all of them in memory, and would be hashed again.
        std::fs::remove_dir_all(directory.path().join("checks")).unwrap();
        std::fs::write(directory.path().join("checks"), "in the way").unwrap();
        std::fs::write(layout.quarantine(), "so that it cannot be moved").unwrap();
        let large = vec![0; (SMALL.whole_checksum_bytes as usize / 4 + 1) * CHUNK];
        drop(shared.insert(open(&layout, &large)));
        assert!(shared.find(&Digest::of(&large)).is_some(), "no client reads it");
        for n in 0..UNWRITTEN_MAX {
            drop(shared.insert(open(&layout, format!("unwritten {n}").as_bytes())));
        }
        assert!(shared.find(&Digest::of(&large)).is_none(), "no more are kept");
    }
}
