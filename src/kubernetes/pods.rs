//! The watch of this node's pods: sources tell, a plan is made, images are fetched.
//!
//! Degrades to nothing: a source that fails is told once and tried again by itself, and pulls go on as if there were no
//! watch. One task changes the state; fetches are tasks of their own, ended with their pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::fetch::{FetchAhead, FetchedAhead, NotFetched, Outcome, PodFetcher};
use super::head_start::HeadStart;
use super::metrics::{FetchResult, Metrics};
use super::plan::{Fetch, Plan};
use super::protect;
use super::protect::Running;
use super::secrets::PodSecrets;
use super::service_account::ServiceAccounts;
use super::source::{ImagePresence, PodEvent, PodSource, SecretSource};
use super::state::{HeldBack, SourceChange, State};
use super::status::{PodNumbers, PodOutlook, PodsStatus};
use super::table::PODS_MAX;
use crate::reference::{Image, Reference, Repository};
use crate::store::Store;
use crate::support::shutdown::Shutdown;

/// Events that may wait: a list of pods comes faster than a plan is made.
const EVENTS_MAX: usize = 256;
/// How often what was fetched in vain is looked for, and secrets and tokens are dropped that count no more.
const SWEEP: Duration = Duration::from_secs(60);

/// The part of the store that may be fetched ahead for the pods of one namespace before a runtime asks for any of it:
/// pods that never start are pulled for by no kubelet, which would count what they bring. Beyond it, their fetches
/// wait.
const UNASKED_PART: u64 = 10;

/// What the watch of pods is built from.
pub struct Parts {
    /// Where pods are seen.
    pub sources: Vec<Arc<dyn PodSource>>,
    /// Where pull secrets are read; `None`: they are not.
    pub secrets: Option<Arc<dyn SecretSource>>,
    /// What gives credentials for the pods' service accounts; `None`: no tokens are requested.
    pub accounts: Option<ServiceAccounts>,
    /// What may know that the runtime has an image.
    pub presence: Vec<Arc<dyn ImagePresence>>,
    /// What brings images into the store.
    pub images: Arc<dyn FetchAhead>,
    /// The store, in which images of running pods are protected.
    pub store: Store,
    /// Images of one pod that are fetched at a time.
    pub ahead: usize,
}

/// This node's pods. Cheap to clone.
#[derive(Clone)]
pub struct Pods(Arc<Inner>);

struct Inner {
    sources: Vec<Arc<dyn PodSource>>,
    fetcher: PodFetcher,
    store: Store,
    state: Mutex<State>,
    running: Running,
    head_start: HeadStart,
    metrics: Metrics,
}

/// Fetches under way.
#[derive(Default)]
struct Fetches {
    /// See [`UNASKED_PART`]; in bytes.
    unasked_max: u64,
    tasks: JoinSet<Outcome>,
    handles: HashMap<Fetch, UnderWay>,
}

/// A fetch under way.
struct UnderWay {
    handle: AbortHandle,
    /// Bytes that have come.
    arrived: Arc<AtomicU64>,
    /// The namespace of the pod that it was begun for.
    namespace: String,
}

impl Pods {
    /// A watch that does nothing until [`Pods::run`].
    pub fn new(parts: Parts, metrics: Metrics) -> Self {
        let Parts { sources, secrets, accounts, presence, images, store, ahead } = parts;
        let names: Vec<&str> = sources.iter().map(|source| source.name()).collect();
        names.iter().for_each(|name| metrics.connected(name, false));
        let state = Mutex::new(State::new(&names, ahead));
        let (secrets, is_short_of_places) = (secrets.map(PodSecrets::new), Arc::default());
        let fetcher = PodFetcher { images, secrets, presence, accounts, is_short_of_places };
        let (running, head_start) = (Running::default(), HeadStart::default());
        Self(Arc::new(Inner { sources, fetcher, store, state, running, head_start, metrics }))
    }

    /// Watches and fetches until `shutdown`. Returns at once where there is no source.
    pub async fn run(self, shutdown: Shutdown) {
        if self.0.sources.is_empty() {
            return;
        }
        let this = self.clone();
        let store = self.0.store.clone();
        let protected =
            protect::run(&self.0.running, store, |blobs| this.0.metrics.protected(blobs), shutdown.clone());
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut telling = JoinSet::new();
        for (at, source) in self.0.sources.iter().enumerate() {
            telling.spawn(tell(Arc::clone(source), at, sender.clone(), shutdown.clone()));
        }
        drop(sender);
        tokio::join!(protected, self.follow(events, shutdown));
        telling.shutdown().await;
    }

    /// A runtime asked for an image and was answered.
    pub fn asked(&self, repository: &Repository, reference: &Reference) {
        self.0.head_start.asked(repository, reference, &self.0.metrics);
        self.0.running.look_again(&Image { repository: repository.clone(), reference: reference.clone() });
    }

    /// The numbers; `None` where this node's pods are not watched.
    pub fn numbers(&self) -> Option<PodNumbers> {
        if self.0.sources.is_empty() {
            return None;
        }
        let (known, fetching) = self.0.state.lock().counts();
        let (found_all, found_part) = self.0.head_start.found();
        let protected_blobs = self.0.store.protected();
        Some(PodNumbers { known, fetching, found_all, found_part, protected_blobs })
    }

    /// The sources, and what could not be fetched.
    pub fn status(&self) -> PodsStatus {
        let runtime_problem = self.0.fetcher.presence.iter().find_map(|presence| presence.problem());
        PodsStatus { runtime_problem, ..self.0.state.lock().status() }
    }

    /// The pods that have an image, and how far it is for each.
    pub fn outlook(&self, image: &Image) -> Vec<PodOutlook> {
        self.0.state.lock().outlook(image)
    }

    async fn follow(&self, mut events: mpsc::Receiver<(usize, PodEvent)>, mut shutdown: Shutdown) {
        let mut fetches = Fetches { unasked_max: self.unasked_max().await, ..Fetches::default() };
        let mut look_again: Option<Instant> = None;
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wait = async {
                match look_again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    let mut changed = self.apply(event);
                    while let Ok(event) = events.try_recv() {
                        changed |= self.apply(event);
                    }
                    if changed {
                        let running = self.0.state.lock().running();
                        self.0.running.change_to(running);
                    }
                }
                Some(ended) = fetches.tasks.join_next_with_id() => self.ended(ended, &mut fetches),
                () = wait => {}
                _ = sweep.tick() => {
                    self.0.head_start.sweep(&self.0.metrics);
                    self.0.fetcher.forget_old();
                    fetches.unasked_max = self.unasked_max().await;
                }
                () = shutdown.requested() => return,
            }
            look_again = self.act(&mut fetches);
        }
    }

    /// Applies what a source tells; returns whether pods changed.
    fn apply(&self, (source, mut event): (usize, PodEvent)) -> bool {
        if let PodEvent::Applied(pod) = &mut event {
            self.0.fetcher.mark(pod);
        }
        let name = self.0.sources.get(source).map_or("", |source| source.name());
        let changed = self.0.state.lock().apply(source, event);
        match changed.source {
            SourceChange::Seen => {
                tracing::info!(source = name, "this node's pods are seen");
                self.0.metrics.connected(name, true);
            }
            SourceChange::Lost(why) => {
                tracing::warn!(
                    source = name,
                    why,
                    "not all of this node's pods are seen; images of others are fetched when a runtime asks for them"
                );
                self.0.metrics.connected(name, false);
            }
            SourceChange::StillLost(why) => {
                tracing::debug!(source = name, why, "this node's pods are still not seen");
            }
            SourceChange::None => {}
        }
        if changed.is_full {
            tracing::warn!(
                pods = PODS_MAX,
                "there are more pods than are followed; images of the others are fetched when a runtime asks for them"
            );
        }
        changed.pods
    }

    /// Does what is to be done now; returns when to look again.
    fn act(&self, fetches: &mut Fetches) -> Option<Instant> {
        let (Plan { begin, end, look_again, is_short_of_places }, (pods, fetching)) = {
            let held_back =
                HeldBack { registries: self.0.head_start.unused(), namespaces: self.held_back(fetches) };
            let mut state = self.0.state.lock();
            (state.plan(held_back, Instant::now()), state.counts())
        };
        self.0.metrics.state(pods, fetching);
        self.0.fetcher.is_short_of_places.store(is_short_of_places, Ordering::Relaxed);
        for fetch in end {
            if let Some(UnderWay { handle, arrived, .. }) = fetches.handles.remove(&fetch) {
                handle.abort();
                let arrived = arrived.load(Ordering::Relaxed);
                self.0.metrics.ended(FetchResult::Ended, arrived);
                self.0.head_start.ended(&fetch.image, arrived);
            }
        }
        for fetch in begin {
            let (this, own, arrived) = (self.clone(), fetch.clone(), Arc::<AtomicU64>::default());
            let (account, pod) = {
                let state = self.0.state.lock();
                (state.pod_account(&fetch), state.pod_of(&fetch))
            };
            let (counted, namespace) = (Arc::clone(&arrived), pod.namespace.clone());
            self.0.head_start.begun(&fetch.image, pod);
            let fetched = async move { this.0.fetcher.fetch(&own, account, &counted).await };
            let handle = fetches.tasks.spawn(fetched);
            fetches.handles.insert(fetch, UnderWay { handle, arrived, namespace });
        }
        look_again
    }

    /// Namespaces for whose pods more was fetched that no runtime has asked for than one may have.
    fn held_back(&self, fetches: &Fetches) -> HashSet<String> {
        let mut bytes = self.0.head_start.unasked_bytes();
        for UnderWay { arrived, namespace, .. } in fetches.handles.values() {
            *bytes.entry(namespace.clone()).or_default() += arrived.load(Ordering::Relaxed);
        }
        let is_over = |(namespace, bytes)| (bytes > fetches.unasked_max).then_some(namespace);
        bytes.into_iter().filter_map(is_over).collect()
    }

    /// How many bytes that no runtime has asked for a namespace may have; without a bound where the store's size is
    /// unknown.
    async fn unasked_max(&self) -> u64 {
        let limits = self.0.store.limits().await;
        limits.map_or(u64::MAX, |limits| limits.max_bytes / UNASKED_PART)
    }

    fn ended(&self, ended: Result<(Id, Outcome), JoinError>, fetches: &mut Fetches) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Outcome::NotHere(NotFetched::Failed(error.to_string()))),
        };
        // One that was ended with its pod is not among the handles any more.
        let of_task = fetches.handles.iter().find(|(_, under_way)| under_way.handle.id() == id);
        let Some(fetch) = of_task.map(|(fetch, _)| fetch.clone()) else { return };
        let under_way = fetches.handles.remove(&fetch);
        let arrived = under_way.map_or(0, |under_way| under_way.arrived.load(Ordering::Relaxed));
        let image = &fetch.image;
        match &outcome {
            Outcome::Here(FetchedAhead { fetched_bytes, is_whole }) => {
                if *is_whole {
                    self.0.head_start.fetched(image, arrived);
                } else {
                    self.0.head_start.ended(image, arrived);
                }
                if *fetched_bytes > 0 {
                    tracing::info!(%image, fetched_bytes, is_whole, "an image of a pod was fetched ahead of kubelet");
                }
                self.0.running.look_again(image);
            }
            Outcome::InRuntime => self.0.head_start.ended(image, arrived),
            Outcome::NotHere(not_fetched) => {
                self.0.head_start.ended(image, arrived);
                let why = not_fetched.why();
                tracing::debug!(%image, why, "an image of a pod was not fetched ahead of kubelet");
            }
        }
        self.0.metrics.ended(outcome.result(), arrived);
        self.0.state.lock().ended(&fetch, &outcome, Instant::now());
    }
}

/// Passes on what a source tells.
async fn tell(
    source: Arc<dyn PodSource>,
    at: usize,
    events: mpsc::Sender<(usize, PodEvent)>,
    shutdown: Shutdown,
) {
    let (sender, mut told) = mpsc::channel(EVENTS_MAX);
    let pass_on = async {
        while let Some(event) = told.recv().await {
            if events.send((at, event)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(source.run(sender, shutdown), pass_on);
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
