//! `larder doctor --metrics`: which runtimes of this node lead here, for a collector of text files.
//!
//! The daemon itself cannot say it: it may not read what its runtimes read, and a runtime that leads elsewhere never
//! shows up. A node agent runs the command from time to time (docs/wiring.md).

use std::fmt::Write as _;

use super::finding::{Findings, Level};
use crate::support::clock::Timestamp;

/// The findings about the cache itself and about the runtimes as metrics, in Prometheus' text format.
pub(super) fn text(of_cache: &Findings, of_runtimes: &Findings, now: Timestamp) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, samples: &[(String, u64)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    metric(
        "larder_runtime_leads_here",
        "Whether a container runtime of this node pulls through Larder; without those that need not.",
        &runtimes(of_runtimes),
    );
    let all = of_cache.0.iter().chain(&of_runtimes.0);
    let problems = all.filter(|finding| finding.level == Level::Problem).count() as u64;
    metric("larder_doctor_problems", "Problems that larder doctor found.", &[(String::new(), problems)]);
    metric("larder_doctor_timestamp_seconds", "When larder doctor looked.", &[(String::new(), now.0)]);
    text
}

/// 1 for a runtime that leads here, 0 for one with a problem; one that need not lead here and does not is left out.
fn runtimes(findings: &Findings) -> Vec<(String, u64)> {
    let mut names: Vec<&str> = findings.0.iter().map(|finding| finding.about).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name: &str| {
        let is = |level| findings.0.iter().any(|finding| finding.about == name && finding.level == level);
        match (is(Level::Problem), is(Level::Ok)) {
            (true, _) => Some(0),
            (false, true) => Some(1),
            (false, false) => None,
        }
    };
    let samples = names.into_iter().filter_map(|name| Some((format!("{{runtime=\"{name}\"}}"), of(name)?)));
    samples.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_leads_elsewhere_is_seen_and_one_that_need_not_lead_here_raises_no_alarm() {
        let (mut of_cache, mut findings) = (Findings::default(), Findings::default());
        of_cache.ok("cache", "it runs");
        of_cache.add(Level::Problem, "tier", "its bucket is away", "x");
        findings.ok("containerd", "_default leads here");
        findings.add(Level::Warning, "containerd", "quay.io hides _default", "x");
        findings.ok("k3s", "leads here");
        findings.add(Level::Problem, "k3s", "and is refused", "x");
        findings.add(Level::Warning, "docker", "it does not name this cache", "x");
        findings.add(Level::Note, "runtimes", "none is here", "");
        let text = text(&of_cache, &findings, Timestamp(5));
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "larder_runtime_leads_here{runtime=\"containerd\"} 1",
                "larder_runtime_leads_here{runtime=\"k3s\"} 0",
                "larder_doctor_problems 2",
                "larder_doctor_timestamp_seconds 5",
            ]
        );
        let alerts = include_str!("../../../config/alerts.yaml");
        for written in ["larder_runtime_leads_here == 0", "time() - larder_doctor_timestamp_seconds"] {
            assert!(alerts.contains(written), "an alert is about what is written: {written}");
        }
    }
}
