//! Of which registries content is shared. Pure.
//!
//! What is shared is found by the name of its registry, so that the name has to mean the same registry on every node. A
//! name or address of the node itself does not: each node has a registry of its own at `localhost:5000`, and one of
//! them could claim a digest and would be given what another one delivered. Such a registry is left out unless an entry
//! is its very name.
//!
//! Deliberately not here: what a name resolves to. A name of the network that leads to the node itself is not
//! recognised.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use globset::{Glob, GlobMatcher};

use crate::reference::Registry;
use crate::support::loopback;

/// Of which registries content is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registries {
    /// The content of a registry is shared if any of these matches it.
    pub patterns: Vec<RegistryPattern>,
    /// Of registries that have endpoints of their own: whether those are on the node itself, whatever the name is.
    pub on_loopback: HashMap<Registry, bool>,
}

/// A registry, or a pattern of names of registries. Its text form is that of a shell's: `*.corp`, `quay.io`.
#[derive(Debug, Clone)]
pub struct RegistryPattern(GlobMatcher);

impl Default for Registries {
    /// All but those of the node itself.
    fn default() -> Self {
        Self { patterns: vec![RegistryPattern::all()], on_loopback: HashMap::new() }
    }
}

impl Registries {
    /// Whether content of `registry` is read from the tier and written to it.
    pub fn include(&self, registry: &Registry) -> bool {
        let is_named = |pattern: &RegistryPattern| pattern.is_name_of(registry);
        if self.patterns.iter().any(is_named) {
            return true;
        }
        !self.is_on_loopback(registry) && self.patterns.iter().any(|pattern| pattern.matches(registry))
    }

    fn is_on_loopback(&self, registry: &Registry) -> bool {
        let configured = self.on_loopback.get(registry).copied();
        configured.unwrap_or_else(|| loopback::is_host(registry.host()))
    }
}

impl RegistryPattern {
    /// Every registry.
    pub fn all() -> Self {
        Self(
            Glob::new("*")
                .map_or_else(|_| unreachable!("a star is a pattern"), |glob| glob.compile_matcher()),
        )
    }

    fn is_name_of(&self, registry: &Registry) -> bool {
        self.0.glob().glob().eq_ignore_ascii_case(registry.as_str())
    }

    fn matches(&self, registry: &Registry) -> bool {
        self.0.is_match(registry.as_str())
    }
}

impl FromStr for RegistryPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('/') {
            return Err("expected a registry such as quay.io, or a pattern such as *.corp".to_owned());
        }
        // Names of registries are compared in lower case.
        let glob = Glob::new(&text.to_ascii_lowercase()).map_err(|error| error.to_string())?;
        Ok(Self(glob.compile_matcher()))
    }
}

impl fmt::Display for RegistryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.glob().glob())
    }
}

impl PartialEq for RegistryPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.glob() == other.0.glob()
    }
}

impl Eq for RegistryPattern {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(patterns: &[&str], on_loopback: &[(&str, bool)], registry: &str) -> bool {
        let patterns = patterns.iter().map(|text| text.parse().unwrap()).collect();
        let on_loopback = on_loopback.iter().map(|(name, is)| (name.parse().unwrap(), *is)).collect();
        Registries { patterns, on_loopback }.include(&registry.parse().unwrap())
    }

    #[test]
    fn a_registry_of_the_node_itself_is_not_taken_for_that_of_another_node() {
        for registry in
            ["localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000", "reg.localhost", "0.0.0.0:5000"]
        {
            assert!(!shared(&["*"], &[], registry), "{registry}");
            assert!(
                !shared(&["*:5000", "1*", "local*", "[:]*"], &[], registry),
                "no pattern names it: {registry}"
            );
            assert!(shared(&[registry], &[], registry), "it is named: {registry}");
            assert!(
                shared(&["*"], &[(registry, false)], registry),
                "its endpoints are elsewhere: {registry}"
            );
        }
        assert!(!shared(&["*"], &[("reg.corp", true)], "reg.corp"), "its endpoint is on the node");
        assert!(shared(&["*", "reg.corp"], &[("reg.corp", true)], "reg.corp"));
        assert!(Registries::default().include(&"docker.io".parse().unwrap()));
        assert!(!Registries::default().include(&"localhost:5000".parse().unwrap()));
    }

    #[test]
    fn nothing_of_a_registry_that_no_entry_matches_is_shared() {
        let only = ["docker.io", "*.Corp:5000"];
        for (registry, is_shared) in
            [("docker.io", true), ("a.b.corp:5000", true), ("a.corp", false), ("evil.docker.io", false)]
        {
            assert_eq!(shared(&only, &[], registry), is_shared, "{registry}");
        }
        assert!(!shared(&[], &[], "docker.io"));
        for text in ["", "quay.io/org", "[a"] {
            assert!(text.parse::<RegistryPattern>().is_err(), "{text:?}");
        }
    }
}
