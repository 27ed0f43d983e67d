//! `[prepull]`: the list of images that the daemon fetches by itself, and checks again and again.
//!
//! A list that changed is taken up when the check that is under way has ended. An image that the list pinned and does
//! not name any more is unpinned; what a command pinned stays. What cannot be read of the list stops nothing else of
//! it, and unpins nothing. When which image is checked: `schedule`.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::config::Config;
use super::event::{Event, Summary};
use super::fetch::Fetcher;
use super::manifests::{self, FoundSecret};
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
/// Problems of the list that are told by name: enough to begin with, in a line of the log that a person reads.
const PROBLEMS_MAX: usize = 8;

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

/// Blocks. What can be read is fetched, whatever stands beside it. A pull secret of the configuration that cannot be
/// read is missing for every image, as one that expired would be; an image of a manifest is not asked for without the
/// pull secrets of its own pod.
fn read(config: Config) -> Listed {
    let mut problems = Vec::new();
    let mut common = PullSecrets::default();
    for path in config.pull_secrets {
        match PullSecrets::read(&[path]) {
            Ok(secrets) => common.merge(&secrets),
            Err(error) => problems.push(error.to_string()),
        }
    }
    let mut all: Vec<RequestedImage> =
        config.images.into_iter().map(|image| RequestedImage { image, secrets: common.clone() }).collect();
    let (found, bad) = config.manifests.map(|path| manifests::read_each(&path)).unwrap_or_default();
    problems.extend(bad.iter().map(ToString::to_string));
    for found in found {
        match secrets_of(&found.secrets) {
            Ok(mut secrets) => {
                secrets.merge(&common);
                all.push(RequestedImage { image: found.image, secrets });
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    Listed { images: merge_duplicates(all), problem: joined(problems) }
}

/// The problems as one text, each once.
fn joined(mut problems: Vec<String>) -> Option<String> {
    let mut said = HashSet::new();
    problems.retain(|problem| said.insert(problem.clone()));
    let more = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

fn secrets_of(manifests: &[FoundSecret]) -> Result<PullSecrets, PullSecretError> {
    let mut secrets = PullSecrets::default();
    for FoundSecret { path, content } in manifests {
        secrets.add(path, content.as_bytes())?;
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    const POD: &str = "kind: Pod\nspec: {containers: [{image: reg.test/good}]}\n";

    fn names(listed: &Listed) -> Vec<String> {
        listed.images.iter().map(|requested| requested.image.to_string()).collect()
    }

    #[test]
    fn one_bad_file_of_the_list_takes_no_other_image_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("manifests")).unwrap();
        fs::write(at("manifests/1.yaml"), "kind: [").unwrap();
        fs::write(at("manifests/2.yaml"), POD).unwrap();
        fs::write(at("manifests/3.yaml"), [0xff, 0xfe]).unwrap();
        let config = Config {
            images: vec!["reg.test/listed".parse().unwrap()],
            manifests: Some(at("manifests")),
            pull_secrets: vec![at("missing.json")],
            ..Config::default()
        };
        let listed = read(config);
        assert_eq!(names(&listed), ["reg.test/listed:latest", "reg.test/good:latest"]);
        let problem = listed.problem.unwrap();
        for bad in ["1.yaml", "3.yaml", "missing.json"] {
            assert!(problem.contains(bad), "{bad}: {problem}");
        }
    }

    #[test]
    fn a_pull_secret_that_cannot_be_read_takes_away_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let good = directory.path().join("good.json");
        fs::write(&good, r#"{"auths":{"reg.test":{"username":"ann","password":"p"}}}"#).unwrap();
        let with = |pull_secrets: Vec<PathBuf>| {
            let images = vec!["reg.test/listed".parse().unwrap()];
            read(Config { images, pull_secrets, ..Config::default() })
        };
        let whole = format!("{:?}", with(vec![good.clone()]).images);
        let partly = with(vec![directory.path().join("missing.json"), good]);
        assert_eq!(format!("{:?}", partly.images), whole);
        assert!(whole.contains("1 entries") && partly.problem.is_some(), "{whole}");
    }

    #[test]
    fn an_image_of_a_manifest_has_the_configured_pull_secrets_beside_its_pods_own() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("pod.yaml"), POD).unwrap();
        fs::write(at("good.json"), r#"{"auths":{"reg.test":{"username":"ann","password":"p"}}}"#).unwrap();
        let config = Config {
            manifests: Some(at("pod.yaml")),
            pull_secrets: vec![at("good.json")],
            ..Config::default()
        };
        let images = format!("{:?}", read(config).images);
        assert!(images.contains("1 entries"), "{images}");
    }

    #[test]
    fn many_problems_are_one_text_that_a_person_can_read() {
        assert_eq!(joined(Vec::new()), None);
        assert_eq!(joined(vec!["a".to_owned(), "b".to_owned(), "a".to_owned()]).unwrap(), "a; b");
        let many = joined((0..1_000).map(|n| n.to_string()).collect()).unwrap();
        assert_eq!(many, "0; 1; 2; 3; 4; 5; 6; 7; and 992 more");
    }
}
