//! What nodes tell each other for an outage (`[tier] share_names`): what a tag of a public repository names, that the
//! repository is public, and which digests it has.
//!
//! Promises: only what this node's registry said is told, and only of repositories that everyone may read; a private
//! right is never told. What other nodes told is used only where the registry cannot be asked; a right that they told is
//! never fresh here, so that the registry is asked again as soon as it can be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::access::Access;
use crate::reference::{Digest, MediaType, Repository, Tag};
use crate::store::{Member, TagRecord};
use crate::tier::{Dated, Tier};

/// A right is not fresh from this age on, whatever `grant_ttl` is: a pull is over by then.
const NEVER_FRESH: Duration = Duration::from_secs(61);

/// What nodes tell each other. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedNames {
    tier: Tier,
    access: Access,
}

/// What a tag names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TagFact {
    digest: String,
}

/// That everyone may read a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PublicFact {}

/// That a repository has a digest: as a blob, or as a manifest of a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MemberFact {
    manifest_type: Option<String>,
}

impl SharedNames {
    pub(crate) fn new(tier: Tier, access: Access) -> Self {
        Self { tier, access }
    }

    /// Tells that the registry said just now, or said at the last question, what a tag names.
    pub(crate) async fn tell_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        if !self.tier.shares_names() {
            return;
        }
        let Some(proved_at) = self.access.known().public_since(repository).await else { return };
        let Some(now) = self.tier.now() else { return };
        let fact = TagFact { digest: digest.to_string() };
        self.tier.tell_name(parts("tag", repository, &tag.to_string()), now, fact);
        self.tier.tell_name(parts("public", repository, ""), proved_at, PublicFact {});
    }

    /// Tells that the registry confirmed or delivered a digest.
    pub(crate) async fn tell_member(&self, repository: &Repository, digest: Digest, member: &Member) {
        if !self.tier.shares_names() {
            return;
        }
        let Some(proved_at) = self.access.known().public_since(repository).await else { return };
        let manifest_type = match member {
            Member::Manifest(media_type) => Some(media_type.as_str().to_owned()),
            Member::Blob => None,
        };
        let fact = MemberFact { manifest_type };
        self.tier.tell_name(parts("member", repository, &digest.to_string()), proved_at, fact);
        self.tier.tell_name(parts("public", repository, ""), proved_at, PublicFact {});
    }

    /// What a tag named last, as another node was told no longer than `age_max` ago.
    pub(crate) async fn told_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        age_max: Duration,
    ) -> Option<TagRecord> {
        let told: Dated<TagFact> = self.told("tag", repository, &tag.to_string()).await?;
        let digest = told.fact.digest.parse().ok()?;
        let record = TagRecord { digest, confirmed_at: told.at };
        (told.at.age_at(self.tier.now()?) < age_max).then_some(record)
    }

    /// What a digest is in a repository, as another node was told.
    pub(crate) async fn told_member(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        let told: Dated<MemberFact> = self.told("member", repository, &digest.to_string()).await?;
        match told.fact.manifest_type {
            None => Some(Member::Blob),
            Some(text) => text.parse::<MediaType>().ok().map(Member::Manifest),
        }
    }

    /// Takes over that everyone may read a repository, if another node was told so: a right that holds while the registry
    /// cannot be asked. Returns whether it did.
    pub(crate) async fn take_over_right(&self, repository: &Repository) -> bool {
        let told: Option<Dated<PublicFact>> = self.told("public", repository, "").await;
        let (Some(told), Some(now)) = (told, self.tier.now()) else { return false };
        let age = told.at.age_at(now);
        // An old record may be a repetition of one from before the repository was closed.
        if age >= self.access.known().terms(repository).outage_grace || self.access.is_refused(repository) {
            return false;
        }
        let never_fresh = (self.access.known().terms(repository).grant_ttl * 2).max(NEVER_FRESH);
        self.access.take_over_public(repository, age.max(never_fresh)).await
    }

    async fn told<T: serde::de::DeserializeOwned>(
        &self,
        kind: &str,
        repository: &Repository,
        about: &str,
    ) -> Option<Dated<T>> {
        if !self.tier.shares_names() {
            return None;
        }
        let parts = parts(kind, repository, about);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.tier.told_name(&parts).await
    }
}

fn parts(kind: &str, repository: &Repository, about: &str) -> Vec<String> {
    vec![kind.to_owned(), repository.to_string(), about.to_owned()]
}
