//! `[prepull]`: the list of images that the daemon fetches by itself, and checks again and again.
//!
//! A list that changed is taken up when the check that is under way has ended. An image that the list pinned and does
//! not name any more is unpinned; what a command pinned stays.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::config::Config;
use super::event::{Event, Summary};
use super::fetch::Fetcher;
use super::kubernetes::{self, SecretManifest};
use super::metrics::Metrics;
use super::order::{Order, PinOwner, RequestedImage, merge_duplicates};
use super::pins;
use super::plan::Platforms;
use crate::credentials::PullSecrets;
use crate::store::Store;
use crate::support::clock::{Clock, Timestamp};
use crate::support::shutdown::Shutdown;

/// A failed image is tried again after this, or after the interval if that is shorter.
const RETRY_WAIT: Duration = Duration::from_secs(300);
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
    /// The result of the last check.
    pub summary: Summary,
    /// The images that failed, and why.
    pub failed: Vec<(String, String)>,
    /// Why the list itself cannot be used.
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
        loop {
            let config = changes.borrow_and_update().clone();
            let wait = tokio::select! {
                wait = self.check(&fetcher, &config, &clock) => wait,
                () = shutdown.requested() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = shutdown.requested() => return,
            }
        }
    }

    /// Checks every image once; returns how long to wait before the next time.
    async fn check(&self, fetcher: &Fetcher, config: &Config, clock: &Clock) -> Duration {
        let requested = match requested(config).await {
            Ok(requested) => requested,
            Err(problem) => {
                tracing::error!(%problem, "the list of images in [prepull] cannot be used");
                self.0.status.lock().problem = Some(problem);
                return RETRY_WAIT.min(config.interval);
            }
        };
        {
            let mut status = self.0.status.lock();
            status.images = requested.len();
            status.running = true;
        }
        unpin(fetcher.store(), if config.pin { &requested } else { &[] }).await;
        let order = Order {
            images: requested,
            platforms: Platforms::of(config.platforms.clone()),
            pin: config.pin.then_some(PinOwner::List),
            concurrency: config.concurrency,
        };
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (summary, failed) = tokio::join!(fetcher.run(order, sender), failures(events));
        self.0.metrics.show(&summary);
        let none_failed = failed.is_empty();
        *self.0.status.lock() = ListStatus {
            images: summary.pulled + summary.failed,
            running: false,
            finished_at: Some(clock.now()),
            summary,
            failed,
            problem: None,
        };
        if none_failed { config.interval } else { RETRY_WAIT.min(config.interval) }
    }
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

/// Every image of the list once, with all secrets that are given for it.
async fn requested(config: &Config) -> Result<Vec<RequestedImage>, String> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || read(config)).await.map_err(|e| e.to_string())?
}

/// Blocks.
fn read(config: Config) -> Result<Vec<RequestedImage>, String> {
    let common = PullSecrets::read(&config.pull_secrets).map_err(|e| e.to_string())?;
    let mut all: Vec<RequestedImage> =
        config.images.into_iter().map(|image| RequestedImage { image, secrets: common.clone() }).collect();
    if let Some(path) = &config.manifests {
        for found in kubernetes::read(path).map_err(|e| e.to_string())? {
            let mut secrets = PullSecrets::default();
            for SecretManifest { path, content } in found.secrets {
                secrets.add(&path, content.as_bytes()).map_err(|e| e.to_string())?;
            }
            secrets.merge(&common);
            all.push(RequestedImage { image: found.image, secrets });
        }
    }
    Ok(merge_duplicates(all))
}
