//! Many seeds in worker processes, one on each processor, and what came of all of them: counts, kinds of violations, and
//! how often each act and fault was drawn.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::kept::Kept;
use crate::plan::{Act, Plan};
use crate::referee::named;
use crate::run::{clean, history, number, pin};
use crate::{draw, kept, preload, story};

/// What came of one seed, as a worker tells it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Outcome {
    seed: u64,
    simulated_ms: u64,
    asks: usize,
    seen: usize,
    disk_hits: u64,
    acts: BTreeMap<String, u64>,
    violations: Vec<(String, u64, String)>,
}

fn outcome(plan: &Plan) -> Outcome {
    let (history, violations) = history(plan);
    let mut acts: BTreeMap<String, u64> = BTreeMap::new();
    for step in &plan.steps {
        *acts.entry(act_name(&step.act)).or_default() += 1;
    }
    Outcome {
        seed: plan.seed,
        simulated_ms: history.ended_at,
        asks: history.asks.len(),
        seen: history.seen.len(),
        disk_hits: history.disk_hits,
        acts,
        violations: violations.into_iter().map(|v| (v.kind, v.at, v.what)).collect(),
    }
}

/// An act, or a fault by its kind, in words.
fn act_name(act: &Act) -> String {
    match act {
        Act::Fault(fault) => format!("upstream {}", named(fault.kind)),
        Act::Disk(fault) => format!("disk {} {}", named(fault.call), named(fault.error)),
        Act::Room { free_mib } => {
            format!("disk {}", if free_mib.is_some() { "filled" } else { "room again" })
        }
        Act::Damage(damage) => format!("damage {}", named(damage.how)),
        Act::Kill { .. } | Act::Restart => format!("process {}", named(act)),
        Act::ClockJump { .. } | Act::ClockBack { .. } => format!("clock {}", named(act)),
        act => named(act),
    }
}

/// One history in this process; a line of JSON says what came of it: `worker SEED CPU`, or `worker NAME CPU` for one that
/// is kept.
pub(crate) fn worker(which: &str, cpu: &str) -> Result<(), String> {
    pin(number(cpu)? as usize);
    let kept = kept::all().into_iter().find(|kept| kept.name == which);
    let plan = match kept {
        Some(kept) => kept.plan,
        None => draw::plan(number(which)?),
    };
    println!("{}", serde_json::to_string(&outcome(&plan)).unwrap());
    clean();
    Ok(())
}

/// What came of many seeds.
#[derive(Default)]
pub(crate) struct Totals {
    count: u64,
    took: Duration,
    asks: usize,
    seen: usize,
    disk_hits: u64,
    simulated_ms: u64,
    acts: BTreeMap<String, u64>,
    /// How often each kind of violation was seen, and by which seed first.
    kinds: BTreeMap<String, (u64, u64)>,
    /// Seeds that show what is not known, and what.
    pub(crate) news: Vec<(u64, String)>,
}

impl Totals {
    fn add(&mut self, outcome: Outcome, known: &[String]) {
        self.count += 1;
        self.asks += outcome.asks;
        self.seen += outcome.seen;
        self.disk_hits += outcome.disk_hits;
        self.simulated_ms += outcome.simulated_ms;
        for (name, times) in outcome.acts {
            *self.acts.entry(name).or_default() += times;
        }
        for (kind, ..) in &outcome.violations {
            self.kinds.entry(kind.clone()).or_insert((0, outcome.seed)).0 += 1;
            if !kept::is_known(known, kind) {
                self.news.push((outcome.seed, kind.clone()));
            }
        }
    }

    fn print(&self, known: &[String]) {
        let minutes = self.took.as_secs_f64() / 60.0;
        println!(
            "{} histories in {:.1} s ({:.0} a minute), {} requests of clients ({:.0} a minute), {} upstream, {} simulated hours",
            self.count,
            self.took.as_secs_f64(),
            self.count as f64 / minutes,
            self.asks,
            self.asks as f64 / minutes,
            self.seen,
            self.simulated_ms / 3_600_000
        );
        for (kind, (times, seed)) in &self.kinds {
            let told = if kept::is_known(known, kind) { "known" } else { "NEW" };
            println!("  {told} {kind}: {times} times, first by seed {seed}");
        }
    }

    /// Acts and faults as a table of Markdown: where, what, how often.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from("| Where | What | Times |\n| --- | --- | --- |\n");
        for (name, times) in &self.acts {
            let (place, what) = name.split_once(' ').unwrap_or(("act", name));
            text += &format!("| {place} | {what} | {times} |\n");
        }
        text + &format!("| disk | calls that were made to fail | {} |\n", self.disk_hits)
    }
}

/// Runs seeds in worker processes, tells what is not known at once, and sums up.
pub(crate) fn run(seeds: Range<u64>) -> Totals {
    let begun = Instant::now();
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let share = (seeds.end - seeds.start).div_ceil(processors);
    let known = kept::known();
    let told: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let mut children = Vec::new();
    for cpu in 0..processors {
        let from = seeds.start + cpu * share;
        let until = (from + share).min(seeds.end);
        if from < until {
            let (known, told) = (known.clone(), Arc::clone(&told));
            children.push(std::thread::spawn(move || {
                run_share(from..until, cpu, |outcome| tell_news(outcome, &known, &told))
            }));
        }
    }
    let mut totals = Totals::default();
    for child in children {
        let (outcomes, crashed) = child.join().unwrap();
        for seed in crashed {
            println!("seed {seed}: the world itself came to an end");
            totals.news.push((seed, "crash".to_owned()));
        }
        outcomes.into_iter().for_each(|outcome| totals.add(outcome, &known));
    }
    totals.took = begun.elapsed();
    totals.news.sort();
    totals.print(&known);
    totals
}

/// Says at once what is not known, of each kind twice.
fn tell_news(outcome: &Outcome, known: &[String], told: &Mutex<BTreeMap<String, u32>>) {
    for (kind, at, what) in outcome.violations.iter().filter(|(kind, ..)| !kept::is_known(known, kind)) {
        let mut told = told.lock().unwrap();
        let times = told.entry(kind.clone()).or_default();
        *times += 1;
        if *times <= 2 {
            println!("seed {}: {kind} at {at} ms: {}", outcome.seed, story::short(what));
        }
    }
}

/// Runs seeds one after the other; returns also those that did not live to tell.
fn run_share(seeds: Range<u64>, cpu: u64, tell: impl Fn(&Outcome)) -> (Vec<Outcome>, Vec<u64>) {
    let (mut outcomes, mut crashed) = (Vec::new(), Vec::new());
    for seed in seeds {
        match alone(&seed.to_string(), cpu) {
            Some(outcome) => {
                tell(&outcome);
                outcomes.push(outcome);
            }
            None => crashed.push(seed),
        }
    }
    (outcomes, crashed)
}

/// Runs a history in a process of its own, so that it replays whatever was run before it.
fn alone(which: &str, cpu: u64) -> Option<Outcome> {
    let mut command = preload::worker();
    command.args(["worker", which, &cpu.to_string()]);
    let done = command.stderr(Stdio::inherit()).output().ok()?;
    serde_json::from_slice(&done.stdout).ok()
}

/// The kinds of what a kept history shows; `None` if it did not live to tell.
pub(crate) fn kinds_of(kept: &Kept) -> Option<Vec<String>> {
    Some(alone(&kept.name, 0)?.violations.into_iter().map(|(kind, ..)| kind).collect())
}
