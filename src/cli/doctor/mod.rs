//! `larder doctor`: is every runtime on this node really pulling through this cache, and is the cache well?
//!
//! It reads, asks, and changes nothing; with `--canary` it has a runtime pull one image and checks whether the cache
//! was asked for it. Every problem has its remedy.

mod cache;
mod canary;
mod containerd;
mod containers_entries;
mod finding;
mod here;
mod hosts;
mod http;
mod metrics;
#[cfg(feature = "kubernetes")]
mod pods;
mod port;
mod registries;
mod reported;
mod runtimes;
mod tier;
mod unreadable;

use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::daemon::InEffect;
use super::failure::Failure;
use super::output::{print, print_json};
use crate::cli::runtimes::machine::Machine;
use crate::reference::Image;
use crate::support::clock::Clock;
use finding::{CACHE, Finding, Findings, Level};

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Have containerd pull this image, and look whether it came through this cache
    #[arg(long, value_name = "IMAGE")]
    canary: Option<Image>,
    /// containerd's socket, for --canary
    #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "SOCKET")]
    containerd: PathBuf,
    /// The root of the filesystem to look at
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// As metrics for a collector of text files: which runtimes lead here. Asks no registry, API server or bucket, and
    /// exits with 0 also if there are problems
    #[arg(long, conflicts_with_all = ["json", "canary"])]
    metrics: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let asked = InEffect::ask(context)?;
    let settings = &asked.settings;
    let machine = Machine::under(&arguments.root);
    let (mut findings, mut of_runtimes) = (Findings::default(), Findings::default());
    if let Some(mistakes) = &asked.mistakes {
        let remedy =
            "larder config check; the daemon goes on with what it read before, and its next start fails";
        findings.add(Level::Problem, CACHE, mistakes.clone(), remedy);
    }
    let cache::Seen { ours, report, is_hanging } = cache::check(&machine, &asked, &mut findings);
    runtimes::check(&machine, &asked, &mut of_runtimes);
    if arguments.metrics {
        return print(&metrics::text(&findings, &of_runtimes, Clock::system().now()));
    }
    // Each of its addresses leads to the same registries.
    if let Some(address) = ours.first() {
        registries::check(*address, settings, &mut findings);
    }
    findings.0.append(&mut of_runtimes.0);
    report.iter().for_each(|report| reported::check(report, &mut findings));
    #[cfg(feature = "kubernetes")]
    pods::check(settings, &mut findings);
    if !is_hanging {
        tier::check(settings, &mut findings);
    }
    if let Some(image) = arguments.canary.as_ref().filter(|_| !is_hanging) {
        canary::check(&machine, &arguments.containerd, image, settings, &mut findings);
    }
    let problems = findings.0.iter().filter(|finding| finding.level == Level::Problem).count();
    if arguments.json {
        print_json(&findings.0)?;
    } else {
        print(&findings.0.iter().map(shown).collect::<String>())?;
    }
    match problems {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} problem(s)"))),
    }
}

/// A finding for people.
fn shown(finding: &Finding) -> String {
    let Finding { level, about, what, remedy, .. } = finding;
    let level = match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Warning => "WARNING",
        Level::Problem => "PROBLEM",
    };
    let remedy = if remedy.is_empty() { String::new() } else { format!("{:<20} -> {remedy}\n", "") };
    format!("{level:<8} {about:<11} {what}\n{remedy}")
}
