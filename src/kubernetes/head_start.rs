//! Head start: how long before a runtime's first question an image was here, and what was fetched in vain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::metrics::Metrics;
use crate::reference::{Image, Reference, Repository};
use crate::support::bounded_map::BoundedMap;

/// Images that are remembered: those that the pods of a node want within [`VAIN_AFTER`].
const IMAGES_MAX: usize = 4_096;
/// What no runtime asked for within this time was fetched in vain: kubelet asks within seconds, or minutes where it waits for
/// volumes.
pub(super) const VAIN_AFTER: Duration = Duration::from_secs(600);

/// An image that was fetched ahead.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    /// When it began, and after that when all of it was here.
    at: Instant,
    is_here: bool,
    fetched_bytes: u64,
    is_asked: bool,
}

/// What was fetched ahead, and whether a runtime asked for it.
pub(super) struct HeadStart {
    images: Mutex<BoundedMap<(Repository, Reference), Ahead>>,
    found_all: AtomicU64,
    found_part: AtomicU64,
}

impl Default for HeadStart {
    fn default() -> Self {
        let images = Mutex::new(BoundedMap::new(IMAGES_MAX));
        Self { images, found_all: AtomicU64::new(0), found_part: AtomicU64::new(0) }
    }
}

impl HeadStart {
    /// A fetch begins.
    pub(super) fn begun(&self, image: &Image) {
        let begun = Ahead { at: Instant::now(), is_here: false, fetched_bytes: 0, is_asked: false };
        let mut images = self.images.lock();
        let key = (image.repository.clone(), image.reference.clone());
        // Another pod may want it, and its runtime has not asked yet.
        if images.peek(&key).is_none_or(|before| before.is_asked) {
            images.insert(key, begun);
        }
    }

    /// All of an image is here.
    pub(super) fn here(&self, image: &Image, fetched_bytes: u64) {
        let mut images = self.images.lock();
        if let Some(ahead) = images.get(&(image.repository.clone(), image.reference.clone()))
            && !ahead.is_here
        {
            (ahead.at, ahead.is_here) = (Instant::now(), true);
            ahead.fetched_bytes += fetched_bytes;
        }
    }

    /// A fetch ended without the image, or the runtime has it.
    pub(super) fn not_here(&self, image: &Image) {
        let mut images = self.images.lock();
        let key = (image.repository.clone(), image.reference.clone());
        if images.peek(&key).is_some_and(|ahead| !ahead.is_here) {
            images.remove(&key);
        }
    }

    /// A runtime asked for an image and was answered.
    pub(super) fn asked(&self, repository: &Repository, reference: &Reference, metrics: &Metrics) {
        let mut images = self.images.lock();
        let Some(ahead) = images.get(&(repository.clone(), reference.clone())).filter(|a| !a.is_asked) else {
            return;
        };
        ahead.is_asked = true;
        let found = if ahead.is_here { &self.found_all } else { &self.found_part };
        found.fetch_add(1, Ordering::Relaxed);
        metrics.asked(ahead.is_here.then(|| ahead.at.elapsed()));
    }

    /// How many images were asked for when all of them was here, and while they were being fetched.
    pub(super) fn found(&self) -> (u64, u64) {
        (self.found_all.load(Ordering::Relaxed), self.found_part.load(Ordering::Relaxed))
    }

    /// Forgets what is long past; counts what was fetched in vain.
    pub(super) fn sweep(&self, metrics: &Metrics) {
        self.images.lock().retain(|_, ahead| {
            let is_past = ahead.at.elapsed() >= VAIN_AFTER && (ahead.is_here || ahead.is_asked);
            if is_past && !ahead.is_asked {
                metrics.in_vain(ahead.fetched_bytes);
            }
            !is_past
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::metrics::Registry;

    #[tokio::test(start_paused = true)]
    async fn a_pull_counts_once_and_what_no_runtime_asks_for_was_fetched_in_vain() {
        let registry = Registry::new();
        let (metrics, head_start) = (Metrics::register(&registry).unwrap(), HeadStart::default());
        let image = |name: &str| name.parse::<Image>().unwrap();
        let [early, late, vain] = ["reg.test/early:v1", "reg.test/late:v1", "reg.test/vain:v1"].map(image);
        for image in [&early, &late, &vain] {
            head_start.begun(image);
        }
        head_start.here(&early, 100);
        head_start.here(&vain, 7);
        tokio::time::advance(Duration::from_secs(3)).await;
        for _ in 0..2 {
            head_start.asked(&early.repository, &early.reference, &metrics);
            head_start.asked(&late.repository, &late.reference, &metrics);
        }
        head_start.asked(&image("reg.test/other:v1").repository, &vain.reference, &metrics);
        tokio::time::advance(VAIN_AFTER).await;
        head_start.sweep(&metrics);
        head_start.sweep(&metrics);
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
