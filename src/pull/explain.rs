//! What would decide a pull now, for people: nothing is asked of upstream for it, and nothing changes by it.

use super::access::Access;
use super::access::known_rights::KnownRight;
use super::config::{Config, Freshness, Terms};
use super::context::PullContext;
use super::manifest::Manifests;
use super::manifest::freshness::Revalidation;
use crate::reference::{Reference, Registry};
use crate::support::clock::Timestamp;
use crate::support::live::Live;

/// What is known that decides how a pull goes.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// On whose word content is served.
    pub terms: Terms,
    /// The rights to the repository, the one that was proved last first.
    pub rights: Vec<KnownRight>,
    /// Whether the repository is remembered to refuse the node's credentials and anonymous access.
    pub refuses_anonymous: bool,
    /// Since when the registry cannot be asked.
    pub outage_since: Option<Timestamp>,
    /// How fresh the meaning of the tag has to be; `None` for a digest.
    pub freshness: Option<Freshness>,
    /// The pattern of the rule that says so.
    pub rule: Option<String>,
    /// When upstream last said what the tag names.
    pub confirmed_at: Option<Timestamp>,
    /// Whether upstream is asked what the tag names before anything is served.
    pub asks_what_tag_names: bool,
    /// Whether each of the architectures in the registry's `arch_suffix` may make other names of this image.
    pub has_arch_suffixes: bool,
}

/// Says how pulls stand. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outlooks {
    config: Live<Config>,
    access: Access,
    manifests: Manifests,
}

impl Outlooks {
    pub(crate) fn new(config: Live<Config>, access: Access, manifests: Manifests) -> Self {
        Self { config, access, manifests }
    }

    /// How a pull of `reference` stands.
    pub(crate) async fn outlook(&self, context: &PullContext, reference: &Reference) -> Outlook {
        let repository = context.repository();
        let (config, access, manifests) = (self.config.current(), &self.access, &self.manifests);
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        let freshness = tag.map(|tag| config.freshness.of(repository, tag));
        let confirmed = match tag {
            Some(tag) => manifests.tag_confirmed(repository, tag).await,
            None => None,
        };
        let now = manifests.clock_of_records().now();
        let counts = |freshness: &Freshness| {
            let age = confirmed.map(|confirmed| confirmed.age_at(now));
            age.is_some_and(|age| freshness.revalidation(age) != Revalidation::First)
        };
        Outlook {
            terms: config.terms(repository.registry()),
            rights: access.known().all(context).await,
            refuses_anonymous: access.is_refused(repository),
            outage_since: self.outage_of(repository.registry()),
            rule: tag.and_then(|tag| config.freshness.pattern_for(repository, tag)),
            asks_what_tag_names: freshness.as_ref().is_some_and(|freshness| !counts(freshness)),
            freshness,
            confirmed_at: confirmed.map(|confirmed| confirmed.at),
            has_arch_suffixes: config.archs_of(repository.registry()).is_some(),
        }
    }

    fn outage_of(&self, registry: &Registry) -> Option<Timestamp> {
        self.access.outages().into_iter().find(|(other, _)| other == registry).map(|(_, since)| since)
    }
}
