//! What would happen to a pull now, and the first thing that stands in its way: pure.

use std::collections::HashSet;
use std::time::Duration;

use super::explain::{CredentialOutlook, EndpointOutlook, Explanation, FailedFetchOutlook};
use crate::serve::RecentRequest;
use crate::support::clock::Timestamp;
use crate::support::size;

/// How long ago a request may have failed to say something of the next one.
const LATELY: Duration = Duration::from_secs(3_600);

impl Explanation {
    /// The first thing that stands in the way of a pull at `now`; `None` if nothing is known to. `names` are the tag or
    /// digest that is asked about, and the digests of all that is known to be of that image.
    pub(super) fn first_obstacle(&self, now: Timestamp, names: &HashSet<String>) -> Option<String> {
        if let Some(why) = &self.not_permitted {
            return Some(format!("the operator permits no request to {}: {why}", self.registry));
        }
        if self.is_served_from_store() {
            return None;
        }
        if !self.endpoints.iter().any(|endpoint| endpoint.authoritative) {
            let registry = &self.registry;
            return Some(format!(
                "no endpoint of {registry} is authoritative: mark one with authoritative = true"
            ));
        }
        let known = self.unreachable().or_else(|| self.limited()).or_else(|| self.no_right());
        known.or_else(|| self.failed(now, names))
    }

    /// What would happen, in the order in which it would.
    pub(super) fn next_steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        if self.not_permitted.is_some() {
            return steps;
        }
        let first =
            self.endpoints.iter().find(|endpoint| endpoint.error.is_none()).or(self.endpoints.first());
        let delivers = first.map_or("the registry", |endpoint| endpoint.url.as_str());
        let proves = self.endpoints.iter().find(|endpoint| endpoint.authoritative);
        let proves = proves.map_or("the registry", |endpoint| endpoint.url.as_str());
        let whom = self.asked_as();
        match &self.freshness {
            Some(freshness) if freshness.asks_first => {
                steps.push(format!("{proves} is asked what the tag names, {whom}"));
            }
            Some(_) => steps.push("the tag means what it last named, without a question".to_owned()),
            None => {}
        }
        if !self.has_fresh_right() && self.freshness.as_ref().is_none_or(|freshness| !freshness.asks_first) {
            steps.push(format!("{proves} is asked whether the caller may read the repository, {whom}"));
        }
        match self.cached.as_ref().filter(|cached| cached.here) {
            None => steps.push(format!("the manifest and all blobs come from {delivers}")),
            Some(cached) => match cached.own() {
                _ if cached.is_complete() => {
                    steps.push(
                        "manifests and blobs come from the store, if the tag still names them".to_owned(),
                    );
                }
                Some(own) if own.here => {
                    let (blobs, bytes) =
                        (own.blobs - own.blobs_here, own.bytes.saturating_sub(own.bytes_here));
                    let bytes = size::shown(bytes);
                    steps.push(format!(
                        "{blobs} blob(s) of {bytes} come from {delivers}, the rest from the store"
                    ));
                }
                _ => steps.push(format!("the image for this node's platform comes from {delivers}")),
            },
        }
        steps
    }

    /// Whether nothing is asked of upstream.
    fn is_served_from_store(&self) -> bool {
        let asks = self.freshness.as_ref().is_some_and(|freshness| freshness.asks_first);
        !asks && self.is_complete() && self.has_fresh_right()
    }

    fn is_complete(&self) -> bool {
        self.cached.as_ref().is_some_and(super::explain::CachedOutlook::is_complete)
    }

    fn has_fresh_right(&self) -> bool {
        self.access.open || self.access.rights.iter().any(|right| right.usable && right.fresh)
    }

    fn holds_in_outage(&self) -> bool {
        self.access.open || self.access.rights.iter().any(|right| right.usable && right.holds_in_outage)
    }

    fn asked_as(&self) -> String {
        match self
            .credentials
            .iter()
            .find(|credential| !credential.username.is_empty() || credential.source != "node")
        {
            Some(credential) => format!("with the credential of {}", credential.file),
            None => "without a credential".to_owned(),
        }
    }

    /// The registry cannot be asked, and nothing may be served instead.
    fn unreachable(&self) -> Option<String> {
        let fails = |endpoint: &&EndpointOutlook| endpoint.authoritative && endpoint.error.is_none();
        let failing =
            self.endpoints.iter().find(|endpoint| endpoint.authoritative && endpoint.error.is_some())?;
        if self.endpoints.iter().any(|endpoint| fails(&endpoint)) {
            return None;
        }
        let may_be_old = self.freshness.as_ref().is_none_or(|freshness| freshness.stale_if_error_seconds > 0);
        if self.is_complete() && self.holds_in_outage() && may_be_old {
            return None;
        }
        let instead = match (&self.cached, self.holds_in_outage()) {
            (None, _) => "nothing of the image is in the store",
            (Some(_), false) => "no right of this caller holds meanwhile",
            (Some(_), true) if !self.is_complete() => "not all of the image is in the store",
            (Some(_), true) => "stale_if_error lets nothing older be served",
        };
        let error = failing.error.as_deref().unwrap_or_default();
        Some(format!("{} cannot be asked ({}: {error}), and {instead}", self.registry, failing.url))
    }

    /// The registry answers 429 to the credential that would be used first.
    fn limited(&self) -> Option<String> {
        let kind = match self.credentials.first().map(|credential| credential.source.as_str()) {
            Some("pull-secret") => "caller",
            Some("provider") => "provider",
            Some(_) => "node",
            None => "anonymous",
        };
        let limits = self.rate_limits.iter().filter(|limit| limit.principal == kind);
        let seconds = limits.filter_map(|limit| limit.retry_after_seconds).max()?;
        let wait = humantime::format_duration(Duration::from_secs(seconds));
        Some(format!("{} limits this node's requests ({kind}): it is asked again in {wait}", self.registry))
    }

    /// No principal is known that could open the repository to this caller.
    fn no_right(&self) -> Option<String> {
        let usable = self.access.rights.iter().any(|right| right.usable);
        if usable || !self.credentials.is_empty() || !self.access.refuses_anonymous {
            return None;
        }
        Some(format!(
            "{} refuses anonymous access to this repository, and no credential matches: the pod needs a pull secret for \
             it, or the node a credential",
            self.registry
        ))
    }

    /// The last request of this image failed, or the last fetch ahead of one.
    fn failed(&self, now: Timestamp, names: &HashSet<String>) -> Option<String> {
        // The repository has other images, whose failures say nothing of this one.
        let is_of_image = |request: &RecentRequest| {
            request.reference.as_ref().is_some_and(|reference| names.contains(reference))
        };
        // Where the node has a credential, a challenge says that it was of no use; else it only asks for one.
        let is_of_node =
            |c: &CredentialOutlook| c.source == "provider" || (c.source == "node" && !c.username.is_empty());
        let has_credential = self.credentials.iter().any(is_of_node);
        let is_said = |request: &RecentRequest| match request.ended.as_str() {
            "challenged" => request.reason.is_some() && has_credential,
            "client left" => false,
            _ => true,
        };
        let last = self.recent.iter().find(|request| is_of_image(request) && is_said(request));
        let counts =
            |fetch: &&FailedFetchOutlook| fetch.met_by_pods && last.is_none_or(|last| last.at <= fetch.at);
        if let Some(FailedFetchOutlook { at, error, of_list, .. }) = self.failed_fetch.as_ref().filter(counts)
            && (*of_list || at.age_at(now) <= LATELY)
        {
            let ago = humantime::format_duration(at.age_at(now));
            let what = if *of_list { "pre-pull" } else { "larder pull" };
            return Some(format!("{what} of it failed {ago} ago: {error}"));
        }
        let last = last?;
        if last.ended == "served" || last.at.age_at(now) > LATELY {
            return None;
        }
        let ago = humantime::format_duration(last.at.age_at(now));
        let reason = last.reason.as_deref().unwrap_or("the log says no more");
        let what = last.reference.as_deref().unwrap_or_default();
        Some(format!("request {}, {ago} ago, for {what} was {}: {reason}", last.request, last.ended))
    }
}

#[cfg(test)]
#[path = "obstacle_tests.rs"]
mod tests;
