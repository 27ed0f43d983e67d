//! The API server's watch of this node's pods: a list, then a watch from where the list ended.
//!
//! Promises: a watch that ends or is cut, and one that cannot begin, goes on from the last version that was seen; all
//! pods are listed anew after `410 Gone` and an event that is not understood, or too large, and about every hour: an
//! API server whose etcd was restored from a backup counts from an earlier version, tells nothing to a watch from a
//! later one, and does not say so. Listed is what the API server has in its memory, in one piece: a list in pages is
//! read from etcd, which has no index by node, and every node of a cluster asks at once when an API server comes back.
//! Pages are for a list that is larger than is taken. The source counts as lost from the failure until a watch has
//! begun again, whether a pod changes or not. Every list and every beginning of a watch has an end; an error is told
//! and waited after, longer each time, and for as long as a busy API server says; a changed identity is taken up within
//! seconds; of a pod only what its images need is kept. A pod that is bound to another node is passed over, although
//! only this node's are asked for: what answers may be a proxy that does not select, and a pod of another node is none
//! that kubelet pulls for here. Not the client's own watcher: it does not say when a watch has begun again, and waits
//! for an answer for ever.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer_bounds::{Bound, OBJECT_BYTES_MAX, PAGE_BYTES_MAX, TooLarge, cause};
use super::client::{ApiServer, AskError, FILES_LOOK, no_answer};
use super::error::text_of;
use super::seen_pod::{SeenPod, raw};
use super::watch_progress::Progress;
use crate::kubernetes::pod::Pod;
use crate::kubernetes::source::{PodEvent, PodSource};
use crate::support::shutdown::Shutdown;

/// The wait after an error at most.
const ERROR_WAIT_MAX: Duration = Duration::from_secs(30);
/// Pods that have ended stay in the API server until they are removed, and are of no interest.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// A watch that ends sooner is asked for again only after a wait.
const SHORT_WATCH: Duration = Duration::from_secs(5);
/// When all pods are listed again after a list failed while the watch works.
const LIST_AGAIN: Duration = Duration::from_secs(300);
/// Watches in a row that end sooner, and without an event, after which the source sees nothing: something in between
/// answers, and lets no watch through. One or two are those of an API server that is replaced.
const SHORT_WATCHES_MAX: u32 = 3;
/// Pods of a page, each of 1.5 MB at most: bounds what one answer takes in memory.
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
    /// The source sees nothing at present.
    Failed(Failure),
}

/// What went wrong.
struct Failure {
    why: String,
    /// Whether the version is of no use any more: all pods are listed anew.
    forgets: bool,
    /// How long the API server is left alone at least.
    wait: Duration,
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let wait = if let AskError::Busy(wait) = error { wait } else { Duration::ZERO };
        Self { why: error.to_string(), forgets: matches!(error, AskError::Gone(_)), wait }
    }
}

impl From<AskError> for End {
    fn from(error: AskError) -> Self {
        Self::Failed(error.into())
    }
}

impl End {
    /// An event that came and cannot be used: going on from the same version would bring the same again.
    fn anew(error: AskError) -> Self {
        let failure = Failure::from(error);
        Self::Failed(Failure { forgets: failure.wait.is_zero(), ..failure })
    }
}

impl ApiServer {
    /// Watches again and again. Ends when nothing receives the events any more.
    async fn watch(&self, events: &mpsc::Sender<PodEvent>) {
        let mut progress = Progress::new();
        loop {
            let failure = match self.step(&mut progress, events).await {
                Ok(begun_at) if begun_at.elapsed() >= self.short_watch() => continue,
                Ok(_) if progress.short_watches < SHORT_WATCHES_MAX || progress.is_lost => None,
                Ok(_) => {
                    let why = "watches end as soon as they have begun".to_owned();
                    Some(Failure { why, forgets: false, wait: Duration::ZERO })
                }
                Err(End::Finished) => return,
                Err(End::Failed(failure)) => Some(failure),
            };
            let mut at_least = Duration::ZERO;
            if let Some(Failure { why, forgets, wait }) = failure {
                if forgets {
                    progress.version = None;
                }
                (at_least, progress.is_lost) = (wait, true);
                if events.send(PodEvent::Lost(why)).await.is_err() {
                    return;
                }
            }
            pause(&mut progress.wait, at_least).await;
        }
    }

    /// A watch that ends sooner is short; not one that ends as it was asked for.
    fn short_watch(&self) -> Duration {
        SHORT_WATCH.min(self.waits.watch)
    }

    /// From where the watch goes on, after a list where one is needed or due.
    async fn version(&self, progress: &mut Progress, events: &mpsc::Sender<PodEvent>) -> Result<String, End> {
        if let Some(version) = progress.goes_on_from() {
            return Ok(version);
        }
        let every = self.waits.list_every;
        match (self.list(events).await, &progress.version) {
            (Ok(version), _) => {
                progress.has_listed(version.clone(), every);
                Ok(version)
            }
            // It was a precaution: the watch goes on from where it was.
            (Err(End::Failed(failure)), Some(version)) => {
                tracing::debug!(why = failure.why, "pods are listed anew later");
                // What was told of this list is no list.
                progress.is_listing = false;
                progress.list_at = Instant::now() + LIST_AGAIN.min(every);
                Ok(version.clone())
            }
            (Err(end), _) => Err(end),
        }
    }

    /// One watch, after a list where one is needed. Returns when it began, where it can go on from the version that was
    /// seen.
    async fn step(&self, progress: &mut Progress, events: &mpsc::Sender<PodEvent>) -> Result<Instant, End> {
        let version = self.version(progress, events).await?;
        let connection = self.connection().await?;
        let wanted = WatchParams::default().fields(&self.of_node()).timeout(seconds(self.waits.watch));
        let request = as_watch(Request::new(PODS).watch(&wanted, &version).map_err(|_| unasked())?);
        let begun = timeout(self.waits.answer, connection.client.request_events::<SeenPod>(request)).await;
        let begun = begun.map_err(|_| no_answer())?.map_err(|error| self.failed(&error))?;
        let begun_at = Instant::now();
        progress.short_watches = progress.short_watches.saturating_add(1);
        // After several that ended at once the next one has to show that it does not.
        if progress.short_watches <= SHORT_WATCHES_MAX {
            tell_begun(progress, events).await?;
        }
        let mut seen = pin!(begun);
        // The API server ends it earlier, unless it is not there any more.
        let end = begun_at + self.waits.watch + self.waits.answer;
        let (mut look, lives_at) = (begun_at + FILES_LOOK, begun_at + self.short_watch());
        loop {
            let next = tokio::select! {
                next = seen.next() => next,
                () = sleep_until(lives_at), if progress.short_watches > 0 => {
                    progress.works();
                    tell_begun(progress, events).await?;
                    continue;
                }
                () = sleep_until(look) => {
                    if connection.has_changed().await {
                        tracing::debug!("the identity for the API server has changed; it is read again");
                        return Ok(begun_at);
                    }
                    look = Instant::now() + FILES_LOOK;
                    continue;
                }
                () = sleep_until(end) => return Ok(begun_at),
            };
            match next {
                None => return Ok(begun_at),
                Some(Ok(event)) => {
                    if !matches!(event, WatchEvent::Error(_)) {
                        progress.works();
                        tell_begun(progress, events).await?;
                    }
                    if !self.event(event, progress, events).await? {
                        return Ok(begun_at);
                    }
                }
                Some(Err(error))
                    if matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_))
                        || cause::<TooLarge>(&error).is_some() =>
                {
                    return Err(End::anew(self.failed(&error)));
                }
                Some(Err(error)) => {
                    tracing::debug!(
                        why = text_of(&error),
                        "the watch of pods was cut; it goes on where it was"
                    );
                    return Ok(begun_at);
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
            WatchEvent::Error(status) => return Err(End::anew(self.failed(&kube::Error::Api(status)))),
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

    /// Tells all pods; returns the version that the watch goes on from. The list's end is told when the watch has
    /// begun.
    async fn list(&self, events: &mpsc::Sender<PodEvent>) -> Result<String, End> {
        tell(events, PodEvent::ListBegins).await?;
        let mut page = match self.page(None, None).await {
            Err(AskError::TooLarge(why)) => {
                tracing::debug!(why, "all pods of this node are listed in pages");
                self.page(Some(PAGE), None).await?
            }
            whole => whole?,
        };
        for _ in 0..PAGES_MAX {
            for pod in page.items.into_iter().filter_map(|pod| Pod::new(raw(pod))) {
                tell(events, PodEvent::Applied(pod)).await?;
            }
            let Some(next) = page.metadata.continue_.filter(|token| !token.is_empty()) else {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                return version.ok_or_else(|| not_usable("a list of pods has no version".to_owned()).into());
            };
            page = self.page(Some(PAGE), Some(&next)).await?;
        }
        Err(not_usable(format!("a list of pods has more than {PAGES_MAX} pages")).into())
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

    /// A page of the list of this node's pods; without a limit all of them, as the API server has them in its memory.
    pub(super) async fn page(
        &self,
        limit: Option<u32>,
        from: Option<&str>,
    ) -> Result<ObjectList<SeenPod>, AskError> {
        let mut wanted = ListParams::default().fields(&self.of_node());
        wanted.continue_token = from.map(str::to_owned);
        wanted = match limit {
            Some(limit) => wanted.limit(limit),
            None => wanted.at("0"),
        };
        let request = Request::new(PODS).list(&wanted).map_err(|_| unasked())?;
        let answer = self.ask_bounded(request, PAGE_BYTES_MAX).await?;
        let not_understood = |_| not_usable("the API server's list of pods is not understood".to_owned());
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

/// Tells that the source sees pods from now on, if that is news.
async fn tell_begun(progress: &mut Progress, events: &mpsc::Sender<PodEvent>) -> Result<(), End> {
    let was_lost = std::mem::take(&mut progress.is_lost);
    if std::mem::take(&mut progress.is_listing) {
        tell(events, PodEvent::ListEnds).await
    } else if was_lost {
        tell(events, PodEvent::Resumed).await
    } else {
        Ok(())
    }
}

/// The request of a watch, whose events are bounded.
fn as_watch(mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    request.extensions_mut().insert(Bound::Line(OBJECT_BYTES_MAX));
    request
}

fn unasked() -> AskError {
    not_usable("the question cannot be put".to_owned())
}

fn not_usable(why: String) -> AskError {
    AskError::Unavailable(why)
}

/// Whole seconds, for the API server.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Waits, `at_least` so long, and longer the next time; not until the moment at which every other node asks again.
async fn pause(wait: &mut Duration, at_least: Duration) {
    let own = wait.mul_f64(0.5 + fastrand::f64());
    sleep(own.max(at_least.mul_f64(1.0 + fastrand::f64() / 2.0))).await;
    *wait = (*wait * 2).min(ERROR_WAIT_MAX);
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
