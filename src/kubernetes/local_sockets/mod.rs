//! What is asked over sockets of this node: kubelet for its pods, the runtime for its images.
//!
//! ```text
//! pods_api       kubelet's own list of pods; pod_message: a pod as kubelet writes it
//! image_service  which images the runtime has
//! grpc           the connection that both speak over
//! ```
//!
//! Promises and limits are those of each file. Deliberately not here: what becomes of a pod (`kubernetes/pods`).

mod grpc;
#[cfg(test)]
mod grpc_tests;
mod image_service;
mod pod_message;
mod pods_api;

pub use grpc::LocalError;
pub use image_service::ImageService;
pub use pods_api::PodsApi;
