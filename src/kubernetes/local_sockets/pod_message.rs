//! A pod as protobuf: the fields of `v1.Pod` that concern its images, with the numbers of
//! `staging/src/k8s.io/api/core/v1/generated.proto` of Kubernetes. Every other field is passed over unread.
//!
//! Promises: bytes that are no such message are an error, never a pod. Not here: where the bytes come from, bounds of
//! what is in them ([`crate::kubernetes::pod`]).

use prost::Message;

use crate::kubernetes::pod::{RawImage, RawPod};

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    pub(super) spec: Option<Spec>,
    #[prost(message, optional, tag = "3")]
    pub(super) status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
    #[prost(string, tag = "5")]
    pub(super) uid: String,
    #[prost(message, optional, tag = "8")]
    pub(super) created: Option<Time>,
    #[prost(message, optional, tag = "9")]
    pub(super) deleted: Option<Time>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Spec {
    #[prost(message, repeated, tag = "1")]
    pub(super) volumes: Vec<Volume>,
    #[prost(message, repeated, tag = "2")]
    pub(super) containers: Vec<Container>,
    #[prost(string, tag = "8")]
    pub(super) service_account: String,
    #[prost(message, repeated, tag = "15")]
    pub(super) pull_secrets: Vec<Reference>,
    #[prost(message, repeated, tag = "20")]
    pub(super) init_containers: Vec<Container>,
    #[prost(int32, optional, tag = "25")]
    pub(super) priority: Option<i32>,
    #[prost(message, repeated, tag = "34")]
    pub(super) ephemeral_containers: Vec<Ephemeral>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) image: String,
    #[prost(string, tag = "14")]
    pub(super) policy: String,
}

/// An ephemeral container: the common fields, whose numbers are those of a container, in a message of their own.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ephemeral {
    #[prost(message, optional, tag = "1")]
    pub(super) common: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Volume {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) source: Option<VolumeSource>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VolumeSource {
    #[prost(message, optional, tag = "30")]
    pub(super) image: Option<ImageVolume>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageVolume {
    #[prost(string, tag = "1")]
    pub(super) reference: String,
    #[prost(string, tag = "2")]
    pub(super) policy: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Reference {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodStatus {
    #[prost(string, tag = "1")]
    pub(super) phase: String,
    #[prost(message, repeated, tag = "8")]
    pub(super) containers: Vec<ContainerStatus>,
    #[prost(message, repeated, tag = "10")]
    pub(super) init_containers: Vec<ContainerStatus>,
    #[prost(message, repeated, tag = "13")]
    pub(super) ephemeral_containers: Vec<ContainerStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerStatus {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "7")]
    pub(super) image_id: String,
    #[prost(string, tag = "8")]
    pub(super) container_id: String,
}

/// The pod in these bytes.
pub(super) fn decode(bytes: &[u8]) -> Result<RawPod, prost::DecodeError> {
    let PodMessage { metadata, spec, status } = PodMessage::decode(bytes)?;
    let (metadata, spec, status) =
        (metadata.unwrap_or_default(), spec.unwrap_or_default(), status.unwrap_or_default());
    let volume = |volume: Volume| {
        let image = volume.source?.image?;
        Some(RawImage { name: volume.name, image: image.reference, policy: image.policy })
    };
    let statuses =
        status.containers.into_iter().chain(status.init_containers).chain(status.ephemeral_containers);
    let started = statuses.filter(|status| !status.container_id.is_empty() || !status.image_id.is_empty());
    Ok(RawPod {
        uid: metadata.uid,
        namespace: metadata.namespace,
        name: metadata.name,
        service_account: spec.service_account,
        priority: spec.priority,
        created_at: metadata.created.map_or(0, |time| time.seconds),
        phase: status.phase,
        is_deleted: metadata.deleted.is_some(),
        pull_secrets: spec.pull_secrets.into_iter().map(|secret| secret.name).collect(),
        volumes: spec.volumes.into_iter().filter_map(volume).collect(),
        ephemeral: spec.ephemeral_containers.into_iter().filter_map(|one| one.common).map(image_of).collect(),
        init: spec.init_containers.into_iter().map(image_of).collect(),
        containers: spec.containers.into_iter().map(image_of).collect(),
        started: started.map(|status| status.name).collect(),
    })
}

fn image_of(container: Container) -> RawImage {
    RawImage { name: container.name, image: container.image, policy: container.policy }
}

#[cfg(test)]
#[path = "pod_message_tests.rs"]
mod tests;
