//! `[prepull]`: images that are fetched before a pod asks for them.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::schema::section;
use crate::config::value::{DAY, Text, flag, list, number, parsed, path, span};
use crate::prepull;
use crate::reference::{Image, Platform};

/// Between two looks at the list: often enough to be of use, rarely enough to be no burden on a registry.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
const INTERVAL_MAX: Duration = Duration::from_secs(30 * DAY.as_secs());
/// Images at a time: more would take the places of downloads that a pod waits for.
const CONCURRENCY_MAX: u32 = 16;

section! {
    /// Images that are fetched before a pod asks for them, into this store only, and looked at again from time to time.
    /// Those who may read them at their registry may read them here, and no others.
    Prepull = "prepull";

    /// The images.
    reload images: Vec<Image> = list(image()), |_| prepull::Config::default().images;

    /// The images of Kubernetes manifests of any kind too: a file, or a directory of YAML and JSON files.
    reload manifests: Option<PathBuf> = path(), |_| None, example "\"/etc/kubernetes/manifests\"";

    /// Platforms such as "linux/arm64"; [] is the node's own.
    reload platforms: Vec<Platform> = list(platform()), |_| prepull::Config::default().platforms;

    /// How often they are looked at again; SIGHUP does so at once. One that failed is tried again after 5 minutes, then
    /// after twice as long each time, without the others.
    reload interval: Duration = span(INTERVAL_MIN..=INTERVAL_MAX), |_| prepull::Config::default().interval;

    /// At most this much is added at random to the start and to each interval, so that the nodes of a fleet do not all
    /// ask at once; never more than the interval. "0s" adds nothing.
    reload jitter: Duration = span(Duration::ZERO..=DAY), |_| prepull::Config::default().jitter;

    /// Images at a time. Pods go first in any case.
    reload concurrency: u32 = number(1..=CONCURRENCY_MAX), |_| concurrency();

    /// Whether they are pinned: nothing of them is evicted while they are on the list.
    reload pin: bool = flag(), |_| prepull::Config::default().pin;
}

impl Prepull {
    /// What pre-pull is built from, with these pull secrets.
    pub(crate) fn config(&self, pull_secrets: &[PathBuf]) -> prepull::Config {
        let Self { images, manifests, platforms, interval, jitter, concurrency, pin } = self.clone();
        let (concurrency, pull_secrets) = (concurrency as usize, pull_secrets.to_owned());
        prepull::Config { images, manifests, platforms, interval, jitter, concurrency, pin, pull_secrets }
    }
}

fn image() -> Text<Image> {
    parsed("image", &["docker.io/library/busybox:latest", "reg.corp:5000/a/b:v1"])
}

fn platform() -> Text<Platform> {
    parsed("platform", &["linux/arm64", "linux/arm/v7"])
}

fn concurrency() -> u32 {
    u32::try_from(prepull::Config::default().concurrency).unwrap_or(CONCURRENCY_MAX)
}
