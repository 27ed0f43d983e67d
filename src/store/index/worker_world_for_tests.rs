//! A worker over a directory of its own, and what a test asks of it.

use super::*;
use crate::store::read::limits::ReadLimits;

pub(super) struct World {
    pub(super) directory: tempfile::TempDir,
    pub(super) totals: Arc<SharedTotals>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) in_use: InUse,
    pub(super) pins: Pins,
}

impl World {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for directory in [layout.blobs(Algorithm::Sha256), layout.index(), layout.ingest()] {
            fs::create_dir_all(directory).unwrap();
        }
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        Self {
            directory,
            totals: Arc::new(SharedTotals::new(Arc::clone(&metrics))),
            metrics,
            clock: Clock::manual(Timestamp(1_000_000)),
            in_use: InUse::default(),
            pins: Pins::restore(layout),
        }
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::new(self.directory.path())
    }

    pub(super) fn worker(&self) -> Worker {
        Worker::open(Context {
            layout: self.layout(),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            totals: Arc::clone(&self.totals),
            open_blobs: Arc::new(OpenBlobs::new(self.in_use.clone(), ReadLimits::default())),
            pins: self.pins.clone(),
            is_late: Arc::default(),
        })
    }

    pub(super) fn blob(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        fs::write(self.layout().blob(&digest), content).unwrap();
        digest
    }

    pub(super) fn totals(&self) -> (u64, u64) {
        let Totals { blobs, bytes } = self.totals.current();
        (blobs, bytes)
    }
}

/// Bytes that are wanted whatever is free.
pub(super) struct Fixed(pub(super) Wanted);

impl Demand for Fixed {
    fn next(&mut self, _: Evictable<'_>) -> Option<Wanted> {
        Some(self.0).filter(|wanted| wanted.bytes > 0 || wanted.blobs > 0)
    }

    fn evicted(&mut self, batch: &Batch) {
        self.0.bytes = if batch.is_last { 0 } else { self.0.bytes.saturating_sub(batch.bytes) };
        self.0.blobs = if batch.is_last { 0 } else { self.0.blobs.saturating_sub(batch.blobs) };
    }
}

pub(super) fn demand(bytes: u64, only: Option<OwnerId>) -> Operation {
    Operation::Evict(Box::new(Fixed(Wanted { bytes, blobs: 0, only })))
}

pub(super) fn evict(worker: &mut Worker, bytes: u64, only: Option<OwnerId>) {
    worker.apply(demand(bytes, only));
    while worker.evict_batch() {}
}

pub(super) fn add(content: &[u8], size: u64) -> Operation {
    let owner = Owner::unlimited(&"reg.test".parse().unwrap());
    let reserved = Some(Reservations::default().reserve(owner, size));
    Operation::Add { digest: Digest::of(content), size, owner: owner.id, reserved }
}
