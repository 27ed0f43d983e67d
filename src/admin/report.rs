//! How the daemon stands: numbers for everybody, and, for its owner, the registries by name, in words.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::prepull::ListStatus;
use crate::pull::{AnswerSource, Puller};
use crate::support::clock::Timestamp;
use crate::upstream::{FailingEndpoint, RateLimitStatus, Upstream};

/// `/v1/status`: numbers only, no names of repositories or registries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Of this program.
    pub version: String,
    /// Since the start.
    pub uptime_seconds: u64,
    /// As `/readyz` says.
    pub ready: bool,
    /// The store.
    pub store: StoreStatus,
    /// What was handed out.
    pub served: Served,
    /// Blob downloads under way.
    pub flights: u64,
    /// Requests answered since the start, by outcome.
    pub requests: BTreeMap<String, u64>,
    /// Registries that cannot be asked.
    pub outages: usize,
}

/// What the store holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Committed blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that they may have; absent where the filesystem does not say how large it is.
    pub max_bytes: Option<u64>,
    /// Bytes that are free on the filesystem.
    pub free_bytes: Option<u64>,
    /// Bytes that they may have as things are: less than `max_bytes` if others have filled the filesystem; absent as
    /// that is.
    pub capacity_bytes: Option<u64>,
    /// Whether what is fetched is stored.
    pub caching: bool,
    /// Images that are pinned.
    pub pins: usize,
}

/// What was handed out since the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Served {
    /// Body bytes, by where they came from.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// All of them.
    pub bytes: u64,
    /// Body bytes that were received from upstream.
    pub received_bytes: u64,
    /// The part of the bytes for which upstream sent none, from 0 to 1; absent before the first.
    pub hit_ratio: Option<f64>,
    /// Bytes that did not have to be fetched.
    pub saved_bytes: u64,
}

impl Served {
    /// From the body bytes by where they came from, and those that were received from upstream.
    pub fn new(by_source: &[(AnswerSource, u64)], received_bytes: u64) -> Self {
        let from_upstream =
            |source: AnswerSource| matches!(source, AnswerSource::Fill | AnswerSource::Passthrough);
        let bytes: u64 = by_source.iter().map(|(_, bytes)| bytes).sum();
        let fetched: u64 =
            by_source.iter().filter(|(source, _)| from_upstream(*source)).map(|(_, bytes)| bytes).sum();
        #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
        let hit_ratio = (bytes > 0).then(|| (bytes - fetched) as f64 / bytes as f64);
        let saved_bytes = bytes.saturating_sub(received_bytes);
        let bytes_by_source =
            by_source.iter().map(|(source, bytes)| (source.label().to_owned(), *bytes)).collect();
        Self { bytes_by_source, bytes, received_bytes, hit_ratio, saved_bytes }
    }
}

/// The whole report, through the control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The numbers.
    #[serde(flatten)]
    pub numbers: Status,
    /// Registries about which there is something to say.
    pub registries: Vec<RegistryReport>,
    /// The images that the daemon keeps by itself.
    pub prepull: ListStatus,
}

/// Of an endpoint that was asked within this time it goes without saying when.
const LATELY: Duration = Duration::from_secs(60);

/// What there is to say about a registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistryReport {
    /// Which.
    pub registry: String,
    /// Since when it cannot be asked.
    pub outage_since: Option<Timestamp>,
    /// Its endpoints in trouble.
    pub endpoints: Vec<EndpointReport>,
    /// What it said about rate limits.
    pub limits: Vec<LimitReport>,
    /// All of that in sentences.
    pub words: Vec<String>,
}

/// An endpoint in trouble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// `host:port`.
    pub endpoint: String,
    /// How it failed last.
    pub error: String,
    /// How often in a row.
    pub failures: u32,
    /// For how long.
    pub seconds: u64,
    /// How long ago it was last asked.
    pub asked_seconds_ago: u64,
}

/// A rate limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitReport {
    /// Whose: `caller`, `node`, `provider` or `anonymous`.
    pub principal: String,
    /// Requests in a window.
    pub limit: Option<u64>,
    /// What is left of them.
    pub remaining: Option<u64>,
    /// For how long the registry is left alone after a 429.
    pub retry_after_seconds: Option<u64>,
}

/// The registries about which there is something to say.
pub fn registries(puller: &Puller, upstream: &Upstream, now: Timestamp) -> Vec<RegistryReport> {
    let mut found: BTreeMap<String, RegistryReport> = BTreeMap::new();
    for (registry, since) in puller.outages() {
        let report = about(&mut found, &registry);
        report.outage_since = Some(since);
        report.words.push(format!(
            "cannot be asked since {}; what was pulled before is served as it was",
            ago(since.age_at(now))
        ));
    }
    for FailingEndpoint { registry, endpoint, error, failures, failing_for, last_request_ago } in
        upstream.failing_endpoints()
    {
        let report = about(&mut found, &registry);
        let error = error.to_string();
        let since = shown(failing_for);
        report.words.push(if last_request_ago < LATELY {
            format!("its endpoint {endpoint} has been failing for {since}: {error}")
        } else {
            let last = ago(last_request_ago);
            format!(
                "its endpoint {endpoint} has been failing for {since}, and was last asked {last}: {error}"
            )
        });
        let (seconds, asked_seconds_ago) = (failing_for.as_secs(), last_request_ago.as_secs());
        report.endpoints.push(EndpointReport { endpoint, error, failures, seconds, asked_seconds_ago });
    }
    for RateLimitStatus { registry, principal, limit, remaining, retry_after } in upstream.rate_limits() {
        let report = about(&mut found, &registry);
        if let Some(wait) = retry_after {
            report.words.push(format!("limits {}: it is asked again in {}", whose(principal), shown(wait)));
        }
        if let Some(left) = remaining {
            let of = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
            report.words.push(format!("{left}{of} requests are left for {}", whose(principal)));
        }
        report.limits.push(LimitReport {
            principal: principal.to_owned(),
            limit,
            remaining,
            retry_after_seconds: retry_after.map(|wait| wait.as_secs()),
        });
    }
    found.into_values().collect()
}

fn about<'a>(
    found: &'a mut BTreeMap<String, RegistryReport>,
    registry: &crate::reference::Registry,
) -> &'a mut RegistryReport {
    found.entry(registry.to_string()).or_insert_with(|| RegistryReport {
        registry: registry.to_string(),
        outage_since: None,
        endpoints: Vec::new(),
        limits: Vec::new(),
        words: Vec::new(),
    })
}

fn whose(principal: &str) -> &str {
    match principal {
        "anonymous" => "anonymous pulls",
        "node" => "the node's credential",
        "provider" => "the credential of a plugin",
        _ => "a pod's own credential",
    }
}

fn shown(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs().max(1))).to_string()
}

fn ago(time: Duration) -> String {
    if time.as_secs() == 0 { "just now".to_owned() } else { format!("{} ago", shown(time)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_did_not_have_to_send_is_a_hit() {
        let by_source = [(AnswerSource::Fill, 100), (AnswerSource::Hit, 250), (AnswerSource::Join, 50)];
        let served = Served::new(&by_source, 110);
        assert_eq!((served.bytes, served.hit_ratio, served.saved_bytes), (400, Some(0.75), 290));
        let nothing = Served::new(&[], 10);
        assert_eq!((nothing.hit_ratio, nothing.saved_bytes), (None, 0));
    }
}
