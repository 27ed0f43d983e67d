//! What the operator decides about rights and freshness.

use std::collections::HashMap;
use std::time::Duration;

use super::manifest::freshness::Rules;
use crate::reference::Registry;

/// Everything that `pull` is built from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who may read what, where a registry has no terms of its own.
    pub access: Terms,
    /// The terms of single registries.
    pub registries: HashMap<Registry, Terms>,
    /// Architectures that registries have as suffixes of names.
    pub arch_suffixes: HashMap<Registry, Vec<String>>,
    /// How fresh what a tag means has to be.
    pub freshness: Rules,
    /// How long a no is remembered, for the same question of the same principal.
    pub negative_ttl: Duration,
}

/// The terms on which cached content is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whether rights are checked at all.
    pub policy: Policy,
    /// How long a proof of a right lasts. Zero: every resolve is checked.
    pub grant_ttl: Duration,
    /// How long a caller's right holds when upstream cannot be asked, since it was last proved.
    pub outage_grace: Duration,
}

/// Whether rights are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Only those to whom upstream shows a repository are shown what is cached of it.
    Verify,
    /// What is cached is for every pod ("pre-pulled images" of the Kubernetes documentation).
    Open,
}

impl Policy {
    /// As configuration has it.
    pub const NAMES: [(&'static str, Self); 2] = [("verify", Self::Verify), ("open", Self::Open)];
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            policy: Policy::Verify,
            grant_ttl: Duration::from_secs(300),
            outage_grace: Duration::from_secs(30 * 86_400),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            access: Terms::default(),
            registries: HashMap::new(),
            arch_suffixes: HashMap::new(),
            freshness: Rules::default(),
            negative_ttl: Duration::from_secs(3),
        }
    }
}

impl Config {
    /// The architectures that a registry has as suffixes of names; `None` if it has none.
    pub(crate) fn archs_of(&self, registry: &Registry) -> Option<&[String]> {
        self.arch_suffixes.get(registry).map(Vec::as_slice).filter(|archs| !archs.is_empty())
    }

    /// The terms of `registry`.
    pub fn terms(&self, registry: &Registry) -> Terms {
        self.registries.get(registry).copied().unwrap_or(self.access)
    }
}
