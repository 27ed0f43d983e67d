//! The labels by which registries stand in metrics: bounded, whatever clients ask for.

use std::collections::HashSet;

use parking_lot::RwLock;

/// Registries that get a label of their own besides the configured ones; later ones share `other`.
const REGISTRY_LABELS_MAX: usize = 32;

/// Gives registries their label: the first few seen by name, all others `other`, so that a client that asks for
/// ever new registries cannot grow `/metrics`.
#[derive(Debug, Default)]
pub struct RegistryLabels(RwLock<HashSet<String>>);

impl RegistryLabels {
    /// Labels for `configured` registries from the start.
    pub fn new(configured: impl IntoIterator<Item = String>) -> Self {
        Self(RwLock::new(configured.into_iter().collect()))
    }

    /// Labels for `configured` registries too, from now on.
    pub fn configure(&self, configured: impl IntoIterator<Item = String>) {
        self.0.write().extend(configured);
    }

    /// The label for `registry`. Called with a registry that has answered, so that names that clients make up do not
    /// use up the labels.
    pub fn admit(&self, registry: &str) {
        // Nearly every answer comes from one that is known: those wait for no other.
        if self.0.read().contains(registry) {
            return;
        }
        let mut known = self.0.write();
        if known.len() < REGISTRY_LABELS_MAX && !known.contains(registry) {
            known.insert(registry.to_owned());
        }
    }

    /// Calls `with` with the label for `registry`.
    pub fn with<R>(&self, registry: &str, with: impl FnOnce(&str) -> R) -> R {
        let known = self.0.read().contains(registry);
        with(if known { registry } else { "other" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_new_registries_do_not_grow_the_page() {
        let labels = RegistryLabels::new(["docker.io".to_owned()]);
        for n in 0..1_000 {
            labels.admit(&format!("r{n}.test"));
        }
        assert_eq!(labels.with("docker.io", str::to_owned), "docker.io");
        assert_eq!(labels.with("r0.test", str::to_owned), "r0.test");
        assert_eq!(labels.with("r999.test", str::to_owned), "other");
        assert_eq!(labels.0.read().len(), REGISTRY_LABELS_MAX);
    }
}
