//! What the daemon itself reports of the pods of its node and of the shared tier: it has another user than this
//! command, and so may not be able to do what this command can.

use std::time::Duration;

use super::finding::{Findings, Level};
use crate::admin::StatusReport;
use crate::cli::output::shown_duration;
use crate::kubernetes::PodsStatus;
use crate::tier::{TierStatus, TierTrouble};

const SEE_PODS: &str =
    "the daemon's own user has to read what [kubernetes] names: docs/pods.md, \"With the systemd unit\"";
const SEE_TIER: &str = "a round trip of the daemon follows; where that works, larder_tier_errors_total counts by kind, and all of a \
                        directory has to be the daemon user's own (find DIRECTORY ! -user USER)";

/// Adds what is wrong; nothing where the daemon reports nothing.
pub(super) fn check(report: &StatusReport, findings: &mut Findings) {
    of_pods(&report.pod_sources, findings);
    report.numbers.tier.iter().for_each(|tier| of_tier(tier, findings));
}

fn of_pods(pods: &PodsStatus, findings: &mut Findings) {
    // One source is enough to see pods by; the API server alone has pull secrets.
    let level =
        if pods.sources.iter().any(|source| source.connected) { Level::Warning } else { Level::Problem };
    for source in &pods.sources {
        if let Some(problem) = &source.problem {
            let what = format!("the daemon sees no pods through {}: {problem}", source.name);
            findings.add(level, "kubernetes", what, SEE_PODS);
        }
    }
    if let Some(problem) = &pods.runtime_problem {
        let what = format!("the runtime does not tell the daemon which images it has: {problem}");
        findings.add(Level::Warning, "kubernetes", what, SEE_PODS);
    }
}

fn of_tier(tier: &TierStatus, findings: &mut Findings) {
    for (what, trouble) in [("read", &tier.reading_fails), ("write to", &tier.writing_fails)] {
        if let Some(TierTrouble { kind, seconds }) = trouble {
            let lasts = shown_duration(Duration::from_secs(*seconds));
            let what = format!("the daemon could not {what} it when it last tried ({kind}, for {lasts})");
            findings.add(Level::Warning, "tier", what, SEE_TIER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::SourceStatus;

    #[test]
    fn what_the_daemon_cannot_do_is_not_called_well_because_root_can() {
        let source = |name: &str, problem: Option<&str>| SourceStatus {
            name: name.to_owned(),
            connected: problem.is_none(),
            problem: problem.map(str::to_owned),
        };
        let (denied, well) = (source("api server", Some("Permission denied")), source("kubelet", None));
        let tier = serde_json::json!({
            "reads": true, "writes": true, "hits": 0, "misses": 0, "read_bytes": 0, "written": 0, "written_bytes": 0,
            "bad_objects": 0, "reading_fails": null, "writing_fails": {"kind": "denied", "seconds": 90},
        });
        let report = |sources: &[SourceStatus]| -> StatusReport {
            serde_json::from_value(serde_json::json!({
                "version": "0", "uptime_seconds": 1, "ready": true, "downloads": 0, "requests": {}, "outages": 0,
                "store": {"blobs": 0, "bytes": 0, "caching": true, "pins": 0},
                "served": {"bytes_by_source": {}, "bytes": 0, "saved_bytes": 0, "hit_ratio": null, "received_bytes": 0},
                "tier": tier, "registries": [], "prepull": crate::prepull::ListStatus::default(),
                "pod_sources": PodsStatus { sources: sources.to_vec(), ..PodsStatus::default() },
            }))
            .unwrap()
        };
        let found = |sources: &[SourceStatus]| {
            let mut findings = Findings::default();
            check(&report(sources), &mut findings);
            findings
                .0
                .into_iter()
                .map(|finding| (finding.level, finding.about, finding.what))
                .collect::<Vec<_>>()
        };
        let alone = found(std::slice::from_ref(&denied));
        let [(Level::Problem, "kubernetes", pods), (Level::Warning, "tier", tier)] = &alone[..] else {
            panic!("{alone:?}")
        };
        assert!(pods.contains("Permission denied") && tier.contains("denied, for 1m"), "{alone:?}");
        assert_eq!(found(&[denied, well.clone()])[0].0, Level::Warning, "one source is enough to see pods");
        assert_eq!(found(&[well]).len(), 1);
        let mut denied_socket = Findings::default();
        let runtime_problem = Some("/run/c.sock: Permission denied".to_owned());
        of_pods(&PodsStatus { runtime_problem, ..PodsStatus::default() }, &mut denied_socket);
        let [finding] = &denied_socket.0[..] else { panic!("{:?}", denied_socket.0) };
        assert!(finding.level == Level::Warning && finding.what.contains("/run/c.sock: Permission denied"));
    }
}
