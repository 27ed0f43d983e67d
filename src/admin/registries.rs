//! The registries that are in trouble or limit this node, by name and in sentences: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::reference::Registry;
use crate::support::clock::Timestamp;
use crate::upstream::{FailingEndpoint, RateLimitStatus};

/// An endpoint that was asked within this time: its message does not say when.
const LATELY: Duration = Duration::from_secs(60);

/// A registry about which there is something to report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistryReport {
    /// Its host.
    pub registry: String,
    /// Since when it cannot be asked; absent while it can.
    pub outage_since: Option<Timestamp>,
    /// Its endpoints that fail.
    pub endpoints: Vec<EndpointReport>,
    /// What it said about rate limits.
    pub rate_limits: Vec<RateLimitReport>,
    /// All of that in sentences.
    pub messages: Vec<String>,
}

/// An endpoint that fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// `host:port`.
    pub endpoint: String,
    /// Its last error.
    pub error: String,
    /// Failures in a row.
    pub failures: u32,
    /// Seconds since the first of them.
    pub failing_seconds: u64,
    /// Seconds since the last request to it.
    pub last_request_seconds_ago: u64,
}

/// A rate limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateLimitReport {
    /// The kind of credential that is limited: `caller`, `node`, `provider` or `anonymous`.
    pub principal: String,
    /// The repository that is limited, where that is not the account.
    #[serde(default)]
    pub repository: Option<String>,
    /// Requests in a window.
    pub limit: Option<u64>,
    /// Requests that are left in it.
    pub remaining: Option<u64>,
    /// Seconds until the registry is asked again after a 429.
    pub retry_after_seconds: Option<u64>,
}

impl From<RateLimitStatus> for RateLimitReport {
    fn from(status: RateLimitStatus) -> Self {
        let RateLimitStatus { principal, repository, limit, remaining, retry_after, .. } = status;
        let (principal, repository) =
            (principal.to_owned(), repository.map(|repository| repository.to_string()));
        let retry_after_seconds = retry_after.map(|wait| wait.as_secs());
        Self { principal, repository, limit, remaining, retry_after_seconds }
    }
}

/// The registries about which there is something to report, by name.
pub fn registries(
    outages: Vec<(Registry, Timestamp)>,
    endpoints: Vec<FailingEndpoint>,
    rate_limits: Vec<RateLimitStatus>,
    now: Timestamp,
) -> Vec<RegistryReport> {
    let mut reports = Reports::default();
    for (registry, since) in outages {
        let report = reports.of(&registry);
        report.outage_since = Some(since);
        let ago = ago(since.age_at(now));
        report
            .messages
            .push(format!("cannot be asked since {ago}; what was pulled before is served as it was"));
    }
    for FailingEndpoint { registry, endpoint, repository, error, failures, failing_for, last_request_ago } in
        endpoints
    {
        let report = reports.of(&registry);
        let error = error.to_string();
        let asked = if last_request_ago < LATELY {
            String::new()
        } else {
            format!(", and was last asked {}", ago(last_request_ago))
        };
        let since = shown(failing_for);
        let whom = repository.map_or_else(String::new, |repository| format!(" requests for {repository}"));
        report
            .messages
            .push(format!("its endpoint {endpoint} has been failing{whom} for {since}{asked}: {error}"));
        report.endpoints.push(EndpointReport {
            endpoint,
            error,
            failures,
            failing_seconds: failing_for.as_secs(),
            last_request_seconds_ago: last_request_ago.as_secs(),
        });
    }
    for status in rate_limits {
        let RateLimitStatus { registry, principal, repository, limit, remaining, retry_after } = &status;
        let (principal, report) = (*principal, reports.of(registry));
        let pulls = pulls_of(principal);
        if let Some(wait) = retry_after {
            let of = repository.as_ref().map_or_else(String::new, |repository| format!(" of {repository}"));
            report.messages.push(format!("limits {pulls}{of}: it is asked again in {}", shown(*wait)));
        }
        if let Some(left) = remaining {
            let of = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
            report.messages.push(format!("{left}{of} requests are left for {pulls}"));
        }
        report.rate_limits.push(RateLimitReport::from(status));
    }
    reports.0.into_values().collect()
}

#[derive(Default)]
struct Reports(BTreeMap<String, RegistryReport>);

impl Reports {
    fn of(&mut self, registry: &Registry) -> &mut RegistryReport {
        self.0.entry(registry.to_string()).or_insert_with(|| RegistryReport {
            registry: registry.to_string(),
            outage_since: None,
            endpoints: Vec::new(),
            rate_limits: Vec::new(),
            messages: Vec::new(),
        })
    }
}

fn pulls_of(principal: &str) -> &str {
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
    use crate::upstream::{ConnectStage, Error};

    #[test]
    fn one_registry_in_every_trouble_is_one_report_that_an_operator_can_read() {
        let registry: Registry = "reg.test".parse().unwrap();
        let endpoint = |last: u64| FailingEndpoint {
            repository: None,
            registry: registry.clone(),
            endpoint: "mirror.test:443".to_owned(),
            error: Error::Unreachable {
                host: "mirror.test:443".to_owned(),
                stage: ConnectStage::Connect,
                why: "connection refused".to_owned(),
            },
            failures: 3,
            failing_for: Duration::from_secs(90),
            last_request_ago: Duration::from_secs(last),
        };
        let limited = RateLimitStatus {
            registry: registry.clone(),
            principal: "anonymous",
            repository: None,
            limit: Some(100),
            remaining: Some(2),
            retry_after: Some(Duration::from_secs(30)),
        };
        let of_repository = RateLimitStatus {
            repository: Some("reg.test/app".parse().unwrap()),
            limit: None,
            remaining: None,
            ..limited.clone()
        };
        let outages = vec![(registry.clone(), Timestamp(940))];
        let endpoints = vec![endpoint(5), endpoint(300)];
        let reports = registries(outages, endpoints, vec![limited, of_repository], Timestamp(1_000));
        let [report] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!(
            report.messages[0],
            "cannot be asked since 1m ago; what was pulled before is served as it was"
        );
        assert!(report.messages[1].starts_with("its endpoint mirror.test:443 has been failing for 1m 30s: "));
        assert!(report.messages[2].contains("for 1m 30s, and was last asked 5m ago: "));
        assert_eq!(report.messages[3], "limits anonymous pulls: it is asked again in 30s");
        assert_eq!(report.messages[4], "2 of 100 requests are left for anonymous pulls");
        assert_eq!(report.messages[5], "limits anonymous pulls of reg.test/app: it is asked again in 30s");
        assert_eq!((report.endpoints.len(), report.rate_limits.len()), (2, 2));
        assert_eq!(registries(vec![], vec![], vec![], Timestamp(1_000)), []);
    }
}
