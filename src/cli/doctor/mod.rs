//! `larder doctor`: is every runtime on this node really pulling through this cache, and is the cache well?
//!
//! It reads, asks, and changes nothing; with `--canary` it has a runtime pull one image and looks whether the cache was
//! asked for it. Every finding has its remedy.

mod cache;
mod canary;
mod containerd;
mod runtimes;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Failure, print_json};
use crate::config::Environment;
use crate::reference::Image;

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
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, and not as well as it could.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What it is about: `cache`, `containerd`, `docker`.
    about: &'static str,
    what: String,
    /// What to do; empty where nothing is to be done.
    remedy: String,
}

/// All that was found.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, about: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding { level, about, what: what.into(), remedy: remedy.into() });
    }

    /// How bad it is that Docker does not lead here: beside a runtime that was looked at before and does, it may not be
    /// meant to.
    fn astray(&self) -> Level {
        let leads_here = |finding: &Finding| finding.level == Level::Ok && finding.about != cache::ABOUT;
        if self.0.iter().any(leads_here) { Level::Warning } else { Level::Problem }
    }

    fn ok(&mut self, about: &'static str, what: impl Into<String>) {
        self.add(Level::Ok, about, what, "");
    }
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let settings = match crate::config::load(file, environment) {
        Ok(loaded) => loaded.settings,
        Err(error) => return Err(Failure::Usage(error.to_string())),
    };
    cache::look(&settings, &mut findings);
    runtimes::look(&arguments.root, &settings, &mut findings);
    if let Some(image) = &arguments.canary {
        canary::look(&arguments.root, &arguments.containerd, image, &settings, &mut findings);
    }
    let problems = findings.0.iter().filter(|finding| finding.level == Level::Problem).count();
    if arguments.json {
        print_json(&findings.0)?;
    } else {
        for Finding { level, about, what, remedy } in &findings.0 {
            let level = match level {
                Level::Ok => "ok",
                Level::Note => "note",
                Level::Warning => "WARNING",
                Level::Problem => "PROBLEM",
            };
            println!("{level:<8} {about:<11} {what}");
            if !remedy.is_empty() {
                println!("{:<20} -> {remedy}", "");
            }
        }
    }
    match problems {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} problem(s)"))),
    }
}

/// A file of the machine at `root`; empty if there is none that can be read.
fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path.trim_start_matches('/'))).unwrap_or_default()
}
