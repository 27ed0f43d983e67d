//! The shared tier: an object store behind the stores of many nodes, so that one node's download from a registry is
//! enough for all of them.
//!
//! ```text
//! registries  of which registries content is shared (pure)
//! config    where the tier is, and what this node may do there
//! layout    the key of every object
//! objects   what is asked of an object store, as a trait
//!   backend   that trait over the crate object_store: S3, Google Cloud Storage, Azure Blob, a directory (http: its
//!             requests)
//! bucket    requests for objects, bounded in time
//! health    when the tier is left alone because it fails (pure, by a given time)
//! remembered  what is kept from one request to the next (recent)
//! handle    what it is built from
//! reading   blobs and manifests from the tier, bounded in time
//! pace      whether it is slower than the registry of a blob (pure, from measured rates)
//! lease     which node writes a blob, and how long others wait (pure); claim, wait: its effects; role: which one a
//!           node has
//! names     records about names, sealed with the cluster's key
//! credential  that of the store, kept at hand
//! gc        what no node uses any more is deleted
//! probe     whether the tier does what it is for; status: how it is (counts)
//! directory  whether root may write to a tier that is a directory
//! upload    content to the tier, while it arrives and once it is verified (part_memory: what its parts are read into)
//! ```
//!
//! Promises: what the tier holds is bytes, and no right to read them. It is found under the registry that it was
//! received from and its digest: a registry that merely says that it has a digest gets no bytes that came from another
//! one. Every wait is bounded, every failure is a miss, and a tier that fails is left alone for a while. What comes
//! from it is unverified: `pull` verifies it.
//!
//! Deliberately not here: who may read what, registries, and the store of this node.

#[cfg(feature = "tier")]
mod backend;
mod bucket;
mod claim;
mod config;
mod counts;
mod credential;
mod directory;
mod error;
#[cfg(test)]
pub(crate) mod for_tests;
mod gc;
mod handle;
mod health;
#[cfg(feature = "tier")]
mod http;
mod layout;
mod lease;
pub mod metrics;
mod names;
mod network;
mod objects;
mod pace;
mod part_memory;
mod probe;
mod reading;
mod recent;
mod registries;
mod remembered;
mod role;
mod status;
mod upload;
mod wait;

pub(crate) use claim::{ClaimSlot, Progress};
pub use config::{Config, Location, LocationError, Platform, UPLOADS};
pub use error::{BuildError, Error, ErrorKind};
pub use gc::Collected;
pub(crate) use handle::Fault;
pub use handle::Tier;
pub(crate) use names::Dated;
pub use network::{Io, Network, Pending, Reach};
pub use probe::{ProbeFailure, Probed};
pub(crate) use reading::{Found, Lookup, Prospect};
pub use registries::{Registries, RegistryPattern};
pub(crate) use role::Role;
pub use status::{TierStatus, TierTrouble};
pub(crate) use upload::Upload;

#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod names_tests;
#[cfg(test)]
mod tests;
