//! Pre-pull: images are fetched before any pod asks for them, into Larder's own store and nowhere else.
//!
//! Promises: everything is fetched as a caller that may read it (a pull secret, the node, or an anonymous one), so that
//! afterwards exactly those may read it whom the registry lets; the platform is the one that containerd would choose;
//! one image that fails stops no other, and makes none be asked for again; whatever a hostile index lists, the work is
//! bounded; pods go first.
//!
//! Deliberately not here: the runtime's own store. An image that is put there is open to every pod under kubelet's
//! default policy (KEP-2535); what is in Larder's store is asked for like any other pull.

mod config;
mod error;
mod event;
mod failures;
mod fetch;
mod fetched;
mod list;
mod manifests;
mod metrics;
mod order;
mod pins;
mod plan;
mod schedule;
mod tree;

pub use config::Config;
pub use error::Error as FetchError;
pub use event::{BlobState, Event, Summary};
pub use failures::FailedFetch;
pub use fetch::Fetcher;
pub use fetched::Fetched;
pub use list::{List, ListStatus};
pub use manifests::{Found, FoundSecret, ManifestsError, read_each};
pub use metrics::Metrics;
pub use order::{Order, PinOwner, RequestedImage, merge_duplicates};
pub use plan::Platforms;
