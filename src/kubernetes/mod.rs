//! This node's pods: their images are fetched before kubelet asks for them.
//!
//! ```text
//! source        what tells of pods, of pull secrets, and of what the runtime has: traits
//!   api_server     the API server, as one identity: pods, pull secrets, service accounts, the node's images
//!   local_sockets  kubelet's own list of pods, and the runtime's images
//! pod           a pod as far as its images are concerned, in kubelet's order: pure
//! table         the pods that the sources see: pure
//! plan          which images are fetched now: pure
//! state         pods and fetches, and how they change: no task
//! pods          the watch as a whole: sources tell, the plan is made, fetches are begun and ended
//!   fetch       one image: as each credential of the pod, in kubelet's order
//!     secrets   the pod's pull secrets, merged as kubelet merges them
//!     service_account  tokens of the pod's service account, for plugins that ask for them
//!     kept_answers  answers that are kept for a while, and asked for once at a time
//!   unused      registries that no runtime asks Larder for: pure
//!   head_start  how long before a runtime's question an image was here
//!   protect     what runs here is evicted last
//! ```
//!
//! Promises: a registry is asked with a pod's credential exactly as kubelet will ask, and the right that this proves is
//! that credential's and no other's; what a runtime waits for goes first; whatever fails here, pulls go on as if there
//! were no watch; memory is bounded by what one node can run.
//!
//! Deliberately not here: the runtime's own store (see `prepull`), and who may read what is fetched (`pull`).

mod config;
mod fetch;
mod head_start;
mod kept_answers;
mod metrics;
mod plan;
mod pod;
mod pods;
mod protect;
mod secrets;
mod service_account;
mod source;
mod state;
mod status;
mod table;
mod unused;

#[cfg(feature = "kubernetes")]
mod api_server;
#[cfg(feature = "kubernetes")]
mod local_sockets;

#[cfg(feature = "kubernetes")]
pub use api_server::{Access, AccountAccess, ApiServer, AskError, NodeImages, Waits};
pub use config::{Config, Identity};
pub use fetch::{FetchAhead, FetchedAhead, NotFetched};
#[cfg(feature = "kubernetes")]
pub use local_sockets::{ImageService, LocalError, PodsApi};
pub use metrics::Metrics;
pub use pod::{IMAGES_MAX, ImageUse, PULL_SECRETS_MAX, Pod, PodImage, PullPolicy, RawImage, RawPod};
pub use pods::{Parts, Pods};
pub use service_account::ServiceAccounts;
pub use source::{ImagePresence, PodEvent, PodSource, Secret, SecretError, SecretSource};
pub use status::{PodNumbers, PodOutlook, PodsStatus, SourceStatus};
pub use table::PODS_MAX;
