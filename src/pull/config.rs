//! The operator's terms: who may read what is cached, and how fresh the meaning of a tag has to be.
//!
//! Plain values. The decisions that they feed are in [`super::access::rights`] and [`super::manifest::freshness`].

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};

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
    /// How fresh the meaning of a tag has to be.
    pub freshness: Rules,
    /// How long a denial is remembered, for the same question of the same principal.
    pub negative_ttl: Duration,
    /// Whether the other layers of an image are fetched once its first one is read as a whole.
    pub fetch_ahead: bool,
    /// The registries that the operator named. Any other one takes at most a share of the store and of the downloads.
    pub named: HashSet<Registry>,
}

/// The terms on which cached content is served.
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
            fetch_ahead: true,
            named: HashSet::new(),
        }
    }
}

impl Config {
    /// The architectures that a registry has as suffixes of names; `None` if it has none.
    pub(crate) fn archs_of(&self, registry: &Registry) -> Option<&[String]> {
        self.arch_suffixes.get(registry).map(Vec::as_slice).filter(|archs| !archs.is_empty())
    }

    /// Whether the operator named `registry`.
    pub(crate) fn is_named(&self, registry: &Registry) -> bool {
        self.named.contains(registry)
    }

    /// The terms of `registry`.
    pub fn terms(&self, registry: &Registry) -> Terms {
        self.registries.get(registry).copied().unwrap_or(self.access)
    }
}

/// How long upstream's answer about a tag is used without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagTtl {
    /// For this long; zero: upstream is asked every time.
    For(Duration),
    /// For ever: this tag never moves.
    Immutable,
}

/// How fresh the meaning of a tag has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// How long upstream's answer counts.
    pub tag_ttl: TagTtl,
    /// For how long after that the last answer is still served, while upstream is asked in the background (RFC 5861
    /// section 3).
    pub stale_while_revalidate: Duration,
    /// How long into an outage the last answer is served (RFC 5861 section 4, counted from the start of the outage).
    pub stale_if_error: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            tag_ttl: TagTtl::For(Duration::ZERO),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::from_secs(30 * 86_400),
        }
    }
}

/// A rule for the tags that its pattern matches; what the rule leaves out is as for the registry.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Of `registry/repository:tag`; `*` stays within a segment, `**` stands for any number of them.
    pub matches: GlobMatcher,
    /// Replaces the registry's [`Freshness::tag_ttl`].
    pub tag_ttl: Option<TagTtl>,
    /// Replaces [`Freshness::stale_while_revalidate`].
    pub stale_while_revalidate: Option<Duration>,
    /// Replaces [`Freshness::stale_if_error`].
    pub stale_if_error: Option<Duration>,
}

/// The operator's rules for the freshness of tags.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// For registries that are not in `registries`.
    pub freshness: Freshness,
    /// For single registries.
    pub registries: HashMap<Registry, Freshness>,
    /// The first rule that matches a tag counts.
    pub rules: Vec<Rule>,
}

/// Reads the pattern of a rule.
///
/// # Errors
/// The pattern is malformed.
pub fn pattern_of(text: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(text).literal_separator(true).build()?.compile_matcher())
}
