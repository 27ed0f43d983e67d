//! `[prepull]`: the images that the daemon keeps by itself, looked at again and again.
//!
//! A list that changed is taken up when the look that is under way has ended. What the list pinned and does not name any
//! more is let go; what a command pinned is not its business.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::kubernetes::{self, SecretManifest};
use super::metrics::Metrics;
use super::{Config, Event, Fetcher, Order, PinnedFor, Platforms, Summary, Wanted, once};
use crate::credentials::PullSecrets;
use crate::store::Store;
use crate::support::clock::{Clock, Timestamp};
use crate::support::shutdown::Shutdown;

/// A failed image is tried again after this, or after the interval if that is shorter.
const AGAIN: Duration = Duration::from_secs(300);
/// Events that may wait to be heard.
const EVENTS: usize = 256;

/// The list, and how it stands. Cheap to clone.
#[derive(Clone)]
pub struct List(Arc<Inner>);

struct Inner {
    config: watch::Sender<Config>,
    status: Mutex<ListStatus>,
    metrics: Metrics,
}

/// How the list stands, for an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStatus {
    /// Images on it.
    pub images: usize,
    /// Whether they are being looked at just now.
    pub running: bool,
    /// When that last ended.
    pub finished_at: Option<Timestamp>,
    /// What came of it.
    pub summary: Summary,
    /// The images that failed, and why.
    pub failed: Vec<(String, String)>,
    /// Why the list itself cannot be used.
    pub problem: Option<String>,
}

impl List {
    /// A list that nobody works on yet.
    pub fn new(config: Config, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { config: watch::Sender::new(config), status: Mutex::default(), metrics }))
    }

    /// Another list from now on.
    pub fn replace(&self, config: Config) {
        // Even if it is the same: its manifests and secrets may have changed.
        self.0.config.send_replace(config);
    }

    /// How it stands.
    pub fn status(&self) -> ListStatus {
        self.status_mut().clone()
    }

    /// Works on it until `shutdown`.
    pub async fn run(self, fetcher: Fetcher, clock: Clock, mut shutdown: Shutdown) {
        let mut changes = self.0.config.subscribe();
        loop {
            let config = changes.borrow_and_update().clone();
            let wait = tokio::select! {
                wait = self.work(&fetcher, &config, &clock) => wait,
                () = shutdown.requested() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = shutdown.requested() => return,
            }
        }
    }

    /// Looks at every image once; returns how long to wait before the next time.
    async fn work(&self, fetcher: &Fetcher, config: &Config, clock: &Clock) -> Duration {
        let wanted = match wanted(config).await {
            Ok(wanted) => wanted,
            Err(problem) => {
                tracing::error!(%problem, "the list of images to keep cannot be used");
                self.status_mut().problem = Some(problem);
                return AGAIN.min(config.interval);
            }
        };
        *self.status_mut() = ListStatus { images: wanted.len(), running: true, ..self.status() };
        self.let_go(&fetcher.store, config, &wanted).await;
        let order = Order {
            images: wanted,
            platforms: Platforms::of(config.platforms.clone()),
            pin: config.pin.then_some(PinnedFor::List),
            concurrency: config.concurrency,
        };
        let (ear, mut events) = mpsc::channel(EVENTS);
        let listen = async {
            let mut failed = Vec::new();
            while let Some(event) = events.recv().await {
                match event {
                    Event::Failed { image, error } => {
                        tracing::warn!(%image, %error, "an image could not be fetched ahead of its pods");
                        failed.push((image, error));
                    }
                    Event::Pulled { image, fetched_bytes, .. } if fetched_bytes > 0 => {
                        tracing::info!(%image, fetched_bytes, "an image is here before its pods");
                    }
                    _ => {}
                }
            }
            failed
        };
        let (summary, failed) = tokio::join!(super::run(fetcher, order, ear), listen);
        let all_well = failed.is_empty();
        for (state, count) in [("here", summary.pulled), ("failed", summary.failed)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.0.metrics.images.with_label_values(&[state]).set(count);
        }
        let (finished_at, images) = (Some(clock.now()), summary.pulled + summary.failed);
        *self.status_mut() =
            ListStatus { images, running: false, finished_at, summary, failed, problem: None };
        if all_well { config.interval } else { AGAIN.min(config.interval) }
    }

    /// Unpins what the list pinned and does not name any more.
    async fn let_go(&self, store: &Store, config: &Config, wanted: &[Wanted]) {
        let named: HashSet<(String, String)> = wanted
            .iter()
            .filter(|_| config.pin)
            .map(|w| (w.image.repository.to_string(), w.image.reference.to_string()))
            .collect();
        for pin in store.pins() {
            let kept = pin.owner.as_deref() != Some(PinnedFor::List.owner())
                || named.contains(&(pin.repository.to_string(), pin.reference.clone()));
            if kept {
                continue;
            }
            match store.remove_pin(pin.clone()).await {
                Ok(()) => {
                    tracing::info!(repository = %pin.repository, reference = pin.reference, "an image is on the list no more, and pinned no more")
                }
                Err(error) => tracing::warn!(%error, "an image cannot be unpinned"),
            }
        }
    }

    fn status_mut(&self) -> MutexGuard<'_, ListStatus> {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every image of the list once, with all secrets that are given for it.
async fn wanted(config: &Config) -> Result<Vec<Wanted>, String> {
    let config = config.clone();
    let read = tokio::task::spawn_blocking(move || {
        let common = PullSecrets::read(&config.pull_secrets).map_err(|e| e.to_string())?;
        let mut all: Vec<Wanted> =
            config.images.into_iter().map(|image| Wanted { image, secrets: common.clone() }).collect();
        if let Some(path) = &config.manifests {
            for found in kubernetes::read(path).map_err(|e| e.to_string())? {
                let mut secrets = PullSecrets::default();
                for SecretManifest { path, content } in found.secrets {
                    secrets.add(&path, content.as_bytes()).map_err(|e| e.to_string())?;
                }
                secrets.merge(&common);
                all.push(Wanted { image: found.image, secrets });
            }
        }
        Ok(once(all))
    });
    read.await.map_err(|e| e.to_string())?
}
