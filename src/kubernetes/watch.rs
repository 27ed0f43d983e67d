//! The API server's watch of this node's pods: a list, then a watch from where the list ended.
//!
//! Promises: a watch that ends or is cut goes on from the last version that was seen; where that fails, and after `410 Gone`
//! or an event that is not understood, all pods are listed anew. The source counts as lost from the failure until a watch has
//! begun again, whether a pod changes or not. Every list and every beginning of a watch has an end; an error is told and
//! waited after, longer each time; a changed identity is taken up within seconds; of a pod only what its images need is kept.
//! Not the client's own watcher: it does not say when a watch has begun again, and waits for an answer for ever.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{Object, ObjectList, Request};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::api_error::said;
use super::api_server::{ApiServer, AskError, FILES_LOOK, no_answer};
use super::pod::{Pod, RawImage, RawPod};
use super::source::{PodEvent, PodSource};
use crate::support::shutdown::Shutdown;

/// The wait after an error, at first and at most; doubled each time.
const ERROR_WAIT: Duration = Duration::from_millis(500);
const ERROR_WAIT_MAX: Duration = Duration::from_secs(30);
/// Pods that have ended stay in the API server until they are removed, and are of no interest.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// A watch that ends sooner, and without an event, is asked for again only after a wait.
const SHORT_WATCH: Duration = Duration::from_secs(5);
/// Pods of one answer to a list, each of 1.5 MB at most: bounds what one answer takes in memory. A list from the API server's
/// own memory, as kubelet asks for it, would come in one piece.
const PAGE: u32 = 20;
/// The pods of all namespaces.
const PODS: &str = "/api/v1/pods";

/// A pod with no more than is needed of it.
pub(super) type SeenPod = Object<Spec, Status>;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    service_account_name: String,
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

/// Why a step of the watch ended.
enum End {
    /// Nothing receives the events any more.
    Finished,
    /// The source sees nothing for this reason, and begins anew.
    Failed(String),
}

impl From<AskError> for End {
    fn from(error: AskError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// How far the watch is.
struct Progress {
    /// From where it goes on; `None`: all pods are listed first.
    version: Option<String>,
    /// Whether a list was told whose end was not: it ends when the watch has begun.
    is_listing: bool,
    /// The wait after the next error.
    wait: Duration,
}

impl ApiServer {
    /// Watches again and again. Ends when nothing receives the events any more.
    async fn watch(&self, events: &mpsc::Sender<PodEvent>) {
        let mut progress = Progress { version: None, is_listing: false, wait: ERROR_WAIT };
        loop {
            let begun_at = Instant::now();
            match self.step(&mut progress, events).await {
                Ok(()) if begun_at.elapsed() >= SHORT_WATCH => {}
                Ok(()) => pause(&mut progress.wait).await,
                Err(End::Finished) => return,
                Err(End::Failed(why)) => {
                    progress.version = None;
                    if events.send(PodEvent::Lost(why)).await.is_err() {
                        return;
                    }
                    pause(&mut progress.wait).await;
                }
            }
        }
    }

    /// One watch, after a list where one is needed. Returns where it can go on from the version that was seen.
    async fn step(&self, progress: &mut Progress, events: &mpsc::Sender<PodEvent>) -> Result<(), End> {
        let version = match progress.version.clone() {
            Some(version) => version,
            None => {
                let version = self.list(events).await?;
                progress.is_listing = true;
                progress.version = Some(version.clone());
                version
            }
        };
        let connection = self.connection().await?;
        let wanted = WatchParams::default().fields(&self.of_node()).timeout(seconds(self.waits.watch));
        let request = Request::new(PODS).watch(&wanted, &version).map_err(|_| unasked())?;
        let begun = timeout(self.waits.answer, connection.client.request_events::<SeenPod>(request)).await;
        let begun = begun.map_err(|_| no_answer())?.map_err(|error| self.failed(&error))?;
        if std::mem::take(&mut progress.is_listing) {
            tell(events, PodEvent::ListEnds).await?;
        }
        let mut seen = pin!(begun);
        // The API server ends it earlier, unless it is not there any more.
        let end = Instant::now() + self.waits.watch + self.waits.answer;
        let mut look = Instant::now() + FILES_LOOK;
        loop {
            let next = tokio::select! {
                next = seen.next() => next,
                () = sleep_until(look) => {
                    if connection.has_changed().await {
                        tracing::debug!("the identity for the API server has changed; it is read again");
                        return Ok(());
                    }
                    look = Instant::now() + FILES_LOOK;
                    continue;
                }
                () = sleep_until(end) => return Ok(()),
            };
            match next {
                None => return Ok(()),
                Some(Ok(event)) => {
                    progress.wait = ERROR_WAIT;
                    if !self.event(event, progress, events).await? {
                        return Ok(());
                    }
                }
                // Going on from the same version would bring the same again.
                Some(Err(error @ (kube::Error::Api(_) | kube::Error::SerdeError(_)))) => {
                    return Err(self.failed(&error).into());
                }
                Some(Err(error)) => {
                    tracing::debug!(why = said(&error), "the watch of pods was cut; it goes on where it was");
                    return Ok(());
                }
            }
        }
    }

    /// Tells an event, and notes how far the watch is; returns whether it goes on.
    async fn event(
        &self,
        event: WatchEvent<SeenPod>,
        progress: &mut Progress,
        events: &mpsc::Sender<PodEvent>,
    ) -> Result<bool, End> {
        let (version, told) = match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                (pod.resource_version(), Pod::new(raw(pod)).map(PodEvent::Applied))
            }
            WatchEvent::Deleted(pod) => {
                (pod.resource_version(), pod.uid().map(|uid| PodEvent::Deleted { uid }))
            }
            WatchEvent::Bookmark(mark) => (Some(mark.metadata.resource_version), None),
            WatchEvent::Error(status) => return Err(self.failed(&kube::Error::Api(status)).into()),
        };
        if let Some(told) = told {
            tell(events, told).await?;
        }
        // Without a version, the next watch begins with a list.
        let version = version.filter(|version| !version.is_empty());
        let has_version = version.is_some();
        progress.version = version;
        Ok(has_version)
    }

    /// Tells all pods, page after page; returns the version that the watch goes on from. The list's end is told when the
    /// watch has begun.
    async fn list(&self, events: &mpsc::Sender<PodEvent>) -> Result<String, End> {
        tell(events, PodEvent::ListBegins).await?;
        let mut from = None;
        loop {
            let page = self.page(PAGE, from.as_deref()).await?;
            for pod in page.items {
                if let Some(pod) = Pod::new(raw(pod)) {
                    tell(events, PodEvent::Applied(pod)).await?;
                }
            }
            from = page.metadata.continue_.filter(|token| !token.is_empty());
            if from.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                return version.ok_or_else(|| End::Failed("a list of pods has no version".to_owned()));
            }
        }
    }

    /// A page of the list of this node's pods.
    pub(super) async fn page(&self, limit: u32, from: Option<&str>) -> Result<ObjectList<SeenPod>, AskError> {
        let mut wanted = ListParams::default().fields(&self.of_node()).limit(limit);
        wanted.continue_token = from.map(str::to_owned);
        let request = Request::new(PODS).list(&wanted).map_err(|_| unasked())?;
        let answer = self.ask(request).await?;
        serde_json::from_str(&answer)
            .map_err(|_| AskError::Unavailable("the API server's list of pods is not understood".to_owned()))
    }

    /// Asks for a watch of this node's pods and returns once it has begun.
    ///
    /// # Errors
    /// It does not begin.
    pub(super) async fn try_watch(&self, version: &str) -> Result<(), AskError> {
        let wanted = WatchParams::default().fields(&self.of_node()).timeout(1);
        let request = Request::new(PODS).watch(&wanted, version).map_err(|_| unasked())?;
        let client = self.connection().await?.client;
        let begun = timeout(self.waits.answer, client.request_events::<SeenPod>(request)).await;
        begun.map_err(|_| no_answer())?.map(drop).map_err(|error| self.failed(&error))
    }

    /// The selector of this node's pods.
    fn of_node(&self) -> String {
        format!("spec.nodeName={},{NOT_ENDED}", self.node)
    }
}

async fn tell(events: &mpsc::Sender<PodEvent>, event: PodEvent) -> Result<(), End> {
    events.send(event).await.map_err(|_| End::Finished)
}

fn unasked() -> AskError {
    AskError::Unavailable("the question cannot be put".to_owned())
}

/// Whole seconds, for the API server.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Waits, and longer the next time; not at the moment at which every other node does.
async fn pause(wait: &mut Duration) {
    sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
    *wait = (*wait * 2).min(ERROR_WAIT_MAX);
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
        let pod = Pod::new(raw(seen)).unwrap();
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
    fn a_pod_without_what_it_should_have_is_passed_over() {
        let seen: SeenPod = serde_json::from_str(r#"{"metadata":{},"spec":{}}"#).unwrap();
        assert!(Pod::new(raw(seen.clone())).is_none() && seen.uid().is_none());
    }
}
