//! The parts of a store, each constructed from what it needs.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::admission::Admission;
use crate::store::blobs::Blobs;
use crate::store::budget::{Budget, Disk};
use crate::store::disk::health::Health;
use crate::store::error::Error;
use crate::store::index::Index;
use crate::store::inventory::Inventory;
use crate::store::layout::Layout;
use crate::store::maintenance::Maintenance;
use crate::store::maintenance::scrub::Scrubber;
use crate::store::metrics::Metrics;
use crate::store::open::{Lock, lock_and_prepare};
use crate::store::quarantine::files::QuarantineFiles;
use crate::store::read::in_use::InUse;
use crate::store::read::limits::ReadLimits;
use crate::store::read::open_blobs::OpenBlobs;
use crate::store::records::Records;
use crate::store::records::pins::Pins;
use crate::support::clock::Clock;

/// All of them.
pub(super) struct Components {
    pub(super) records: Records,
    pub(super) pins: Pins,
    pub(super) index: Index,
    pub(super) admission: Arc<Admission>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) health: Arc<Health>,
    pub(super) inventory: Inventory,
    pub(super) maintenance: Maintenance,
    pub(super) layout: Layout,
    /// Until the store is closed.
    pub(super) lock: Mutex<Option<Lock>>,
}

impl Components {
    /// Locks and opens the store at `path`; `is_read_only` says whether its filesystem takes nothing. Blocks for a
    /// moment; the blobs are counted meanwhile.
    ///
    /// # Errors
    /// Another daemon holds it, its format is unknown, or the disk refuses.
    pub(super) fn open(
        path: &Path,
        budget: Budget,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        limits: ReadLimits,
        is_read_only: fn(&Path) -> bool,
    ) -> Result<Self, Error> {
        let layout = Layout::new(path);
        let lock = lock_and_prepare(&layout)?;
        let records = Records::new(layout.clone(), clock.clone());
        let pins = Pins::restore(layout.clone());
        let open_blobs = Arc::new(OpenBlobs::new(InUse::default(), limits));
        // A tree of its own: what its thread writes when the store is closed is the last change of all.
        let tree = Layout::new(path);
        let index =
            Index::start(tree, clock.clone(), Arc::clone(metrics), Arc::clone(&open_blobs), pins.clone())?;
        let filesystem = layout.clone();
        let probe_disk = Box::new(move || Disk::of(filesystem.root()));
        let quarantine = QuarantineFiles::new(layout.clone(), metrics.quarantine_bytes.clone());
        quarantine.measure();
        let admission = Arc::new(Admission::new(budget, probe_disk, index.clone(), quarantine));
        let asked = Arc::downgrade(&admission);
        records.ask_for_inodes(move || asked.upgrade().is_some_and(|asked| asked.is_short_of_inodes()));
        let (caching, failing) = (metrics.caching.clone(), metrics.disk_failing.clone());
        layout.calls().mirror_in(metrics.disk_hanging.clone());
        let health = Arc::new(Health::new(clock.clone(), layout.calls().clone(), caching, failing));
        if is_read_only(path) {
            health.record_failure(&Error::io("write", path)(ErrorKind::ReadOnlyFilesystem.into()));
        }
        let blobs = Arc::new(Blobs::new(
            layout.clone(),
            clock.clone(),
            index.clone(),
            Arc::clone(&admission),
            open_blobs,
            Arc::clone(&health),
            Arc::clone(metrics),
        ));
        let inventory = Inventory::new(layout.clone(), records.clone(), pins.clone(), Arc::clone(&blobs));
        let scrubbed = metrics.scrubbed_bytes.clone();
        let scrubber = Scrubber::new(layout.clone(), blobs.quarantine().clone(), scrubbed);
        let maintenance = Maintenance::new(
            layout.clone(),
            records.clone(),
            Arc::clone(&admission),
            scrubber,
            metrics.capacity.clone(),
        );
        Ok(Self {
            records,
            pins,
            index,
            admission,
            blobs,
            health,
            inventory,
            maintenance,
            layout,
            lock: Mutex::new(Some(lock)),
        })
    }
}
