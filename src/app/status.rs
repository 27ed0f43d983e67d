//! How the daemon shows its state: read from its parts, never from the metrics.

use std::sync::Arc;
use std::time::Instant;

use crate::admin::{self, DaemonStatus, Readiness, ServedStatus, StatusReport, StoreStatus};
use crate::kubernetes::Pods;
use crate::prepull::List;
use crate::pull::Puller;
use crate::serve::Observer;
use crate::store::Store;
use crate::tier::Tier;
use crate::upstream::{FailingEndpoint, Upstream};

/// Registries that never answered at most that are named in a report: strangers choose the names.
const NEVER_ANSWERED_MAX: usize = 8;

/// The parts whose state is shown. Cheap to clone.
#[derive(Clone)]
pub(super) struct StatusSources {
    pub(super) store: Store,
    pub(super) puller: Puller,
    pub(super) upstream: Upstream,
    pub(super) observer: Arc<Observer>,
    pub(super) list: List,
    pub(super) pods: Pods,
    pub(super) tier: Tier,
    pub(super) readiness: Readiness,
    /// When the daemon began to serve.
    pub(super) since: Instant,
}

impl StatusSources {
    /// The numbers, without any name.
    pub(super) async fn status(&self) -> DaemonStatus {
        let answered = self.observer.totals();
        let requests = answered.requests.into_iter().map(|(name, count)| (name.to_owned(), count));
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.since.elapsed().as_secs(),
            ready: self.readiness.is_ready(),
            store: self.store_status().await,
            served: ServedStatus::new(
                &answered.bytes,
                answered.from_upstream,
                self.upstream.received_bytes(),
            ),
            downloads: self.puller.downloads(),
            requests: requests.collect(),
            outages: self.puller.outages().len(),
            pods: self.pods.numbers(),
            tier: self.tier.status(),
        }
    }

    /// The numbers, the registries and the pre-pull list.
    pub(super) async fn report(&self) -> StatusReport {
        let (failing, never_answered) = self.failing();
        StatusReport {
            numbers: self.status().await,
            never_answered,
            registries: admin::registries(
                self.puller.outages(),
                failing,
                self.upstream.rate_limits(),
                self.store.clock().now(),
            ),
            prepull: self.list.status(),
            pod_sources: self.pods.status(),
        }
    }

    /// Endpoints that fail, of registries that the operator named or that answered before, and the names of some
    /// others.
    fn failing(&self) -> (Vec<FailingEndpoint>, Vec<String>) {
        let (known, others): (Vec<_>, Vec<_>) = self
            .upstream
            .failing_endpoints()
            .into_iter()
            .partition(|endpoint| self.puller.is_known_registry(&endpoint.registry));
        (known, last_asked(others))
    }

    async fn store_status(&self) -> StoreStatus {
        let limits = self.store.limits().await;
        let totals = self.store.totals();
        StoreStatus {
            blobs: totals.blobs,
            bytes: totals.bytes,
            max_bytes: limits.map(|limits| limits.max_bytes),
            free_bytes: limits.map(|limits| limits.free_bytes),
            capacity_bytes: limits.map(|limits| limits.capacity_bytes),
            lacks_inodes: limits.is_some_and(|limits| limits.lacks_inodes),
            caching: self.store.is_caching(),
            write_failure: self.store.write_failure(),
            disk_failing: self.store.is_disk_failing(),
            disk_hanging: self.store.is_disk_hanging(),
            pins: self.store.pins().len(),
        }
    }
}

/// The names of the registries that were asked last.
fn last_asked(mut failing: Vec<FailingEndpoint>) -> Vec<String> {
    failing.sort_by_key(|endpoint| endpoint.last_request_ago);
    let mut names = Vec::new();
    for endpoint in failing {
        let name = endpoint.registry.to_string();
        if names.len() < NEVER_ANSWERED_MAX && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::Error;

    /// One that was asked so many seconds ago.
    fn failing(registry: &str, endpoint: &str, seconds: u64) -> FailingEndpoint {
        let error = Error::Invalid { host: endpoint.to_owned(), why: "it is of a test".to_owned() };
        FailingEndpoint {
            registry: registry.parse().unwrap(),
            endpoint: endpoint.to_owned(),
            repository: None,
            error,
            failures: 1,
            failing_for: Duration::from_secs(600),
            last_request_ago: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn names_that_strangers_invent_do_not_fill_a_report_and_push_out_no_later_one() {
        let mut all: Vec<_> = (10..1_000).map(|n| failing(&format!("n{n}.evil.test"), "e", n)).collect();
        all.push(failing("ghrc.io", "ghrc.io:443", 7));
        all.push(failing("ghrc.io", "ghrc.io:8443", 5));
        let names = last_asked(all);
        assert_eq!(names.len(), NEVER_ANSWERED_MAX);
        assert_eq!(
            names[..3],
            ["ghrc.io", "n10.evil.test", "n11.evil.test"],
            "each once, the last asked first"
        );
    }
}
