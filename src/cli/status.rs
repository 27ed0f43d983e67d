//! `larder status`: the state of the daemon at a glance.

use std::time::Duration;

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::{print_json, shown_duration};
use super::run_async::ask_daemon;
use crate::admin::control::GetReport;
use crate::admin::{DiskState, StatusReport};
use crate::prepull::ListStatus;
use crate::support::clock::{Clock, Timestamp};
use crate::support::size;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let report = ask_daemon(&context.settings()?, &GetReport {})?;
    if arguments.json {
        return print_json(&report);
    }
    for (title, line) in lines(&report, Clock::system().now()) {
        println!("{title:<11} {line}");
    }
    Ok(())
}

/// The lines that a person is shown, each with its title.
fn lines(report: &StatusReport, now: Timestamp) -> Vec<(&'static str, String)> {
    let StatusReport { numbers, registries, prepull } = report;
    let (store, served) = (&numbers.store, &numbers.served);
    let state = if numbers.ready { "ready" } else { "not ready" };
    let up = shown_duration(Duration::from_secs(numbers.uptime_seconds));
    let mut lines = vec![("larder", format!("{} {state}, up for {up}", numbers.version))];
    lines.push((
        "served",
        match served.hit_ratio {
            None => "nothing yet".to_owned(),
            Some(ratio) => format!(
                "{}, {:.1} % of it without upstream; {} not fetched",
                size::shown(served.bytes),
                ratio * 100.0,
                size::shown(served.saved_bytes)
            ),
        },
    ));
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
    lines.push(("downloads", numbers.downloads.to_string()));
    lines.push(("pinned", format!("{} image(s)", store.pins)));
    if prepull.images > 0 || prepull.problem.is_some() {
        lines.push(("pre-pull", list(prepull, now)));
        if let Some(problem) = &prepull.problem {
            lines.push(("", format!("the list cannot be used: {problem}")));
        }
        lines.extend(prepull.failed.iter().map(|(image, error)| ("", format!("{image}: {error}"))));
    }
    if registries.is_empty() {
        lines.push(("registries", "nothing to report".to_owned()));
    }
    for (at, registry) in registries.iter().enumerate() {
        for (n, message) in registry.messages.iter().enumerate() {
            let name = if n == 0 { registry.registry.as_str() } else { "" };
            let title = if at == 0 && n == 0 { "registries" } else { "" };
            lines.push((title, format!("{name:<20} {message}")));
        }
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
