//! `larder status`: the state of the daemon at a glance.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::{print, print_json, shown_duration};
use super::run_async::ask_daemon;
use crate::admin::control::GetReport;
use crate::admin::{DiskState, StatusReport};
use crate::kubernetes::{PodNumbers, PodsStatus};
use crate::prepull::ListStatus;
use crate::support::clock::{Clock, Timestamp};
use crate::support::size;
use crate::tier::{TierStatus, TierTrouble};

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Again every two seconds, until it is interrupted; with --json one object a line
    #[arg(long)]
    watch: bool,
}

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let socket = context.daemon_socket()?;
    if !arguments.watch {
        let report = ask_daemon(&socket, &GetReport {})?;
        if arguments.json {
            return print_json(&report);
        }
        return print(&text(&report));
    }
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        // A daemon that restarts is back in a moment.
        let shown = match ask_daemon(&socket, &GetReport {}) {
            Ok(report) if arguments.json => serde_json::to_string(&report).map_err(Failure::failed)? + "\n",
            Ok(report) => format!("{clear}{}{}", text(&report), if clear.is_empty() { "\n" } else { "" }),
            Err(error) if arguments.json => format!("{}\n", serde_json::json!({"error": error.message()})),
            Err(error) => format!("{clear}{}\n", error.message()),
        };
        print(&shown)?;
        std::thread::sleep(WATCH_EVERY);
    }
}

fn text(report: &StatusReport) -> String {
    let lines = lines(report, Clock::system().now());
    lines.iter().map(|(title, line)| format!("{title:<11} {line}\n")).collect()
}

/// The lines that a person is shown, each with its title.
fn lines(report: &StatusReport, now: Timestamp) -> Vec<(&'static str, String)> {
    let StatusReport { numbers, registries, never_answered, prepull, pod_sources } = report;
    let (store, served) = (&numbers.store, &numbers.served);
    let state = if numbers.ready { "ready" } else { "not ready" };
    let up = shown_duration(Duration::from_secs(numbers.uptime_seconds));
    let mut lines = vec![("larder", format!("{} {state}, up for {up}", numbers.version))];
    lines.push((
        "served",
        match served.hit_ratio {
            None => "nothing yet".to_owned(),
            Some(ratio) => format!(
                "{}: {} from upstream, {} not fetched ({:.1} %)",
                size::shown(served.bytes),
                size::shown(served.from_upstream_bytes),
                size::shown(served.saved_bytes),
                ratio * 100.0
            ),
        },
    ));
    if served.received_bytes > 0 {
        let (received, unserved) = (size::shown(served.received_bytes), size::shown(served.unserved_bytes));
        lines.push((
            "received",
            format!("{received} from upstream, {unserved} of it served to no client yet"),
        ));
    }
    let of = store.max_bytes.map_or_else(String::new, |max| format!(" of {}", size::shown(max)));
    let free = store.free_bytes.map_or_else(String::new, |free| format!(", {} free", size::shown(free)));
    lines.push(("store", format!("{} blobs, {}{of}{free}", store.blobs, size::shown(store.bytes))));
    let state = DiskState::of(store);
    lines.extend(
        [state.sentence().as_str(), state.remedy()]
            .iter()
            .filter(|said| !said.is_empty())
            .map(|said| ("", (*said).to_owned())),
    );
    lines.extend(numbers.tier.iter().flat_map(tier));
    lines.push(("downloads", numbers.downloads.to_string()));
    lines.push(("pinned", format!("{} image(s)", store.pins)));
    if prepull.images > 0 || prepull.problem.is_some() {
        lines.push(("pre-pull", list(prepull, now)));
        if let Some(problem) = &prepull.problem {
            lines.push(("", format!("the list cannot be used: {problem}")));
        }
        lines.extend(prepull.failed.iter().map(|(image, error)| ("", format!("{image}: {error}"))));
    }
    lines.extend(of_pods(pod_sources, numbers.pods.unwrap_or_default()));
    if registries.is_empty() && never_answered.is_empty() {
        lines.push(("registries", "nothing to report".to_owned()));
    }
    for (at, registry) in registries.iter().enumerate() {
        for (n, message) in registry.messages.iter().enumerate() {
            let name = if n == 0 { registry.registry.as_str() } else { "" };
            let title = if at == 0 && n == 0 { "registries" } else { "" };
            lines.push((title, format!("{name:<20} {message}")));
        }
    }
    if !never_answered.is_empty() {
        let title = if registries.is_empty() { "registries" } else { "" };
        lines.push((title, format!("have never answered, and fail: {}", never_answered.join(", "))));
    }
    lines
}

/// The shared tier: what it brought, and what is wrong with it.
fn tier(tier: &TierStatus) -> Vec<(&'static str, String)> {
    let (read, written) = (size::shown(tier.read_bytes), size::shown(tier.written_bytes));
    let mut lines = vec![(
        "tier",
        format!("{} found there, {} not; {read} read, {written} written", tier.hits, tier.misses),
    )];
    for (what, trouble) in [("read", &tier.reading_fails), ("written", &tier.writing_fails)] {
        lines.extend(trouble.iter().map(|TierTrouble { kind, seconds }| {
            let lasts = shown_duration(Duration::from_secs(*seconds));
            ("", format!("it cannot be {what} ({kind}) for {lasts}; registries are asked instead"))
        }));
    }
    if tier.bad_objects > 0 {
        lines.push(("", format!("{} object(s) were not the content of their digest", tier.bad_objects)));
    }
    lines
}

/// Nothing where this node's pods are not watched.
fn of_pods(pods: &PodsStatus, numbers: PodNumbers) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    for source in &pods.sources {
        let state = match &source.problem {
            None => "tells of them".to_owned(),
            Some(problem) => format!("does not tell of them: {problem}"),
        };
        lines.push((if lines.is_empty() { "pods" } else { "" }, format!("{} {state}", source.name)));
    }
    if !lines.is_empty() {
        let PodNumbers { known, fetching, found_all, found_part, protected_blobs } = numbers;
        lines.push(("", format!("{known} pod(s) known, {fetching} image(s) being fetched for them")));
        let found = format!("{found_all} image(s) were here when a runtime asked, {found_part} in part");
        lines.push(("", format!("{found}; {protected_blobs} blob(s) of running pods are evicted last")));
        lines.extend(
            pods.runtime_problem
                .iter()
                .map(|problem| ("", format!("the runtime does not say which images it has: {problem}"))),
        );
        lines.extend(pods.failed.iter().map(|(image, why)| ("", format!("{image}: {why}"))));
        lines.extend(pods.unused.iter().map(|registry| {
            ("", format!("{registry}: nothing is fetched ahead, no runtime asked for the last images of it"))
        }));
    }
    lines
}

fn list(prepull: &ListStatus, now: Timestamp) -> String {
    let state = match (prepull.running, prepull.finished_at) {
        (true, _) => "being checked now".to_owned(),
        (false, None) => "not checked yet".to_owned(),
        (false, Some(at)) => format!("checked {} ago", shown_duration(at.age_at(now))),
    };
    format!("{} of {} image(s) in the store, {state}", prepull.summary.pulled, prepull.images)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{DaemonStatus, RegistryReport, ServedStatus, StoreStatus};
    use crate::kubernetes::SourceStatus;
    use crate::store::WriteFailure;

    /// Of a daemon about which there is nothing to say.
    fn report() -> StatusReport {
        let store = StoreStatus {
            blobs: 1,
            bytes: 1,
            max_bytes: None,
            free_bytes: None,
            capacity_bytes: None,
            lacks_inodes: false,
            caching: true,
            write_failure: None,
            disk_failing: false,
            disk_hanging: false,
            pins: 0,
        };
        let numbers = DaemonStatus {
            version: "1".to_owned(),
            uptime_seconds: 1,
            ready: true,
            store,
            served: ServedStatus::default(),
            downloads: 0,
            requests: [].into(),
            outages: 0,
            pods: None,
            tier: None,
        };
        let (prepull, pod_sources) = (ListStatus::default(), PodsStatus::default());
        StatusReport { numbers, registries: Vec::new(), never_answered: Vec::new(), prepull, pod_sources }
    }

    fn registry(messages: &[&str]) -> RegistryReport {
        RegistryReport {
            registry: "reg.test".to_owned(),
            outage_since: None,
            endpoints: Vec::new(),
            rate_limits: Vec::new(),
            messages: messages.iter().map(|message| (*message).to_owned()).collect(),
        }
    }

    /// The lines from the one that begins with `title` to the next with a title.
    fn shown(report: &StatusReport, title: &str) -> Vec<String> {
        let all = lines(report, Timestamp(1_000));
        let from = all.iter().position(|(of, _)| *of == title);
        let of_it = all.iter().skip(from.unwrap_or_else(|| panic!("{title}: {all:?}")));
        let of_it = of_it.enumerate().take_while(|(at, (of, _))| *at == 0 || of.is_empty());
        of_it.map(|(_, (_, line))| line.clone()).collect()
    }

    #[test]
    fn a_name_that_was_mistyped_in_a_pod_is_shown_beside_the_registries_in_trouble() {
        let quiet = report();
        assert_eq!(shown(&quiet, "registries"), ["nothing to report"]);
        let never = || vec!["ghrc.io".to_owned(), "reg.tset".to_owned()];
        let mistyped = "have never answered, and fail: ghrc.io, reg.tset";
        let alone = StatusReport { never_answered: never(), ..report() };
        assert_eq!(shown(&alone, "registries"), [mistyped]);
        let registries = vec![registry(&["does not answer", "limits requests"])];
        let both = StatusReport { never_answered: never(), registries, ..report() };
        let named = format!("{:<20} does not answer", "reg.test");
        assert_eq!(shown(&both, "registries"), [&named, &format!("{:<20} limits requests", ""), mistyped]);
    }

    #[test]
    fn a_store_that_takes_nothing_is_shown_with_its_reason_and_what_to_do() {
        let mut broken = report();
        assert_eq!(shown(&broken, "store").len(), 1);
        broken.numbers.store.caching = false;
        broken.numbers.store.write_failure = Some(WriteFailure::ReadOnly);
        let shown = shown(&broken, "store");
        assert!(shown[1].contains("mounted read-only"), "{shown:?}");
        assert_eq!(shown.len(), 3, "a remedy: {shown:?}");
    }

    #[test]
    fn what_is_not_used_has_no_line_and_a_list_that_cannot_be_read_has_one() {
        let quiet = lines(&report(), Timestamp(1_000));
        for absent in ["pre-pull", "pods", "tier", "received"] {
            assert!(quiet.iter().all(|(title, _)| *title != absent), "{absent}: {quiet:?}");
        }
        let mut listed = report();
        listed.prepull.problem = Some("line 7 is malformed".to_owned());
        let said = shown(&listed, "pre-pull");
        assert_eq!(
            said,
            ["0 of 0 image(s) in the store, not checked yet", "the list cannot be used: line 7 is malformed"]
        );
        listed.prepull.finished_at = Some(Timestamp(940));
        assert!(shown(&listed, "pre-pull")[0].ends_with("checked 1m ago"));
        listed.prepull.running = true;
        assert!(shown(&listed, "pre-pull")[0].ends_with("being checked now"));
    }

    #[test]
    fn a_source_of_pods_that_sees_nothing_is_told_from_one_that_sees() {
        let source = |name: &str, problem: Option<&str>| SourceStatus {
            name: name.to_owned(),
            connected: problem.is_none(),
            problem: problem.map(str::to_owned),
        };
        let sources = vec![source("a", None), source("b", Some("no answer"))];
        let runtime_problem = Some("/run/c.sock: Permission denied".to_owned());
        let pod_sources = PodsStatus { sources, runtime_problem, ..PodsStatus::default() };
        let shown = shown(&StatusReport { pod_sources, ..report() }, "pods");
        assert_eq!(shown[..2], ["a tells of them", "b does not tell of them: no answer"]);
        assert!(shown.contains(
            &"the runtime does not say which images it has: /run/c.sock: Permission denied".to_owned()
        ));
    }
}
