//! `explain`: what each part of the daemon says of one image, put together. Nothing is asked of a registry; the node's
//! plugins may run, as they would for a pull.

use super::commands::{Explain, PullSecret};
use super::error::CommandError;
use crate::admin::explain::{
    AccessOutlook, CachedOutlook, CredentialOutlook, EndpointOutlook, Explanation, FailedFetchOutlook,
    FreshnessOutlook, PlatformOutlook, RightOutlook, TierOutlook,
};
use crate::admin::registries::RateLimitReport;
use crate::credentials::{CredentialMatch, Keychain, PullSecrets};
use crate::kubernetes::Pods;
use crate::prepull::{Fetcher, List};
use crate::pull::{Caller, Outlook, Policy, PullContext, Puller, TagTtl};
use crate::reference::{Digest, Image, Platform, Reference, Registry, Repository};
use crate::serve::Recent;
use crate::store::{ImageContents, PlatformContents, Store};
use crate::tier::Tier;
use crate::upstream::{EndpointStatus, Upstream};

/// The parts of the daemon that are asked. Cheap to clone.
#[derive(Clone)]
pub struct Explainer {
    /// Rights and freshness.
    pub puller: Puller,
    /// What is cached, and pins.
    pub store: Store,
    /// The credentials that match.
    pub keychain: Keychain,
    /// The registries, and how they are.
    pub upstream: Upstream,
    /// The shared tier.
    pub tier: Tier,
    /// The last pulls.
    pub recent: Recent,
    /// This node's pods.
    pub pods: Pods,
    /// What commands and the list fetched last.
    pub fetcher: Fetcher,
    /// The images of `[prepull]`.
    pub list: List,
}

impl Explainer {
    /// How a pull would go now.
    pub(super) async fn explain(&self, command: &Explain) -> Result<Explanation, CommandError> {
        let image: Image = command.image.parse().map_err(CommandError::bad)?;
        let Image { repository, reference } = &image;
        let mut secrets = PullSecrets::default();
        for PullSecret { file, content } in &command.secrets {
            secrets.add(file.as_ref(), content.as_bytes()).map_err(CommandError::bad)?;
        }
        let presented = self.keychain.pull_secret_credentials(&secrets, repository).into_iter().next();
        let caller = presented.map_or(Caller::Anonymous, Caller::Presented);
        let context = PullContext::new(repository.clone(), Some(reference.clone()), caller);
        let outlook = self.puller.outlook(&context, reference).await;
        let contents = self.store.contents(repository, reference).await.map_err(CommandError::failed)?;
        let root = contents.as_ref().map(|contents| contents.root);
        let digests = contents.iter().flat_map(|contents| &contents.digests).map(ToString::to_string);
        let names = digests.chain([reference.to_string()]).collect();
        let pinned = self.store.pins().into_iter().filter(|pin| {
            pin.repository == *repository
                && (pin.reference == reference.to_string() || Some(pin.root) == root)
        });
        let (endpoints, not_permitted) = self.endpoints(repository);
        let (matches, credential_problems) = self.keychain.matches(repository, &secrets).await;
        let registry = repository.registry();
        let limits = self.upstream.rate_limits().into_iter().filter(|limit| {
            limit.registry == *registry && limit.repository.as_ref().is_none_or(|of| of == repository)
        });
        let mut explanation = Explanation {
            image: image.to_string(),
            registry: registry.to_string(),
            obstacle: None,
            steps: Vec::new(),
            configured: self.upstream.is_configured(registry),
            not_permitted,
            endpoints,
            outage_since: outlook.outage_since,
            rate_limits: limits.map(RateLimitReport::from).collect(),
            credentials: matches.into_iter().map(credential).collect(),
            credential_problems,
            freshness: freshness(&outlook),
            tier: self.tier(registry, digest_of(reference).or(root)).await,
            access: access(outlook),
            cached: contents.map(cached),
            pins: pinned.map(|pin| pin.owner.unwrap_or_else(|| "a pull under way".to_owned())).collect(),
            pods: self.pods.outlook(&image),
            failed_fetch: self.failed_fetch(&image),
            recent: self.recent.requests_for(repository),
        };
        explanation.obstacle = explanation.first_obstacle(self.store.clock().now(), &names);
        explanation.steps = explanation.next_steps();
        Ok(explanation)
    }

    /// How the last fetch by `larder pull` or for the list failed, if it did.
    fn failed_fetch(&self, image: &Image) -> Option<FailedFetchOutlook> {
        let failed = self.fetcher.failure_of(image)?;
        let name = image.to_string();
        let of_list = self.list.status().failed.iter().any(|(failed, _)| *failed == name);
        let met_by_pods = failed.is_met_by_pods;
        Some(FailedFetchOutlook { at: failed.at, error: failed.error, of_list, met_by_pods })
    }

    /// How the shared tier is, and whether it has the manifest: the one question that is asked.
    async fn tier(&self, registry: &Registry, digest: Option<Digest>) -> Option<TierOutlook> {
        let status = self.tier.status().filter(|status| status.reads)?;
        let left_out = !self.tier.shares(registry);
        let has_manifest = match digest {
            Some(digest) if !left_out => self.tier.has_manifest(registry, digest).await,
            _ => None,
        };
        let fails = status.reading_fails.map(|trouble| trouble.kind);
        Some(TierOutlook { left_out, fails, has_manifest })
    }

    /// The endpoints of a repository and how each is for it; or why none may be asked.
    fn endpoints(&self, repository: &Repository) -> (Vec<EndpointOutlook>, Option<String>) {
        let endpoints = match self.upstream.endpoints_of(repository.registry()) {
            Ok(endpoints) => endpoints,
            Err(error) => return (Vec::new(), Some(error.to_string())),
        };
        let failing = self.upstream.failing_endpoints();
        let outlook = |endpoint: EndpointStatus| {
            let failing = failing.iter().find(|failing| {
                failing.registry == *repository.registry()
                    && failing.endpoint == endpoint.host
                    && failing.repository.as_ref().is_none_or(|failing| failing == repository)
            });
            EndpointOutlook {
                url: endpoint.url,
                authoritative: endpoint.authoritative,
                credentials: endpoint.credentials.to_owned(),
                error: failing.map(|failing| failing.error.to_string()),
                failing_seconds: failing.map(|failing| failing.failing_for.as_secs()),
            }
        };
        (endpoints.into_iter().map(outlook).collect(), None)
    }
}

fn digest_of(reference: &Reference) -> Option<Digest> {
    match reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => None,
    }
}

fn credential(found: CredentialMatch) -> CredentialOutlook {
    let CredentialMatch { source, file, key, username } = found;
    CredentialOutlook { source: source.into_owned(), file: file.display().to_string(), key, username }
}

fn freshness(outlook: &Outlook) -> Option<FreshnessOutlook> {
    let freshness = outlook.freshness?;
    Some(FreshnessOutlook {
        tag_ttl_seconds: match freshness.tag_ttl {
            TagTtl::For(ttl) => Some(ttl.as_secs()),
            TagTtl::Immutable => None,
        },
        stale_while_revalidate_seconds: freshness.stale_while_revalidate.as_secs(),
        stale_if_error_seconds: freshness.stale_if_error.as_secs(),
        rule: outlook.rule.clone(),
        confirmed_at: outlook.confirmed_at,
        asks_first: outlook.asks_what_tag_names,
    })
}

fn access(outlook: Outlook) -> AccessOutlook {
    let rights = outlook.rights.into_iter().map(|right| RightOutlook {
        whose: right.principal.kind.label().to_owned(),
        proved_at: right.proved_at,
        fresh: right.is_fresh,
        holds_in_outage: right.holds_in_outage,
        usable: right.is_callers,
    });
    AccessOutlook {
        open: outlook.terms.policy == Policy::Open,
        grant_ttl_seconds: outlook.terms.grant_ttl.as_secs(),
        refuses_anonymous: outlook.refuses_anonymous,
        rights: rights.collect(),
    }
}

fn cached(contents: ImageContents) -> CachedOutlook {
    let names: Vec<Option<Platform>> =
        contents.platforms.iter().map(|platform| platform.platform.parse().ok()).collect();
    let own = Platform::host().choose(names.iter().map(Option::as_ref)).into_iter().next();
    let platform = |(n, platform): (usize, PlatformContents)| PlatformOutlook {
        platform: platform.platform,
        digest: platform.manifest.to_string(),
        here: platform.is_here,
        of_this_node: Some(n) == own,
        blobs: platform.blobs,
        blobs_here: platform.blobs_here,
        bytes: platform.bytes,
        bytes_here: platform.bytes_here,
    };
    CachedOutlook {
        digest: contents.root.to_string(),
        here: contents.is_here,
        index: contents.is_index,
        platforms: contents.platforms.into_iter().enumerate().map(platform).collect(),
    }
}
