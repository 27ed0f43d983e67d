//! Blobs of which lazy snapshotters read parts: what was fetched is kept, read from there, and handed to the download
//! of the whole once enough was read that no part is fetched alone any more (`byte_range`).
//!
//! Promises: a part goes to a caller for whom the registry itself vouched, in the same repository and as the same
//! principal, and whose right is fresh; what a mirror gave to any other is not kept; what is kept is bounded in blobs,
//! bytes and time. Kept parts do not outlive the daemon. Deliberately not here: whether a range may be fetched alone.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::fetch::{self, FetchedParts, PlacesOf};
use crate::pull::blob::places::Places;
use crate::pull::blob::room::Room;
use crate::pull::blob::vouched::Vouched;
use crate::pull::config::Config;
use crate::pull::context::PullContext;
use crate::pull::metrics::Metrics;
use crate::reference::{Digest, Principal, Registry, Repository};
use crate::store::{Ingest, Store};
use crate::support::bounded_map::BoundedMap;
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// Blobs of which parts are kept: each holds a file open.
const BLOBS_MAX: usize = 128;
/// Bytes that are kept in all; the blob whose parts were asked for longest ago makes way.
const BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// How long parts are kept after they were last asked for: they take room that nothing can evict.
const KEPT_FOR: Duration = Duration::from_secs(30 * 60);
/// How often the bounds are looked at while no part is asked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Callers that are remembered for a blob; others ask upstream again.
const CALLERS_MAX: usize = 64;

type Key = (Registry, Digest);

/// Partial blobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Partials {
    store: Store,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    places: Places,
    blobs: Arc<Mutex<Blobs>>,
}

/// The blobs of which parts are kept.
struct Blobs {
    partials: BoundedMap<Key, Arc<Partial>>,
    /// Whether a task looks after them.
    is_swept: bool,
}

/// A blob of which parts are kept.
pub(crate) struct Partial {
    pub(crate) parts: FetchedParts,
    /// Bytes of the whole blob.
    pub(crate) size: u64,
    /// For whom the registry vouched.
    callers: Mutex<Vec<(Repository, Option<Principal>)>>,
    asked_at: Mutex<Instant>,
}

fn key_of(context: &PullContext, digest: Digest) -> Key {
    (context.repository().registry().clone(), digest)
}

impl Partials {
    /// Parts that are kept in `store`, each received on one of `tasks`.
    pub(crate) fn new(store: Store, config: Live<Config>, tasks: Tasks, metrics: Arc<Metrics>) -> Self {
        let blobs = Blobs { partials: BoundedMap::new(BLOBS_MAX), is_swept: false };
        Self { store, tasks, metrics, places: fetch::places(config), blobs: Arc::new(Mutex::new(blobs)) }
    }

    /// The parts of a blob, if the registry vouched for the caller. Whether its right is fresh is for the user of this
    /// to see to.
    pub(crate) fn find(&self, context: &PullContext, digest: Digest) -> Option<Arc<Partial>> {
        let partial = {
            let mut blobs = self.blobs.lock();
            blobs.make_room();
            Arc::clone(blobs.partials.get(&key_of(context, digest))?)
        };
        *partial.asked_at.lock() = Instant::now();
        let caller = (context.repository().clone(), context.caller().principal());
        let is_known = partial.callers.lock().contains(&caller);
        is_known.then_some(partial)
    }

    /// The parts of a blob of `size` bytes, for one that has begun to come; `None` if it cannot be kept. The caller to
    /// whom it comes, for whom the registry `vouched`, may read the others from now on.
    pub(crate) async fn begin(
        &self,
        context: &PullContext,
        digest: Digest,
        size: u64,
        room: &Room,
        _vouched: Vouched,
    ) -> Option<Arc<Partial>> {
        let known = self.get(context, digest);
        let partial = match known {
            Some(partial) => partial,
            None => {
                let registry = context.repository().registry().clone();
                let blob = self.store.begin_partial(digest, size, room.owner(&registry)).await.ok()?;
                let places = PlacesOf { places: self.places.clone(), registry };
                let (tasks, metrics) = (self.tasks.clone(), Arc::clone(&self.metrics));
                let partial = Arc::new(Partial {
                    parts: FetchedParts::new(blob, digest, places, tasks, metrics),
                    size,
                    callers: Mutex::default(),
                    asked_at: Mutex::new(Instant::now()),
                });
                self.insert(key_of(context, digest), partial)
            }
        };
        if partial.size != size {
            return None;
        }
        let caller = (context.repository().clone(), context.caller().principal());
        let mut callers = partial.callers.lock();
        if callers.len() < CALLERS_MAX && !callers.contains(&caller) {
            callers.push(caller);
        }
        drop(callers);
        Some(partial)
    }

    /// Bytes that are kept of a blob of `size` bytes.
    pub(crate) fn bytes_of(&self, context: &PullContext, digest: Digest, size: u64) -> u64 {
        let partial = self.get(context, digest);
        let of_blob = partial.filter(|partial| partial.size == size);
        of_blob.map_or(0, |partial| partial.parts.blob().bytes())
    }

    /// What receives a blob of `size` bytes, with the parts that are kept of it: for a caller for whom the registry
    /// `vouched`.
    pub(crate) fn take_ingest(
        &self,
        context: &PullContext,
        digest: Digest,
        size: Option<u64>,
        _vouched: Vouched,
    ) -> Option<Ingest> {
        let partial = self.get(context, digest)?;
        (Some(partial.size) == size).then(|| partial.parts.blob().take_ingest())?
    }

    /// Forgets the parts of a blob: it is stored as a whole, or they, or what came with them, were wrong.
    pub(crate) fn forget(&self, context: &PullContext, digest: Digest) {
        self.blobs.lock().partials.remove(&key_of(context, digest));
    }

    fn get(&self, context: &PullContext, digest: Digest) -> Option<Arc<Partial>> {
        self.blobs.lock().partials.get(&key_of(context, digest)).cloned()
    }

    /// The parts of a blob: these, unless others of it are kept meanwhile.
    fn insert(&self, key: Key, partial: Arc<Partial>) -> Arc<Partial> {
        let mut blobs = self.blobs.lock();
        let kept = Arc::clone(blobs.partials.get_or_insert_with(key, || partial));
        blobs.make_room();
        if !std::mem::replace(&mut blobs.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.blobs)));
        }
        kept
    }
}

impl Blobs {
    /// Forgets what was asked for long ago, and of the rest what is too much.
    fn make_room(&mut self) {
        self.partials.retain(|_, partial| partial.asked_at.lock().elapsed() < KEPT_FOR);
        // Kept parts grow while they lie here: their bytes are counted anew each time.
        let mut bytes: u64 = self.partials.iter().map(|(_, partial)| partial.parts.blob().bytes()).sum();
        while bytes > BYTES_MAX
            && let Some((_, oldest)) = self.partials.remove_oldest()
        {
            bytes -= oldest.parts.blob().bytes();
        }
    }
}

/// Keeps the bounds of time and bytes while nobody asks for a part, until none is kept.
async fn sweep(blobs: Weak<Mutex<Blobs>>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(blobs) = blobs.upgrade() else { return };
        let mut blobs = blobs.lock();
        blobs.make_room();
        blobs.is_swept = !blobs.partials.is_empty();
        if !blobs.is_swept {
            return;
        }
    }
}
