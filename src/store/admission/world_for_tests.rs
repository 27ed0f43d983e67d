//! A filesystem whose free bytes a test sets, and the index and admission over it.

use super::*;
use crate::store::read::limits::ReadLimits;

/// A filesystem of 10,000 bytes whose free bytes a test sets, and an index without an ingest.
pub(super) struct World {
    _directory: tempfile::TempDir,
    pub(super) layout: Layout,
    pub(super) free: Arc<AtomicU64>,
    pub(super) free_inodes: Arc<AtomicU64>,
    pub(super) in_use: InUse,
    pub(super) index: Index,
    pub(super) admission: Admission,
}

impl World {
    pub(super) fn new(budget: Budget) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for directory in [layout.blobs(Algorithm::Sha256), layout.index(), layout.ingest()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let clock = Clock::manual(Timestamp(1_000));
        let pins = Pins::restore(layout.clone());
        let in_use = InUse::default();
        let open_blobs = Arc::new(OpenBlobs::new(in_use.clone(), ReadLimits::default()));
        let index = Index::start(layout.clone(), clock, metrics, open_blobs, pins).unwrap();
        index.catch_up();
        let free = Arc::new(AtomicU64::new(9_000));
        let free_inodes = Arc::new(AtomicU64::new(1_000));
        let (probed, inodes) = (Arc::clone(&free), Arc::clone(&free_inodes));
        let probe: ProbeDisk = Box::new(move || {
            let inodes = Inodes { total: 1_000, free: inodes.load(Ordering::Relaxed) };
            Some(Disk { total: 10_000, free: probed.load(Ordering::Relaxed), inodes: Some(inodes) })
        });
        let gauge = Registry::new().gauge("store_quarantine_bytes", "of a test").unwrap();
        let quarantine = QuarantineFiles::new(layout.clone(), gauge);
        let admission = Admission::new(budget, probe, index.clone(), quarantine);
        Self { _directory: directory, layout, free, free_inodes, in_use, index, admission }
    }

    /// Commits a blob as an ingest does.
    pub(super) fn commit(&self, content: &[u8], reserved: Reservation) {
        let digest = Digest::of(content);
        std::fs::write(self.layout.blob(&digest), content).unwrap();
        self.index.add(digest, content.len() as u64, reserved.owner().id, Some(reserved));
        self.index.catch_up();
    }
}

pub(super) fn ours() -> Owner {
    Owner::unlimited(&"reg.test".parse().unwrap())
}

pub(super) fn stranger() -> Owner {
    Owner::limited(&"evil.test".parse().unwrap())
}

pub(super) fn budget(max: u64, min_free: u64) -> Budget {
    Budget { max: Amount::Bytes(max), min_free: Amount::Bytes(min_free) }
}
