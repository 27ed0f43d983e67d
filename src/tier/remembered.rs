//! What the tier keeps from one request to the next, by what it is for: reading, writing, names. Nothing of it outlives
//! a restart.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::pace::{PASSED_BY_FOR, Paces};
use super::part_memory::SharedPartMemory;
use super::recent::{AVOIDED_FOR, PRESENT_FOR, Recent, SHARED_FOR, TOUCHED_FOR};
use crate::credentials::ClusterKey;
use crate::reference::Registry;

/// Manifests and small blobs that are written at the same time. They have permits of their own: parts of layers are
/// larger, and would be before them.
const SINGLES: usize = 3;
/// Bytes of the manifests that wait for one of those permits, or have it. One more is not written.
const QUEUED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What reading goes by.
pub(super) struct Reads {
    /// Objects that are not read for a while, because they were wrong or their transfer broke off.
    pub(super) avoided: Recent,
    /// Objects whose last use was recorded a while ago.
    pub(super) touched: Recent,
    /// How fast registries deliver.
    pub(super) paces: Paces,
    /// Registries that were faster than the tier a while ago.
    pub(super) slower: Recent<Registry>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            avoided: Recent::new(AVOIDED_FOR),
            touched: Recent::new(TOUCHED_FOR),
            paces: Paces::default(),
            slower: Recent::new(PASSED_BY_FOR),
        }
    }
}

/// What writing goes by.
pub(super) struct Writes {
    /// Objects that this node wrote, or found, a moment ago.
    pub(super) present: Recent,
    /// Permits for the parts of layers.
    pub(super) uploads: Arc<Semaphore>,
    /// What the bytes of parts are read into.
    pub(super) part_memory: SharedPartMemory,
    /// Permits for manifests and small blobs.
    pub(super) singles: Arc<Semaphore>,
    /// Bytes of manifests that are written or wait for their permit.
    pub(super) queued: Arc<Semaphore>,
}

impl Writes {
    /// With permits for `uploads` parts of layers at a time.
    pub(super) fn new(uploads: usize) -> Self {
        Self {
            present: Recent::new(PRESENT_FOR),
            uploads: Arc::new(Semaphore::new(uploads)),
            part_memory: SharedPartMemory::default(),
            singles: Arc::new(Semaphore::new(SINGLES)),
            queued: Arc::new(Semaphore::new(QUEUED_BYTES_MAX)),
        }
    }
}

/// What sharing names goes by.
pub(super) struct Names {
    /// What names are sealed with, if they are shared.
    pub(super) key: Option<ClusterKey>,
    /// Names that were shared, or found to be shared, a while ago.
    pub(super) shared: Recent<String>,
}

impl Names {
    pub(super) fn new(key: Option<ClusterKey>) -> Self {
        Self { key, shared: Recent::new(SHARED_FOR) }
    }
}
