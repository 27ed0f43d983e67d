//! A pod as the API server has it, read into what its images need: pure.

use kube::core::Object;
use serde::Deserialize;

use crate::kubernetes::pod::{RawImage, RawPod};

/// A pod with no more than is needed of it.
pub(super) type SeenPod = Object<Spec, Status>;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) node_name: String,
    pub(super) service_account_name: String,
    priority: Option<i32>,
    pub(super) image_pull_secrets: Vec<Named>,
    volumes: Vec<Volume>,
    ephemeral_containers: Vec<Container>,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    image: String,
    image_pull_policy: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Volume {
    name: String,
    image: Option<ImageVolume>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ImageVolume {
    reference: String,
    pull_policy: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    phase: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
    ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: String,
    #[serde(rename = "imageID")]
    image_id: String,
}

/// The pod, as far as its images concern Larder.
pub(super) fn raw(seen: SeenPod) -> RawPod {
    let SeenPod { metadata, spec, status, .. } = seen;
    let status = status.unwrap_or_default();
    let containers = |all: Vec<Container>| {
        let raw = |Container { name, image, image_pull_policy: policy }| RawImage { name, image, policy };
        all.into_iter().map(raw).collect()
    };
    let volume = |Volume { name, image }: Volume| {
        let ImageVolume { reference, pull_policy } = image?;
        Some(RawImage { name, image: reference, policy: pull_policy })
    };
    let statuses =
        [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let has_started = |of: &ContainerStatus| !of.container_id.is_empty() || !of.image_id.is_empty();
    RawPod {
        uid: metadata.uid.unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        service_account: spec.service_account_name,
        priority: spec.priority,
        created_at: metadata.creation_timestamp.map_or(0, |at| at.0.as_second()),
        phase: status.phase,
        is_deleted: metadata.deletion_timestamp.is_some(),
        pull_secrets: spec.image_pull_secrets.into_iter().map(|named| named.name).collect(),
        volumes: spec.volumes.into_iter().filter_map(volume).collect(),
        ephemeral: containers(spec.ephemeral_containers),
        init: containers(spec.init_containers),
        containers: containers(spec.containers),
        started: statuses.into_iter().flatten().filter(has_started).map(|of| of.name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;
    use crate::kubernetes::pod::{ImageUse, Pod, PullPolicy};

    /// As an API server 1.31 has it, without most of its fields.
    const POD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"shop",
        "uid":"4d1c","resourceVersion":"7","creationTimestamp":"2026-11-27T10:00:00Z","annotations":{"a":"b"},
        "managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"v1","fieldsV1":{"f:spec":{}}}]},
        "spec":{"nodeName":"node-1","serviceAccountName":"builder","priority":7,
        "imagePullSecrets":[{"name":"corp"},{}],
        "volumes":[{"name":"token","projected":{}},{"name":"data","image":{"reference":"reg.test/data:v1","pullPolicy":"Always"}}],
        "initContainers":[{"name":"side","image":"reg.test/side:v1","imagePullPolicy":"IfNotPresent","restartPolicy":"Always"}],
        "containers":[{"name":"app","image":"reg.test/app:v1","imagePullPolicy":"Never","resources":{}}]},
        "status":{"phase":"Pending","initContainerStatuses":[{"name":"side","ready":true,"restartCount":0,
        "state":{"running":{}},"image":"x","imageID":"reg.test/side@sha256:aa","containerID":"containerd://1"}],
        "containerStatuses":[{"name":"app","ready":false,"restartCount":0,"image":"x","imageID":""}]}}"#;

    #[test]
    fn a_pod_is_read_as_an_api_server_has_it() {
        let seen: SeenPod = serde_json::from_str(POD).unwrap();
        let pod = Pod::new(raw(seen)).unwrap();
        assert_eq!((pod.full_name().as_str(), pod.uid.as_str(), pod.priority), ("shop/web", "4d1c", 7));
        assert_eq!((pod.service_account.as_deref(), pod.created_at), (Some("builder"), 1_795_773_600));
        assert_eq!((&*pod.pull_secrets, pod.has_ended), (&["corp".to_owned()][..], false));
        let seen: Vec<_> =
            pod.images.iter().map(|image| (image.used_as, image.policy, image.has_started)).collect();
        let expected = [
            (ImageUse::Volume, PullPolicy::Always, true),
            (ImageUse::Init, PullPolicy::IfNotPresent, true),
            (ImageUse::Container, PullPolicy::Never, false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_pod_without_what_it_should_have_is_passed_over() {
        let seen: SeenPod = serde_json::from_str(r#"{"metadata":{},"spec":{}}"#).unwrap();
        assert!(Pod::new(raw(seen.clone())).is_none() && seen.uid().is_none());
    }
}
