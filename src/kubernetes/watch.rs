//! The API server's watch of this node's pods: a list, then a watch from where the list ended.
//!
//! Promises: a watch that ends or is cut goes on from the last version that was seen; where that fails, and after `410 Gone`
//! or an event that is not understood, all pods are listed anew. The source counts as lost from the failure until a watch has
//! begun again, whether a pod changes or not. Every list and every beginning of a watch has an end; an error is told and
//! waited after, longer each time; a changed identity is taken up within seconds; of a pod only what its images need is kept.
//! A pod that is bound to another node is passed over, although only this node's are asked for: what answers may be a proxy
//! that does not select, and a pod of another node is none that kubelet pulls for here.
//! Not the client's own watcher: it does not say when a watch has begun again, and waits for an answer for ever.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer_bounds::{Bound, OBJECT_BYTES_MAX, PAGE_BYTES_MAX, TooLarge};
use super::api_error::said;
use super::api_server::{ApiServer, AskError, FILES_LOOK, no_answer};
use super::pod::Pod;
use super::seen_pod::{SeenPod, raw};
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
/// Pages of one list at most, ten thousand pods: a list that goes on has no end.
const PAGES_MAX: usize = 500;
/// The pods of all namespaces.
const PODS: &str = "/api/v1/pods";

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
        let request = as_watch(Request::new(PODS).watch(&wanted, &version).map_err(|_| unasked())?);
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
                Some(Err(error))
                    if matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_))
                        || TooLarge::is_cause_of(&error) =>
                {
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
                let (version, is_own) = (pod.resource_version(), self.is_own(&pod));
                (version, Pod::new(raw(pod)).filter(|_| is_own).map(PodEvent::Applied))
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
        for _ in 0..PAGES_MAX {
            let page = self.page(PAGE, from.as_deref()).await?;
            for pod in page.items.into_iter().filter_map(|pod| Pod::new(raw(pod))) {
                tell(events, PodEvent::Applied(pod)).await?;
            }
            from = page.metadata.continue_.filter(|token| !token.is_empty());
            if from.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                return version.ok_or_else(|| End::Failed("a list of pods has no version".to_owned()));
            }
        }
        Err(End::Failed(format!("a list of pods has more than {PAGES_MAX} pages")))
    }

    /// Whether a pod is bound to this node.
    fn is_own(&self, pod: &SeenPod) -> bool {
        let is_own = pod.spec.node_name == self.node;
        if !is_own {
            let name = &pod.metadata.name;
            tracing::debug!(?name, "the API server tells of a pod of another node; it is passed over");
        }
        is_own
    }

    /// A page of the list of this node's pods.
    pub(super) async fn page(&self, limit: u32, from: Option<&str>) -> Result<ObjectList<SeenPod>, AskError> {
        let mut wanted = ListParams::default().fields(&self.of_node()).limit(limit);
        wanted.continue_token = from.map(str::to_owned);
        let request = Request::new(PODS).list(&wanted).map_err(|_| unasked())?;
        let answer = self.ask_bounded(request, PAGE_BYTES_MAX).await?;
        let not_understood =
            |_| AskError::Unavailable("the API server's list of pods is not understood".to_owned());
        let mut page: ObjectList<SeenPod> = serde_json::from_str(&answer).map_err(not_understood)?;
        page.items.retain(|pod| self.is_own(pod));
        Ok(page)
    }

    /// Asks for a watch of this node's pods and returns once it has begun.
    ///
    /// # Errors
    /// It does not begin.
    pub(super) async fn try_watch(&self, version: &str) -> Result<(), AskError> {
        let wanted = WatchParams::default().fields(&self.of_node()).timeout(1);
        let request = as_watch(Request::new(PODS).watch(&wanted, version).map_err(|_| unasked())?);
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

/// The request of a watch, whose events are bounded.
fn as_watch(mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    request.extensions_mut().insert(Bound::Line(OBJECT_BYTES_MAX));
    request
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
