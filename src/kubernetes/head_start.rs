//! Head start: how long before a runtime's first question an image was here, and what was fetched in vain.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::metrics::Metrics;
use super::pod::PodName;
use super::unused::Unused;
use crate::reference::{Image, Reference, Registry, Repository};
use crate::support::bounded_map::BoundedMap;

/// Images that are remembered: those that the pods of a node want within [`VAIN_AFTER`].
const IMAGES_MAX: usize = 4_096;
/// What no runtime asked for within this time was fetched in vain: kubelet asks within seconds, or minutes where it
/// waits for volumes.
pub(super) const VAIN_AFTER: Duration = Duration::from_secs(600);

/// An image that was fetched ahead.
#[derive(Debug, Clone)]
struct Ahead {
    /// The pod that it was begun for.
    pod: PodName,
    stage: Stage,
    fetched_bytes: u64,
    is_asked: bool,
}

/// How far it is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is being fetched; begun anew, since the fetch before ended.
    Coming(Instant),
    /// All of it is here.
    Here(Instant),
    /// The last fetch ended before all of it was here.
    Ended(Instant),
}

impl Stage {
    fn since(self) -> Instant {
        let (Self::Coming(at) | Self::Here(at) | Self::Ended(at)) = self;
        at
    }
}

/// What was fetched ahead, and whether a runtime asked for it.
pub(super) struct HeadStart {
    images: Mutex<BoundedMap<(Repository, Reference), Ahead>>,
    found_all: AtomicU64,
    found_part: AtomicU64,
    unused: Mutex<Unused>,
}

impl Default for HeadStart {
    fn default() -> Self {
        let images = Mutex::new(BoundedMap::new(IMAGES_MAX));
        let (found_all, found_part) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { images, found_all, found_part, unused: Mutex::default() }
    }
}

impl HeadStart {
    /// A fetch begins for a pod.
    pub(super) fn begun(&self, image: &Image, pod: PodName) {
        let begun = Stage::Coming(Instant::now());
        let mut images = self.images.lock();
        let key = (image.repository.clone(), image.reference.clone());
        // Another pod may want it, and its runtime has not asked yet.
        match images.get(&key) {
            Some(Ahead { is_asked: false, stage, .. }) => {
                if let Stage::Ended(at) = *stage {
                    *stage = Stage::Coming(at);
                }
            }
            _ => drop(images.insert(key, Ahead { pod, stage: begun, fetched_bytes: 0, is_asked: false })),
        }
    }

    /// All of an image is here; so many bytes of it came.
    pub(super) fn fetched(&self, image: &Image, fetched_bytes: u64) {
        let mut images = self.images.lock();
        if let Some(ahead) = images.get(&(image.repository.clone(), image.reference.clone())) {
            ahead.fetched_bytes += fetched_bytes;
            if !matches!(ahead.stage, Stage::Here(_)) {
                ahead.stage = Stage::Here(Instant::now());
            }
        }
    }

    /// A fetch ended without all of the image, or the runtime has it; so many bytes of it came.
    pub(super) fn ended(&self, image: &Image, fetched_bytes: u64) {
        let mut images = self.images.lock();
        let key = (image.repository.clone(), image.reference.clone());
        let Some(ahead) = images.get(&key) else { return };
        ahead.fetched_bytes += fetched_bytes;
        if matches!(ahead.stage, Stage::Here(_)) {
            return;
        }
        if ahead.fetched_bytes == 0 && !ahead.is_asked {
            images.remove(&key);
        } else {
            ahead.stage = Stage::Ended(Instant::now());
        }
    }

    /// A runtime asked for an image and was answered.
    pub(super) fn asked(&self, repository: &Repository, reference: &Reference, metrics: &Metrics) {
        if self.unused.lock().asked(repository.registry(), Instant::now()) {
            let registry = repository.registry();
            tracing::info!(%registry, "a runtime asks for images of a registry again; they are fetched ahead");
        }
        let mut images = self.images.lock();
        let Some(ahead) = images.get(&(repository.clone(), reference.clone())).filter(|a| !a.is_asked) else {
            return;
        };
        ahead.is_asked = true;
        let (found, head_start) = match ahead.stage {
            Stage::Here(at) => (&self.found_all, Some(at.elapsed())),
            Stage::Coming(_) | Stage::Ended(_) => (&self.found_part, None),
        };
        found.fetch_add(1, Ordering::Relaxed);
        metrics.asked(head_start);
    }

    /// How many images were asked for when all of them was here, and while they were being fetched.
    pub(super) fn found(&self) -> (u64, u64) {
        (self.found_all.load(Ordering::Relaxed), self.found_part.load(Ordering::Relaxed))
    }

    /// Bytes that were fetched within [`VAIN_AFTER`] and that no runtime has asked for, by the namespace that they came
    /// for.
    pub(super) fn unasked_bytes(&self) -> HashMap<String, u64> {
        let mut bytes = HashMap::new();
        for (_, ahead) in self.images.lock().iter().filter(|(_, a)| !a.is_asked && a.fetched_bytes > 0) {
            *bytes.entry(ahead.pod.namespace.clone()).or_default() += ahead.fetched_bytes;
        }
        bytes
    }

    /// Forgets what is long past; counts what was fetched in vain.
    pub(super) fn sweep(&self, metrics: &Metrics) {
        let mut in_vain = Vec::new();
        self.images.lock().retain(|(repository, _), ahead| {
            let is_over = ahead.is_asked || !matches!(ahead.stage, Stage::Coming(_));
            let is_past = ahead.stage.since().elapsed() >= VAIN_AFTER && is_over;
            if is_past && !ahead.is_asked {
                metrics.in_vain(ahead.fetched_bytes);
                // What was here already cost nothing, and what ended with its pod says nothing of its registry.
                if matches!(ahead.stage, Stage::Here(_)) && ahead.fetched_bytes > 0 {
                    let PodName { namespace, name } = &ahead.pod;
                    in_vain.push((repository.registry().clone(), format!("{namespace}/{name}")));
                }
            }
            !is_past
        });
        let mut unused = self.unused.lock();
        for (registry, pod) in in_vain {
            if unused.in_vain(&registry, &pod, Instant::now()) {
                tracing::info!(
                    %registry,
                    "images of a registry are fetched ahead no more until a runtime asks for one: those of the last pods were fetched in vain"
                );
            }
        }
    }

    /// Registries of which nothing is fetched ahead.
    pub(super) fn unused(&self) -> HashSet<Registry> {
        self.unused.lock().registries()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::metrics::Registry;

    fn pod(name: impl ToString) -> PodName {
        PodName { namespace: "shop".to_owned(), name: name.to_string() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_for_a_deleted_pod_was_fetched_in_vain_too_unless_a_runtime_asks() {
        let registry = Registry::new();
        let (metrics, head_start) = (Metrics::register(&registry).unwrap(), HeadStart::default());
        let image = |name: &str| name.parse::<Image>().unwrap();
        let [deleted, asked, again] =
            ["reg.test/gone:v1", "reg.test/asked:v1", "reg.test/again:v1"].map(image);
        for image in [&deleted, &asked, &again] {
            head_start.begun(image, pod("web"));
            head_start.ended(image, 100);
        }
        head_start.begun(&again, pod("web"));
        head_start.fetched(&again, 20);
        head_start.asked(&asked.repository, &asked.reference, &metrics);
        tokio::time::advance(VAIN_AFTER).await;
        head_start.sweep(&metrics);
        let text = String::from_utf8(registry.render().unwrap()).unwrap();
        assert!(text.contains("larder_kubernetes_in_vain_bytes_total 220"), "{text}");
        assert!(head_start.unused().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_is_unused_when_what_was_fetched_is_never_asked_for_and_until_it_is() {
        let registry = Registry::new();
        let (metrics, head_start) = (Metrics::register(&registry).unwrap(), HeadStart::default());
        let fetched = |repository: &str, bytes: u64| {
            for n in 0..5 {
                let image: Image = format!("{repository}{n}:v1").parse().unwrap();
                head_start.begun(&image, pod(n));
                head_start.fetched(&image, bytes);
            }
        };
        fetched("other.test/app", 7);
        fetched("here.test/app", 0);
        tokio::time::advance(VAIN_AFTER).await;
        head_start.sweep(&metrics);
        assert_eq!(head_start.unused(), ["other.test".parse().unwrap()].into());
        let pulled: Image = "other.test/another:v1".parse().unwrap();
        head_start.asked(&pulled.repository, &pulled.reference, &metrics);
        assert!(head_start.unused().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_counts_once_and_what_no_runtime_asks_for_was_fetched_in_vain() {
        let registry = Registry::new();
        let (metrics, head_start) = (Metrics::register(&registry).unwrap(), HeadStart::default());
        let image = |name: &str| name.parse::<Image>().unwrap();
        let [early, late, vain] = ["reg.test/early:v1", "reg.test/late:v1", "reg.test/vain:v1"].map(image);
        for image in [&early, &late, &vain] {
            head_start.begun(image, pod("web"));
        }
        head_start.fetched(&early, 100);
        head_start.fetched(&vain, 7);
        assert_eq!(head_start.unasked_bytes(), [("shop".to_owned(), 107)].into());
        tokio::time::advance(Duration::from_secs(3)).await;
        for _ in 0..2 {
            head_start.asked(&early.repository, &early.reference, &metrics);
            head_start.asked(&late.repository, &late.reference, &metrics);
        }
        head_start.asked(&image("reg.test/other:v1").repository, &vain.reference, &metrics);
        assert_eq!(head_start.unasked_bytes(), [("shop".to_owned(), 7)].into());
        tokio::time::advance(VAIN_AFTER).await;
        head_start.sweep(&metrics);
        head_start.sweep(&metrics);
        assert!(head_start.unasked_bytes().is_empty());
        let text = String::from_utf8(registry.render().unwrap()).unwrap();
        for line in [
            "larder_kubernetes_pulls_total{found=\"all\"} 1",
            "larder_kubernetes_pulls_total{found=\"part\"} 1",
            "larder_kubernetes_head_start_seconds_sum 3",
            "larder_kubernetes_in_vain_bytes_total 7",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
