//! The simulated world: random histories from a seed, with faults at every boundary, and a referee that knows what must
//! never happen. `docs/testing.md` says how it is used.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of its own: it reads its environment, says what it found and ends with a status"
)]

#[allow(unreachable_pub, missing_docs, dead_code, reason = "the integration tests need more of it")]
#[path = "../support/fault.rs"]
mod fault;
#[allow(unreachable_pub, missing_docs, reason = "the integration tests use it as their own")]
#[path = "../support/noise.rs"]
mod noise;
#[allow(unreachable_pub, missing_docs, dead_code, reason = "the integration tests need more of it")]
#[path = "../support/s3/mod.rs"]
mod s3;

mod bucket;
mod catalog;
mod client;
mod daemon;
mod disk;
mod draw;
mod files;
mod kept;
mod log;
mod many;
mod network;
mod plan;
mod pods;
mod preload;
mod referee;
mod registry;
mod replays;
mod rng;
mod run;
mod shared_names;
mod shrink;
mod story;
mod time;
mod truth;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // What nextest and cargo ask a test program.
    if words.contains(&"--list") {
        if !words.contains(&"--ignored") {
            for name in run::TESTS {
                println!("{name}: test");
            }
        }
        return ExitCode::SUCCESS;
    }
    preload::ensure();
    let done = match words.as_slice() {
        ["seed", seed, rest @ ..] => run::seed(seed, rest),
        ["replay", file, rest @ ..] => run::replay(file, rest),
        ["worker", seed, cpu] => many::worker(seed, cpu),
        ["record", seed, cpu, file] => replays::record(seed, cpu, file),
        ["replays", seeds] => replays::replays(seeds),
        ["plans", seeds] => run::plans(seeds),
        ["figures", seeds] => run::figures(seeds),
        ["simulate", which] => run::simulate(which),
        ["seeds", from, until] => run::seeds(from, until),
        ["hunt", seeds] => run::hunt(seeds),
        ["keep", seed, kind, name] => run::keep(seed, kind, name),
        _ => run::tests(&words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
