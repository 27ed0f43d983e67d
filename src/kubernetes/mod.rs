//! This node's pods: their images are fetched before kubelet asks for them.

mod pod;
mod source;

pub use pod::{IMAGES_MAX, ImageUse, PULL_SECRETS_MAX, Pod, PodImage, PullPolicy, RawImage, RawPod};
pub use source::{ImagePresence, PodEvent, PodSource, Secret, SecretError, SecretSource};
