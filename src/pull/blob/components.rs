//! The parts of blobs, each constructed from what it needs.

use std::sync::Arc;

use crate::pull::access::Access;
use crate::pull::blob::begun::Begun;
use crate::pull::blob::body::refetch_places::RefetchPlaces;
use crate::pull::blob::download::Downloads;
use crate::pull::blob::fill::Filler;
use crate::pull::blob::fill::memory::FillMemory;
use crate::pull::blob::fill::segments::Segments;
use crate::pull::blob::fill::shared_copy::SharedCopies;
use crate::pull::blob::fill::transfer::Transfers;
use crate::pull::blob::flight::Flights;
use crate::pull::blob::parts::Parts;
use crate::pull::blob::parts::partial::Partials;
use crate::pull::blob::parts::single_ranges::SingleRanges;
use crate::pull::blob::past_the_disk::DetachedFills;
use crate::pull::blob::past_the_disk::memory::WindowMemory;
use crate::pull::blob::priority::Foreground;
use crate::pull::blob::room::Room;
use crate::pull::blob::source::BlobSource;
use crate::pull::blob::stored::StoredBlobs;
use crate::pull::config::Config;
use crate::pull::metrics::Metrics;
use crate::pull::registry_client::RegistryClient;
use crate::pull::shared_names::SharedNames;
use crate::store::Store;
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// Those that requests for blobs use.
pub(crate) struct Components {
    pub(super) access: Access,
    pub(super) registries: Arc<dyn RegistryClient>,
    pub(super) stored: StoredBlobs,
    pub(super) source: BlobSource,
    pub(super) parts: Parts,
    pub(super) flights: Flights,
    pub(super) downloads: Downloads,
    pub(super) room: Room,
    pub(super) foreground: Foreground,
    pub(super) begun: Begun,
    pub(super) memory: WindowMemory,
    pub(super) refetches: RefetchPlaces,
    pub(super) metrics: Arc<Metrics>,
}

impl Components {
    /// For the blobs of `store`, and of `registries` where they are not there.
    pub(crate) fn new(
        config: Live<Config>,
        access: Access,
        registries: Arc<dyn RegistryClient>,
        store: Store,
        names: SharedNames,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        let flights = Flights::new(metrics.flights.clone());
        let foreground = Foreground::new(flights.clone());
        let stored = StoredBlobs::new(store.clone(), access.clone());
        let tier = names.tier().clone();
        let source = BlobSource::new(access.clone(), Arc::clone(&registries), names);
        let room = Room::new(config.clone(), store.clone());
        let partials = Partials::new(store.clone(), config.clone(), tasks.clone(), Arc::clone(&metrics));
        let memory = WindowMemory::default();
        let segments = Segments::new(source.clone(), config.clone(), tasks.clone(), Arc::clone(&metrics));
        let filler = Filler {
            room: room.clone(),
            store: store.clone(),
            source: source.clone(),
            transfers: Transfers::new(source.clone(), segments, foreground.clone()),
            foreground: foreground.clone(),
            partials: partials.clone(),
            copies: SharedCopies::new(tier, config.clone(), foreground.clone(), tasks.clone()),
            detached: DetachedFills::new(store, source.clone(), memory.clone()),
            memory: FillMemory::default(),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
        };
        let downloads =
            Downloads::new(access.clone(), stored.clone(), flights.clone(), filler, config, tasks);
        let ranges = SingleRanges::new(source.clone(), flights.clone());
        let parts = Parts::new(source.clone(), ranges, partials, room.clone());
        Self {
            access,
            registries,
            stored,
            source,
            parts,
            flights,
            downloads,
            room,
            foreground,
            begun: Begun::default(),
            memory,
            refetches: RefetchPlaces::default(),
            metrics,
        }
    }
}
