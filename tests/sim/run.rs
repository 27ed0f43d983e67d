//! Running histories: one, a kept one, many in several processes, and what `make test` runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::kept::{self, Kept};
use crate::plan::{Act, Plan};
use crate::referee::{self, Violation};
use crate::world::{self, History};
use crate::{draw, log, preload, shrink, story, time};

/// What nextest sees.
pub(crate) const TESTS: [&str; 2] = ["kept_histories", "fresh_histories"];
/// Seeds that are always run, and fresh ones beside them.
const FIXED: u64 = 80;
const FRESH: u64 = 20;
/// Real time for shrinking what was found.
const SHRINK_WAIT: Duration = Duration::from_secs(60);

type Done = Result<(), String>;

/// Acts out a plan and judges it.
pub(crate) fn history(plan: &Plan) -> (History, Vec<Violation>) {
    log::begin();
    let _ = log::take();
    let (plan, seed) = (plan.clone(), plan.seed);
    let history =
        time::run(seed, move |now| world::act(now, plan, preload::control(), preload::root().join("disk")));
    let violations = referee::judge(&history);
    (history, violations)
}

/// What came of one seed, as a worker tells it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Outcome {
    seed: u64,
    real_ms: u64,
    simulated_ms: u64,
    asks: usize,
    seen: usize,
    acts: BTreeMap<String, u64>,
    violations: Vec<(String, u64, String)>,
}

fn outcome(plan: &Plan) -> Outcome {
    let begun = Instant::now();
    let (history, violations) = history(plan);
    let mut acts: BTreeMap<String, u64> = BTreeMap::new();
    for step in &plan.steps {
        let name = match &step.act {
            Act::Fault(fault) => format!("fault {}", referee::named(fault.kind)),
            Act::Disk(fault) => {
                format!("disk {} {}", referee::named(fault.call), referee::named(fault.error))
            }
            Act::Damage(damage) => format!("damage {}", referee::named(damage.how)),
            act => referee::named(act),
        };
        *acts.entry(name).or_default() += 1;
    }
    Outcome {
        seed: plan.seed,
        real_ms: begun.elapsed().as_millis() as u64,
        simulated_ms: history.ended_at,
        asks: history.asks.len(),
        seen: history.seen.len(),
        acts,
        violations: violations.into_iter().map(|v| (v.kind, v.at, v.what)).collect(),
    }
}

/// One seed: `seed N [story] [log] [shrink KIND]`.
pub(crate) fn seed(seed: &str, rest: &[&str]) -> Done {
    let seed: u64 = seed.parse().map_err(|_| "a seed is a number")?;
    show(&draw::plan(seed), rest)
}

/// A kept history: `replay FILE [story] [log]`.
pub(crate) fn replay(file: &str, rest: &[&str]) -> Done {
    let kept = kept::read(Path::new(file))?;
    show(&kept.plan, rest)
}

fn show(plan: &Plan, rest: &[&str]) -> Done {
    pin(0);
    let (mut shown, mut plan) = (history(plan), plan.clone());
    if let Some(at) = rest.iter().position(|word| *word == "shrink") {
        let first = shown.1.first().map(|v| v.kind.clone()).unwrap_or_default();
        let kind = rest.get(at + 1).map_or(first, |kind| (*kind).to_owned());
        plan = shortest(&plan, &kind);
        shown = history(&plan);
        for step in &plan.steps {
            println!("step {}", serde_json::to_string(step).unwrap());
        }
    }
    let (history, violations) = shown;
    if rest.contains(&"story") || rest.contains(&"shrink") {
        println!("{}", story::tell(&history, &violations));
    }
    if rest.contains(&"log") {
        println!("{}", history.log);
    }
    for violation in &violations {
        println!("{} at {} ms: {}", violation.kind, violation.at, story::short(&violation.what));
    }
    clean();
    Ok(())
}

fn shortest(plan: &Plan, kind: &str) -> Plan {
    shrink::shrink(plan, SHRINK_WAIT, |plan| history(plan).1.iter().any(|v| v.kind == kind))
}

/// Shrinks what a seed shows and keeps it: `keep SEED KIND NAME`.
pub(crate) fn keep(seed: &str, kind: &str, name: &str) -> Done {
    pin(0);
    let plan = shortest(&draw::plan(seed.parse().map_err(|_| "a seed is a number")?), kind);
    let (history, violations) = history(&plan);
    println!("{}", story::tell(&history, &violations));
    let story = "(the story in words)".to_owned();
    let kept =
        Kept { name: name.to_owned(), story, kind: kind.to_owned(), covers: Vec::new(), known: true, plan };
    let (path, text) = kept::write(&kept);
    std::fs::write(&path, text).map_err(|e| e.to_string())?;
    println!("kept in {}", path.display());
    clean();
    Ok(())
}

/// Seeds in this process, one line of JSON each.
pub(crate) fn worker(from: &str, until: &str, cpu: &str) -> Done {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
    pin(number(cpu)? as usize);
    for seed in number(from)?..number(until)? {
        println!("{}", serde_json::to_string(&outcome(&draw::plan(seed))).unwrap());
    }
    clean();
    Ok(())
}

/// Many seeds, in as many processes as there are processors; every violation that is not known is told.
pub(crate) fn seeds(from: &str, until: &str) -> Done {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
    let news = many(number(from)?..number(until)?);
    if news.is_empty() { Ok(()) } else { Err(format!("{} seeds show what is not known", news.len())) }
}

/// `4711`, with its story, shrunk; or `1-5000`.
pub(crate) fn simulate(which: &str) -> Done {
    match which.split_once('-') {
        Some((from, until)) => {
            let until = until.parse::<u64>().map_err(|_| format!("{until} is no number"))?;
            seeds(from, &(until + 1).to_string())
        }
        None => seed(which, &["shrink"]),
    }
}

/// The first seed of `3,17,40-60` that shows what is not known: an error, told in the last line. Kept histories that have
/// been repaired come first.
pub(crate) fn hunt(seeds: &str) -> Done {
    for kept in kept::all().into_iter().filter(|kept| !kept.known) {
        pin(0);
        if let Some(found) = history(&kept.plan).1.iter().find(|found| found.kind == kept.kind) {
            println!("{} is back: {}", kept.name, found.kind);
            return Err(String::new());
        }
    }
    for part in seeds.split(',') {
        let (from, until) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{text} is no number"));
        let (first, last) = (number(from)?, number(until)?);
        for from in (first..=last).step_by(10) {
            if let Some((seed, kind)) = many(from..(from + 10).min(last + 1)).first() {
                println!("seed {seed} shows {kind}");
                return Err(String::new());
            }
        }
    }
    println!("nothing in seeds {seeds}");
    Ok(())
}

/// What `make test` runs.
pub(crate) fn tests(words: &[&str]) -> Done {
    let wanted = |name: &str| {
        let named: Vec<&&str> = words.iter().filter(|word| TESTS.contains(word)).collect();
        named.is_empty() || named.iter().any(|word| **word == name)
    };
    if wanted(TESTS[0]) {
        kept_histories()?;
    }
    if wanted(TESTS[1]) {
        let fresh = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() % 1_000_000_000 * 1_000);
        println!("seeds 1 to {FIXED}, and {fresh} to {}", fresh + FRESH);
        let news = many(1..FIXED + 1);
        // A fresh seed may show what no change of this day has caused: that is told, and is for who runs `make simulate`.
        for (seed, kind) in many(fresh..fresh + FRESH) {
            println!("FRESH seed {seed} shows {kind}, which is not known: `make simulate SEEDS={seed}`");
        }
        if let Some((seed, kind)) = news.first() {
            return Err(format!(
                "seed {seed} shows {kind}, which is not known: `make simulate SEEDS={seed}`"
            ));
        }
    }
    Ok(())
}

/// Each known fault is still found, and each repaired one is not.
fn kept_histories() -> Done {
    pin(0);
    let mut wrong = Vec::new();
    for kept in kept::all() {
        // A schedule that is not quite the same may miss what it should find.
        let found = (0..3)
            .map(|_| history(&kept.plan).1)
            .find(|found| found.iter().any(|violation| violation.kind == kept.kind) == kept.known);
        match (found, kept.known) {
            (Some(_), _) => println!("{}: as expected ({})", kept.name, kept.kind),
            (None, true) => wrong.push(format!(
                "{} is not found any more: if it has been repaired, say `state: passing` in its file",
                kept.name
            )),
            (None, false) => wrong.push(format!("{} is back: {}", kept.name, kept.kind)),
        }
    }
    clean();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Runs seeds in worker processes; returns those with news, and of what kind.
fn many(seeds: std::ops::Range<u64>) -> Vec<(u64, String)> {
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
                run_share(from, until, cpu, |outcome| tell_news(outcome, &known, &told))
            }));
        }
    }
    let mut total = Outcome::default();
    let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut news = Vec::new();
    let mut count = 0;
    for child in children {
        let (outcomes, crashed) = child.join().unwrap();
        for seed in crashed {
            println!("seed {seed}: the world itself came to an end");
            news.push((seed, "crash".to_owned()));
        }
        for outcome in outcomes {
            count += 1;
            total.asks += outcome.asks;
            total.seen += outcome.seen;
            total.simulated_ms += outcome.simulated_ms;
            total.real_ms += outcome.real_ms;
            for (name, times) in outcome.acts {
                *total.acts.entry(name).or_default() += times;
            }
            for (kind, ..) in &outcome.violations {
                let first = kinds.entry(kind.clone()).or_insert((0, outcome.seed));
                first.0 += 1;
                if !kept::is_known(&known, kind) {
                    news.push((outcome.seed, kind.clone()));
                }
            }
        }
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!(
        "{count} histories in {:.1} s ({:.0} a minute), {} requests of clients ({:.0} a minute), {} upstream, {} simulated hours",
        begun.elapsed().as_secs_f64(),
        f64::from(count) / minutes,
        total.asks,
        total.asks as f64 / minutes,
        total.seen,
        total.simulated_ms / 3_600_000
    );
    for (kind, (times, seed)) in &kinds {
        let told = if kept::is_known(&known, kind) { "known" } else { "NEW" };
        println!("  {told} {kind}: {times} times, first by seed {seed}");
    }
    let acts: Vec<String> = total.acts.iter().map(|(name, times)| format!("{name} {times}")).collect();
    println!("  acts: {}", acts.join(", "));
    news.sort();
    news
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

/// Runs seeds in one worker process after the other: a new one after each that did not live to tell.
fn run_share(from: u64, until: u64, cpu: u64, tell: impl Fn(&Outcome)) -> (Vec<Outcome>, Vec<u64>) {
    let (mut outcomes, mut crashed, mut at) = (Vec::new(), Vec::new(), from);
    while at < until {
        let mut command = preload::worker();
        command.args(["worker", &at.to_string(), &until.to_string(), &cpu.to_string()]);
        let mut child: Child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            if let Ok(outcome) = serde_json::from_str::<Outcome>(&line) {
                at = outcome.seed + 1;
                tell(&outcome);
                outcomes.push(outcome);
            }
        }
        let _ = child.wait();
        if at < until {
            crashed.push(at);
            at += 1;
        }
    }
    (outcomes, crashed)
}

/// Everything on one processor: who runs when is nearly always the same then.
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn clean() {
    let _ = std::fs::remove_dir_all(preload::root());
}
