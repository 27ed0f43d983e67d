//! What more readers, connections, cold images and processors cost, and how long warm requests take beside downloads.
//!
//! `cargo bench --bench growth`, which `make bench` runs; needs wrk (`tests/tools.sh --bench`) and taskset. Two minutes. Writes
//! `benches/GROWTH.md`, `benches/growth.json` and `benches/growth-*.svg`. The registries are in this process. Read how the
//! figures grow: they are this machine's. `GROWTH=short` measures a little of everything and writes nothing;
//! `GROWTH=readers,cores` measures these parts and writes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(clippy::disallowed_methods, reason = "these are rules of the daemon's code")]

mod cold;
mod connections;
mod cores;
mod latency;
mod readers;
mod report;
#[path = "../support/mod.rs"]
mod support;

use report::Part;

/// What measures a part.
type Measure = fn(Extent) -> Part;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Whether only to see that it works.
    is_short: bool,
}

impl Extent {
    /// `whole`, or much less of it.
    pub(crate) fn of(self, whole: usize, short: usize) -> usize {
        if self.is_short { short } else { whole }
    }
}

fn main() {
    // Cargo passes `--bench`; `cargo test` would run this too.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    support::congestion::restore();
    // Thousands of connections.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let chosen = std::env::var("GROWTH").ok();
    let extent = Extent { is_short: chosen.as_deref() == Some("short") };
    let wanted = |name: &str| {
        chosen.as_deref().is_none_or(|chosen| chosen == "short" || chosen.split(',').any(|one| one == name))
    };
    let all: [(&str, Measure); 5] = [
        ("readers", readers::measure),
        ("connections", connections::measure),
        ("cold", cold::measure),
        ("cores", cores::measure),
        ("latency", latency::measure),
    ];
    let parts: Vec<Part> =
        all.into_iter().filter(|(name, _)| wanted(name)).map(|(_, measure)| measure(extent)).collect();
    if chosen.is_none() {
        report::write(&parts);
    }
}
