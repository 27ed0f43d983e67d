//! `larder status`: how the daemon stands, at a glance.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::{Failure, ago, ask, print_json, settings};
use crate::admin::StatusReport;
use crate::admin::control::GetReport;
use crate::config::Environment;
use crate::support::clock::Clock;
use crate::support::size;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let report = ask(&settings(file, environment)?, &GetReport {})?;
    if arguments.json {
        return print_json(&report);
    }
    for (title, line) in lines(&report) {
        println!("{title:<11} {line}");
    }
    Ok(())
}

/// What a person is told.
fn lines(report: &StatusReport) -> Vec<(&'static str, String)> {
    let StatusReport { numbers, registries, prepull } = report;
    let (store, served) = (&numbers.store, &numbers.served);
    let state = if numbers.ready { "ready" } else { "not ready" };
    let up = ago(Duration::from_secs(numbers.uptime_seconds));
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
    if !store.caching {
        lines.push(("", "its disk failed; what is fetched is passed through and not kept".to_owned()));
    }
    match store.capacity_bytes {
        Some(0) => lines.push((
            "",
            "others have filled its filesystem ([store] min_free): what is fetched is passed through and not kept"
                .to_owned(),
        )),
        Some(room) if store.max_bytes.is_some_and(|max| room < max) => lines.push((
            "",
            format!("room for {} of that: others have filled its filesystem ([store] min_free)", size::shown(room)),
        )),
        _ => {}
    }
    lines.push(("downloads", numbers.downloads.to_string()));
    lines.push(("pinned", format!("{} image(s)", store.pins)));
    if prepull.images > 0 || prepull.problem.is_some() {
        lines.push(("pre-pull", list(prepull)));
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

fn list(prepull: &crate::prepull::ListStatus) -> String {
    let now = Clock::system().now();
    let state = match (prepull.running, prepull.finished_at) {
        (true, _) => "being looked at now".to_owned(),
        (false, None) => "not looked at yet".to_owned(),
        (false, Some(at)) => format!("looked at {} ago", ago(at.age_at(now))),
    };
    format!("{} of {} image(s) here, {state}", prepull.summary.pulled, prepull.images)
}
