//! `[prepull]`: the list of images that the daemon fetches by itself, and checks again and again.
//!
//! A list that changed is taken up when the check that is under way has ended. An image that the list pinned and does
//! not name any more is unpinned; what a command pinned stays. What cannot be read of the list stops nothing else of it,
//! and unpins nothing. When which image is checked: `schedule`.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::config::Config;
use super::event::{Event, Summary};
use super::fetch::Fetcher;
use super::kubernetes::{self, SecretManifest};
use super::metrics::Metrics;
use super::order::{Order, PinOwner, RequestedImage, merge_duplicates};
use super::pins;
use super::plan::Platforms;
use super::schedule::{Schedule, Times};
use crate::credentials::{PullSecretError, PullSecrets};
use crate::reference::Image;
use crate::store::Store;
use crate::support::clock::{Clock, Timestamp};
use crate::support::shutdown::Shutdown;

/// Events that may wait to be received.
const EVENTS_MAX: usize = 256;

/// The list and its status. Cheap to clone.
#[derive(Clone)]
pub struct List(Arc<Inner>);

struct Inner {
    config: watch::Sender<Config>,
    status: Mutex<ListStatus>,
    metrics: Metrics,
}

/// The status of the list, for an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStatus {
    /// Images on the list.
    pub images: usize,
    /// Whether they are being checked now.
    pub running: bool,
    /// When the last check ended.
    pub finished_at: Option<Timestamp>,
    /// The result of the last check of every image, with what was tried again since.
    pub summary: Summary,
    /// The images that failed, and why.
    pub failed: Vec<(String, String)>,
    /// Why the list, or some of it, cannot be read.
    pub problem: Option<String>,
}

impl List {
    /// A list that is not checked yet.
    pub fn new(config: Config, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { config: watch::Sender::new(config), status: Mutex::default(), metrics }))
    }

    /// Replaces the list. The next check begins at once.
    pub fn replace(&self, config: Config) {
        // Even if the list is the same: its manifests and secrets may have changed.
        self.0.config.send_replace(config);
    }

    /// The status now.
    pub fn status(&self) -> ListStatus {
        self.0.status.lock().clone()
    }

    /// Checks the list again and again, until `shutdown`.
    pub async fn run(self, fetcher: Fetcher, clock: Clock, mut shutdown: Shutdown) {
        let mut changes = self.0.config.subscribe();
        let mut config = changes.borrow_and_update().clone();
        let mut schedule = Schedule::at_start(Instant::now(), times(&config), fastrand::f64());
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(schedule.at()) => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    config = changes.borrow_and_update().clone();
                    schedule = Schedule::at_once(Instant::now());
                }
                () = shutdown.requested() => return,
            }
            tokio::select! {
                () = self.check(&fetcher, &config, &mut schedule, &clock) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    /// Checks the images that are due.
    async fn check(&self, fetcher: &Fetcher, config: &Config, schedule: &mut Schedule, clock: &Clock) {
        let Listed { images, problem } = listed(config).await;
        self.0.metrics.show_list(problem.is_none());
        let all: Vec<Image> = images.iter().map(|requested| requested.image.clone()).collect();
        match &problem {
            // An image that seems to be gone may stand in what cannot be read: it keeps its pin.
            Some(problem) => tracing::error!(%problem, "the list of images in [prepull] cannot be read"),
            None => unpin(fetcher.store(), if config.pin { &images } else { &[] }).await,
        }
        if images.is_empty() && problem.is_some() {
            self.0.status.lock().problem = problem;
            return schedule.ended(Instant::now(), [], false, times(config), fastrand::f64());
        }
        let due = schedule.begin(Instant::now(), images, times(config), fastrand::f64());
        let requested: Vec<Image> = due.iter().map(|requested| requested.image.clone()).collect();
        {
            let mut status = self.0.status.lock();
            status.images = all.len();
            status.running = true;
            status.problem = problem.clone();
        }
        let order = Order {
            images: due,
            platforms: Platforms::of(config.platforms.clone()),
            pin: config.pin.then_some(PinOwner::List),
            concurrency: config.concurrency,
        };
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (fetched, failed) = tokio::join!(fetcher.run(order, sender), failures(events));
        let present = requested.into_iter().filter(|image| {
            let name = image.to_string();
            !failed.iter().any(|(failed, _)| *failed == name)
        });
        let is_complete = failed.is_empty() && problem.is_none();
        schedule.ended(Instant::now(), present, is_complete, times(config), fastrand::f64());
        let pulled = all.iter().filter(|image| schedule.has(image)).count();
        let mut status = self.0.status.lock();
        let before =
            if fetched.pulled + fetched.failed == all.len() { Summary::default() } else { status.summary };
        let summary = Summary {
            pulled,
            failed: failed.len(),
            bytes: before.bytes + fetched.bytes,
            shared_bytes: before.shared_bytes + fetched.shared_bytes,
            fetched_bytes: before.fetched_bytes + fetched.fetched_bytes,
        };
        self.0.metrics.show(&summary);
        *status = ListStatus {
            images: all.len(),
            running: false,
            finished_at: Some(clock.now()),
            summary,
            failed,
            problem,
        };
    }
}

fn times(config: &Config) -> Times {
    Times { interval: config.interval, jitter: config.jitter }
}

/// Logs what happens, and collects the images that failed.
async fn failures(mut events: mpsc::Receiver<Event>) -> Vec<(String, String)> {
    let mut failed = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Failed { image, error } => {
                tracing::warn!(%image, %error, "an image of [prepull] could not be fetched");
                failed.push((image, error));
            }
            Event::Pulled { image, fetched_bytes, .. } if fetched_bytes > 0 => {
                tracing::info!(%image, fetched_bytes, "an image of [prepull] was fetched");
            }
            _ => {}
        }
    }
    failed
}

/// Unpins what the list pinned and does not name any more.
async fn unpin(store: &Store, listed: &[RequestedImage]) {
    for pin in pins::no_longer_listed(store.pins(), listed) {
        match store.remove_pin(pin.clone()).await {
            Ok(()) => {
                tracing::info!(
                    repository = %pin.repository,
                    reference = pin.reference,
                    "an image that is not in [prepull] any more was unpinned"
                );
            }
            Err(error) => tracing::warn!(%error, "an image cannot be unpinned"),
        }
    }
}

/// What could be read of the list.
#[derive(Default)]
struct Listed {
    /// Every image once, with all secrets that are given for it.
    images: Vec<RequestedImage>,
    /// Why that is not the whole list.
    problem: Option<String>,
}

async fn listed(config: &Config) -> Listed {
    let config = config.clone();
    let read = tokio::task::spawn_blocking(move || read(config)).await;
    read.unwrap_or_else(|error| Listed { problem: Some(error.to_string()), ..Listed::default() })
}

/// Blocks. What can be read is fetched, whatever stands beside it; an image is not asked for without the pull secrets
/// that are meant for it.
fn read(config: Config) -> Listed {
    let common = match PullSecrets::read(&config.pull_secrets) {
        Ok(common) => common,
        Err(error) => return Listed { problem: Some(error.to_string()), ..Listed::default() },
    };
    let mut all: Vec<RequestedImage> =
        config.images.into_iter().map(|image| RequestedImage { image, secrets: common.clone() }).collect();
    let mut problem = None;
    let found = config.manifests.map_or(Ok(Vec::new()), |path| kubernetes::read(&path));
    for found in found.unwrap_or_else(|error| {
        problem = Some(error.to_string());
        Vec::new()
    }) {
        match secrets_of(&found.secrets) {
            Ok(mut secrets) => {
                secrets.merge(&common);
                all.push(RequestedImage { image: found.image, secrets });
            }
            Err(error) => problem = problem.or(Some(error.to_string())),
        }
    }
    Listed { images: merge_duplicates(all), problem }
}

fn secrets_of(manifests: &[SecretManifest]) -> Result<PullSecrets, PullSecretError> {
    let mut secrets = PullSecrets::default();
    for SecretManifest { path, content } in manifests {
        secrets.add(path, content.as_bytes())?;
    }
    Ok(secrets)
}
