//! Registries whose images no runtime asks Larder for: pure.
//!
//! A node may be wired to Larder for some registries only. Of one that it is not wired for, everything that is fetched
//! ahead is fetched in vain. After images of [`PODS_MAX`] pods were, nothing more is fetched ahead of it, until a
//! runtime asks Larder for any image of it. Promises: where a runtime has asked within [`ASKED_COUNTS_FOR`], the node
//! is wired, and pods that wait for long or never start take nothing from the others; nor does one pod, however many
//! images it has.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::reference::Registry;
use crate::support::bounded_map::BoundedMap;

/// Pods whose images were fetched in vain, after which a registry counts as unused: one or two may have been deleted
/// before kubelet pulled.
const PODS_MAX: usize = 3;
/// How long a registry is in use after a runtime's question for one of its images.
const ASKED_COUNTS_FOR: Duration = Duration::from_secs(3_600);
/// Registries that are remembered at most.
const REGISTRIES_MAX: usize = 256;

/// What is known of a registry.
#[derive(Debug, Default)]
struct Use {
    /// When a runtime asked last.
    asked_at: Option<Instant>,
    /// Pods for which images were fetched in vain after that, at most [`PODS_MAX`].
    in_vain: BTreeSet<String>,
}

impl Use {
    fn is_unused(&self) -> bool {
        self.in_vain.len() >= PODS_MAX
    }
}

/// Which registries runtimes ask for, and for which pods images were fetched in vain.
#[derive(Debug)]
pub(super) struct Unused(BoundedMap<Registry, Use>);

impl Default for Unused {
    fn default() -> Self {
        Self(BoundedMap::new(REGISTRIES_MAX))
    }
}

impl Unused {
    /// A runtime asked for an image of the registry; returns whether the registry counted as unused.
    pub(super) fn asked(&mut self, registry: &Registry, now: Instant) -> bool {
        let before = self.0.get_or_insert_with(registry.clone(), Use::default);
        let was_unused = before.is_unused();
        *before = Use { asked_at: Some(now), in_vain: BTreeSet::new() };
        was_unused
    }

    /// No runtime asked for an image that was fetched for a pod; returns whether the registry counts as unused from now
    /// on.
    pub(super) fn in_vain(&mut self, registry: &Registry, pod: &str, now: Instant) -> bool {
        let known = self.0.get_or_insert_with(registry.clone(), Use::default);
        if known.is_unused() || known.asked_at.is_some_and(|at| now < at + ASKED_COUNTS_FOR) {
            return false;
        }
        known.in_vain.insert(pod.to_owned());
        known.is_unused()
    }

    /// The registries that count as unused.
    pub(super) fn registries(&self) -> HashSet<Registry> {
        self.0.iter().filter(|(_, known)| known.is_unused()).map(|(registry, _)| registry.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(name: &str) -> Registry {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn a_registry_that_no_runtime_pulls_through_here_is_fetched_from_in_vain_a_few_times_only() {
        let (wired, other, now) = (registry("wired.test"), registry("other.test"), Instant::now());
        let mut unused = Unused::default();
        for n in 0..10 {
            let later = now + 2 * ASKED_COUNTS_FOR * n;
            assert!(!unused.in_vain(&wired, "a", later) && !unused.in_vain(&wired, "b", later), "in a row");
            assert!(!unused.asked(&wired, later));
        }
        let turns: Vec<bool> =
            ["a", "b", "c", "d"].iter().map(|pod| unused.in_vain(&other, pod, now)).collect();
        assert_eq!(turns, [false, false, true, false], "told once");
        assert_eq!(unused.registries(), [other.clone()].into());
        assert!(!unused.asked(&wired, now) && unused.registries().contains(&other));
        assert!(unused.asked(&other, now) && unused.registries().is_empty());
        for n in 0..10_000 {
            unused.in_vain(&registry(&format!("r{n}.test")), "a", now);
        }
        assert_eq!(unused.0.len(), REGISTRIES_MAX);
    }

    #[tokio::test]
    async fn pods_that_never_start_take_a_registry_from_no_runtime_that_pulls_from_it() {
        let (hub, now) = (registry("hub.test"), Instant::now());
        let mut unused = Unused::default();
        for image in 0..10 {
            assert!(!unused.in_vain(&hub, "waits", now), "image {image} of one pod");
        }
        unused.asked(&hub, now);
        let later = now + ASKED_COUNTS_FOR;
        for n in 0..10 {
            unused.in_vain(&hub, &format!("pod-{n}"), later - Duration::from_secs(1));
        }
        assert!(unused.registries().is_empty(), "a runtime asked a moment ago");
        for n in 0..10 {
            unused.in_vain(&hub, &format!("pod-{n}"), later);
        }
        assert_eq!(unused.registries(), [hub].into());
    }
}
