//! How a pull of one image would go now: the answer to `larder explain`.
//!
//! Promises: no secret, and nothing that is asked of a registry; it names repositories and is answered on the control
//! socket alone.

use serde::{Deserialize, Serialize};

use super::registries::RateLimitReport;
use crate::kubernetes::PodOutlook;
use crate::serve::RecentRequest;
use crate::support::clock::Timestamp;

/// How a pull would go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The name, normalised as a runtime does it.
    pub image: String,
    /// The registry that it is at.
    pub registry: String,
    /// The first thing that stands in the way; absent if nothing is known to.
    pub obstacle: Option<String>,
    /// What would happen, in the order in which it would.
    pub steps: Vec<String>,
    /// Whether a `[[registry]]` section names the registry.
    pub configured: bool,
    /// Why no request may be sent to it.
    pub not_permitted: Option<String>,
    /// The endpoints, in the order in which they would be asked.
    pub endpoints: Vec<EndpointOutlook>,
    /// Since when the registry cannot be asked.
    pub outage_since: Option<Timestamp>,
    /// What the registry said about rate limits.
    pub rate_limits: Vec<RateLimitReport>,
    /// The credentials that match, in the order in which they would be tried.
    pub credentials: Vec<CredentialOutlook>,
    /// Files and plugins that should have given a credential and could not.
    pub credential_problems: Vec<String>,
    /// Who may read the repository.
    pub access: AccessOutlook,
    /// What is in the store of it; absent if its name is not known there.
    pub cached: Option<CachedOutlook>,
    /// The shared tier; absent if this node does not read from one.
    pub tier: Option<TierOutlook>,
    /// How fresh the meaning of the tag has to be; absent for a digest.
    pub freshness: Option<FreshnessOutlook>,
    /// What pins it: `command`, `list`, or `import`.
    pub pins: Vec<String>,
    /// The pods of this node that have it, and how far it is for each.
    #[serde(default)]
    pub pods: Vec<PodOutlook>,
    /// How the last fetch by `larder pull` or for `[prepull]` failed; absent if it did not.
    #[serde(default)]
    pub failed_fetch: Option<FailedFetchOutlook>,
    /// The last requests for content of the repository, the last first.
    pub recent: Vec<RecentRequest>,
}

/// A fetch ahead of any pod that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedFetchOutlook {
    /// When it failed.
    pub at: Timestamp,
    /// Why.
    pub error: String,
    /// Whether `[prepull]` tries it again.
    pub of_list: bool,
    /// Whether a pod that pulls the image fails of it too.
    #[serde(default)]
    pub met_by_pods: bool,
}

/// The shared tier, for content that is not in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierOutlook {
    /// Whether the registry is left out, by `[tier] registries`.
    #[serde(default)]
    pub left_out: bool,
    /// Why it is left alone now; absent while it answers.
    pub fails: Option<String>,
    /// Whether it has the manifest; absent if the digest is not known here, or the tier did not say.
    pub has_manifest: Option<bool>,
}

/// An endpoint, and how it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointOutlook {
    /// Its URL.
    pub url: String,
    /// Whether its answers prove rights and decide what a tag names.
    pub authoritative: bool,
    /// Which credentials it may be shown: `none`, `caller`, or `node`, which includes those of callers.
    pub credentials: String,
    /// Its last error; absent if it is not known to fail for this repository.
    pub error: Option<String>,
    /// Seconds since it began to fail.
    pub failing_seconds: Option<u64>,
}

/// A credential that matches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CredentialOutlook {
    /// `pull-secret`, `node` or `provider`.
    pub source: String,
    /// The docker config, Secret or plugin that has it.
    pub file: String,
    /// The key that matched.
    pub key: String,
    /// The user name, unless it may be a token; empty for an anonymous attempt.
    pub username: String,
}

/// Who may read a repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessOutlook {
    /// Whether `policy = "open"` opens what is cached to every pod.
    pub open: bool,
    /// Seconds for which a proof of a right counts.
    pub grant_ttl_seconds: u64,
    /// Whether the repository refused the node's credentials and anonymous access within the last hours.
    pub refuses_anonymous: bool,
    /// The rights that are known, the one that was proved last first.
    pub rights: Vec<RightOutlook>,
}

/// A right to read the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RightOutlook {
    /// `anonymous` (every client), `node` or `provider` (every pod), or `caller` (who shows one credential).
    pub whose: String,
    /// When upstream last proved it.
    pub proved_at: Timestamp,
    /// Whether it needs no new proof now.
    pub fresh: bool,
    /// Whether it would hold while the registry cannot be asked.
    pub holds_in_outage: bool,
    /// Whether the caller that is asked about may use it: one with the pull secrets given, else one without any.
    pub usable: bool,
}

/// What is in the store of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CachedOutlook {
    /// The digest that the name last had.
    pub digest: String,
    /// Whether its manifest or index is here.
    pub here: bool,
    /// Whether it is an index.
    pub index: bool,
    /// Its images, one for each platform.
    pub platforms: Vec<PlatformOutlook>,
}

/// What is in the store of the image of one platform.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlatformOutlook {
    /// Such as `linux/arm64`; empty where there is no name.
    pub platform: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Whether that is here; if not, its blobs are not known.
    pub here: bool,
    /// Whether it is the one that a runtime on this node would choose.
    pub of_this_node: bool,
    /// Its config and layers.
    pub blobs: usize,
    /// How many of them are here.
    pub blobs_here: usize,
    /// Their bytes, as the manifest claims.
    pub bytes: u64,
    /// The bytes of those that are here.
    pub bytes_here: u64,
}

/// How fresh the meaning of a tag has to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FreshnessOutlook {
    /// For how many seconds upstream's answer counts; absent: for ever.
    pub tag_ttl_seconds: Option<u64>,
    /// For how many seconds after that it is served while upstream is asked in the background.
    pub stale_while_revalidate_seconds: u64,
    /// For how many seconds into an outage it is served.
    pub stale_if_error_seconds: u64,
    /// The pattern of the rule that says so; absent if none matches.
    pub rule: Option<String>,
    /// When upstream last said what the tag names.
    pub confirmed_at: Option<Timestamp>,
    /// Whether upstream is asked before anything is served.
    pub asks_first: bool,
}

impl CachedOutlook {
    /// The image that a runtime on this node would read.
    pub(super) fn own(&self) -> Option<&PlatformOutlook> {
        self.platforms.iter().find(|platform| platform.of_this_node)
    }

    /// Whether a runtime on this node finds all of it here.
    pub(super) fn is_complete(&self) -> bool {
        self.own().is_some_and(|own| own.here && own.blobs == own.blobs_here)
    }
}
