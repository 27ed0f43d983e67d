//! The API server's watch of this node's pods.
//!
//! The client goes on where a watch was cut off, begins anew after `410 Gone`, and takes bookmarks. Promises: an error is
//! told and waited after, longer each time; a changed identity is taken up within seconds; of a pod only what its images
//! need is kept.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::api::ApiResource;
use kube::core::Object;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::api_server::{ApiServer, Connection, FILES_LOOK};
use super::pod::{Pod, RawImage, RawPod};
use super::source::{PodEvent, PodSource};
use crate::support::causes;
use crate::support::shutdown::Shutdown;

/// The wait after an error, at first and at most; doubled each time.
const ERROR_WAIT: Duration = Duration::from_millis(500);
const ERROR_WAIT_MAX: Duration = Duration::from_secs(30);
/// Pods that have ended stay in the API server until they are removed, and are of no interest.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Pods of one answer to a list, each of 1.5 MB at most: bounds what one answer takes in memory. A list from the API server's own memory, as
/// kubelet asks for it, would come in one piece.
const PAGE: u32 = 20;
/// Seconds for which the API server keeps a watch open: after that it is asked again from where it was, so that a
/// connection that died unseen is noticed.
const WATCH_SECONDS: u32 = 120;

/// A pod with no more than is needed of it.
type SeenPod = Object<Spec, Status>;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
    priority: Option<i32>,
    image_pull_secrets: Vec<Named>,
    volumes: Vec<Volume>,
    ephemeral_containers: Vec<Container>,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
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
struct Status {
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

impl PodSource for ApiServer {
    fn name(&self) -> &'static str {
        "api_server"
    }

    fn run(&self, events: mpsc::Sender<PodEvent>, mut shutdown: Shutdown) -> BoxFuture<'_, ()> {
        async move {
            tokio::select! {
                () = self.watch(&events) => {}
                () = shutdown.requested() => {}
                () = events.closed() => {}
            }
        }
        .boxed()
    }
}

impl ApiServer {
    /// Watches again and again. Ends when nothing receives the events any more.
    async fn watch(&self, events: &mpsc::Sender<PodEvent>) {
        let mut wait = ERROR_WAIT;
        loop {
            match self.connection().await {
                Ok(connection) => {
                    if !self.watch_over(&connection, events, &mut wait).await {
                        return;
                    }
                }
                Err(error) => {
                    if events.send(PodEvent::Lost(error.to_string())).await.is_err() {
                        return;
                    }
                    pause(&mut wait).await;
                }
            }
        }
    }

    /// Watches over one connection, until the files have changed that it was made of; `false` when nothing receives the
    /// events any more.
    async fn watch_over(
        &self,
        connection: &Connection,
        events: &mpsc::Sender<PodEvent>,
        wait: &mut Duration,
    ) -> bool {
        let pods: Api<SeenPod> = Api::all_with(connection.client.clone(), &ApiResource::erase::<ApiPod>(&()));
        let config = watcher::Config::default()
            .fields(&format!("spec.nodeName={},{NOT_ENDED}", self.node))
            .page_size(PAGE)
            .timeout(WATCH_SECONDS);
        let mut seen = Box::pin(watcher::watcher(pods, config));
        let mut look = Instant::now() + FILES_LOOK;
        loop {
            let next = tokio::select! {
                next = seen.next() => next,
                () = sleep_until(look) => {
                    if connection.has_changed().await {
                        tracing::info!("the identity for the API server has changed; it is read again");
                        return true;
                    }
                    look = Instant::now() + FILES_LOOK;
                    continue;
                }
            };
            let event = match next {
                None => return true,
                Some(Ok(event)) => {
                    *wait = ERROR_WAIT;
                    event_of(event)
                }
                Some(Err(error)) => {
                    if events.send(PodEvent::Lost(causes::with_causes(&error))).await.is_err() {
                        return false;
                    }
                    pause(wait).await;
                    if is_expired(&error) || connection.has_changed().await {
                        return true;
                    }
                    continue;
                }
            };
            if let Some(event) = event
                && events.send(event).await.is_err()
            {
                return false;
            }
        }
    }
}

/// Whether the version from which the watch was to go on is forgotten: all pods have to be listed again. The client does so
/// by itself where an event says it, and not where the answer to the watch is `410 Gone`.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// Waits, and longer the next time; not at the moment at which every other node does.
async fn pause(wait: &mut Duration) {
    sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
    *wait = (*wait * 2).min(ERROR_WAIT_MAX);
}

fn event_of(event: Event<SeenPod>) -> Option<PodEvent> {
    match event {
        Event::Apply(seen) | Event::InitApply(seen) => Pod::new(raw(seen)).map(PodEvent::Applied),
        Event::Delete(seen) => seen.uid().map(|uid| PodEvent::Deleted { uid }),
        Event::Init => Some(PodEvent::ListBegins),
        Event::InitDone => Some(PodEvent::ListEnds),
    }
}

fn raw(seen: SeenPod) -> RawPod {
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
    use super::*;
    use crate::kubernetes::pod::{ImageUse, PullPolicy};

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
        let Some(PodEvent::Applied(pod)) = event_of(Event::Apply(seen)) else { panic!() };
        assert_eq!((pod.full_name().as_str(), pod.uid.as_str(), pod.priority), ("shop/web", "4d1c", 7));
        assert_eq!((pod.service_account.as_str(), pod.created_at), ("builder", 1_795_773_600));
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
    fn a_pod_without_what_it_should_have_is_passed_over_and_ends_nothing() {
        let seen: SeenPod = serde_json::from_str(r#"{"metadata":{},"spec":{}}"#).unwrap();
        assert!(event_of(Event::Apply(seen.clone())).is_none() && event_of(Event::Delete(seen)).is_none());
    }
}
