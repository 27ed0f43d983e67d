//! Registries whose images no runtime asks Larder for: pure.
//!
//! A node may be wired to Larder for some registries only. Of one that it is not wired for, everything that is fetched ahead
//! is fetched in vain. After [`IN_VAIN_MAX`] such images in a row nothing more is fetched ahead of it, until a runtime asks
//! Larder for any image of it.

use std::collections::HashSet;

use crate::reference::Registry;
use crate::support::bounded_map::BoundedMap;

/// Images in a row that were fetched in vain, after which a registry counts as unused: one or two may be those of pods that
/// were deleted before kubelet pulled.
const IN_VAIN_MAX: u32 = 3;
/// Registries that are remembered at most.
const REGISTRIES_MAX: usize = 256;

/// How many images in a row were fetched in vain, by registry.
#[derive(Debug)]
pub(super) struct Unused(BoundedMap<Registry, u32>);

impl Default for Unused {
    fn default() -> Self {
        Self(BoundedMap::new(REGISTRIES_MAX))
    }
}

impl Unused {
    /// A runtime asked for an image of the registry; returns whether the registry counted as unused.
    pub(super) fn asked(&mut self, registry: &Registry) -> bool {
        self.0.remove(registry).is_some_and(|in_vain| in_vain >= IN_VAIN_MAX)
    }

    /// No runtime asked for an image that was fetched; returns whether the registry counts as unused from now on.
    pub(super) fn in_vain(&mut self, registry: &Registry) -> bool {
        let in_vain = self.0.get_or_insert_with(registry.clone(), || 0);
        *in_vain = in_vain.saturating_add(1);
        *in_vain == IN_VAIN_MAX
    }

    /// The registries that count as unused.
    pub(super) fn registries(&self) -> HashSet<Registry> {
        let unused = self.0.iter().filter(|(_, in_vain)| **in_vain >= IN_VAIN_MAX);
        unused.map(|(registry, _)| registry.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_no_runtime_pulls_through_here_is_fetched_from_in_vain_a_few_times_only() {
        let registry = |name: &str| name.parse::<Registry>().unwrap();
        let (wired, other) = (registry("wired.test"), registry("other.test"));
        let mut unused = Unused::default();
        for _ in 0..10 {
            assert!(!unused.in_vain(&wired) && !unused.in_vain(&wired), "in a row");
            assert!(!unused.asked(&wired));
        }
        let turns: Vec<bool> = (0..4).map(|_| unused.in_vain(&other)).collect();
        assert_eq!(turns, [false, false, true, false], "told once");
        assert_eq!(unused.registries(), [other.clone()].into());
        assert!(!unused.asked(&wired) && unused.registries().contains(&other));
        assert!(unused.asked(&other) && unused.registries().is_empty());
        for n in 0..10_000 {
            unused.in_vain(&registry(&format!("r{n}.test")));
        }
        assert_eq!(unused.0.len(), REGISTRIES_MAX);
    }
}
