//! This node's pods: their images are fetched before kubelet asks for them.
//!
//! ```text
//! source        what tells of pods, of pull secrets, and of what the runtime has: traits
//!   api_server  the API server, as one identity: watch (pods; seen_pod reads one), api_secrets, node_images, access
//!               (what it may read); credential_program runs what a kubeconfig names for a credential, api_error says
//!               errors without secrets, answer_bounds limits what is taken of an answer
//!   pods_api    kubelet's own list of pods; image_service: the runtime's images (grpc, pod_message: what they speak)
//! pod           a pod as far as its images are concerned, in kubelet's order: pure
//! table         the pods that the sources see: pure
//! plan          which images are fetched now: pure
//! state         pods and fetches, and how they change: no task
//! pods          the watch as a whole: sources tell, the plan is made, fetches are begun and ended
//!   fetch       one image: as each credential of the pod, in kubelet's order
//!     secrets   the pod's pull secrets, merged as kubelet merges them
//!     service_account  tokens of the pod's service account, for plugins that ask for them (api_accounts: by
//!                      TokenRequest)
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
mod access;
#[cfg(feature = "kubernetes")]
mod answer_bounds;
#[cfg(feature = "kubernetes")]
mod api_accounts;
#[cfg(feature = "kubernetes")]
mod api_error;
#[cfg(feature = "kubernetes")]
mod api_secrets;
#[cfg(feature = "kubernetes")]
mod api_server;
#[cfg(feature = "kubernetes")]
mod credential_program;
#[cfg(feature = "kubernetes")]
mod grpc;
#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod grpc_tests;
#[cfg(feature = "kubernetes")]
mod image_service;
#[cfg(feature = "kubernetes")]
mod node_images;
#[cfg(feature = "kubernetes")]
mod pod_message;
#[cfg(feature = "kubernetes")]
mod pods_api;
#[cfg(feature = "kubernetes")]
mod seen_pod;
#[cfg(feature = "kubernetes")]
mod watch;
mod watch_progress;

#[cfg(feature = "kubernetes")]
pub use access::{Access, AccountAccess};
#[cfg(feature = "kubernetes")]
pub use api_server::{ApiServer, AskError, Waits};
pub use config::{Config, Identity};
pub use fetch::{FetchAhead, FetchedAhead, NotFetched};
#[cfg(feature = "kubernetes")]
pub use grpc::LocalError;
#[cfg(feature = "kubernetes")]
pub use image_service::ImageService;
pub use metrics::Metrics;
#[cfg(feature = "kubernetes")]
pub use node_images::NodeImages;
pub use pod::{IMAGES_MAX, ImageUse, PULL_SECRETS_MAX, Pod, PodImage, PullPolicy, RawImage, RawPod};
pub use pods::{Parts, Pods};
#[cfg(feature = "kubernetes")]
pub use pods_api::PodsApi;
pub use service_account::ServiceAccounts;
pub use source::{ImagePresence, PodEvent, PodSource, Secret, SecretError, SecretSource};
pub use status::{PodNumbers, PodOutlook, PodsStatus, SourceStatus};
pub use table::PODS_MAX;
