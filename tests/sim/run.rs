//! Running histories: one, a kept one, many (`many.rs`), and what `make test` runs.

use std::path::Path;
use std::time::Duration;

use crate::kept::{self, Kept};
use crate::plan::Plan;
use crate::referee::{self, Violation};
use crate::world::{self, History};
use crate::{draw, log, many, preload, shrink, story, time};

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

/// One seed: `seed N [story] [log] [shrink KIND]`.
pub(crate) fn seed(seed: &str, rest: &[&str]) -> Done {
    show(&draw::plan(number(seed)?), rest)
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
        // What shows nothing has no shortest history that still does.
        if shown.1.iter().any(|violation| violation.kind == kind) {
            plan = shortest(&plan, &kind);
            shown = history(&plan);
        }
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
    if violations.is_empty() {
        println!("nothing is violated");
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
    let plan = shortest(&draw::plan(number(seed)?), kind);
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

/// Many seeds, in as many processes as there are processors; every violation that is not known is told.
pub(crate) fn seeds(from: &str, until: &str) -> Done {
    let news = many::run(number(from)?..number(until)?).news;
    if news.is_empty() { Ok(()) } else { Err(format!("{} seeds show what is not known", news.len())) }
}

/// `4711`, with its story, shrunk; or `1-5000`.
pub(crate) fn simulate(which: &str) -> Done {
    match which.split_once('-') {
        Some((from, until)) => seeds(from, &(number(until)? + 1).to_string()),
        None => seed(which, &["shrink"]),
    }
}

/// The plans of `1-500`, a line of JSON each, without acting them out: `plans 1-500`.
pub(crate) fn plans(which: &str) -> Done {
    let (from, last) = which.split_once('-').unwrap_or((which, which));
    for seed in number(from)?..=number(last)? {
        println!("{}", serde_json::to_string(&draw::plan(seed)).unwrap());
    }
    Ok(())
}

/// What is drawn for `1-500`, by kind, and how often: `figures 1-500`.
pub(crate) fn figures(which: &str) -> Done {
    let (from, last) = which.split_once('-').unwrap_or((which, which));
    let totals = many::run(number(from)?..number(last)? + 1);
    println!("{}", totals.table());
    Ok(())
}

/// The first of `kept,3,17,40-60` that shows what is not known: an error, told in the last line. `kept` are the histories
/// that show nothing any more; one of them can be named, too.
pub(crate) fn hunt(which: &str) -> Done {
    for part in which.split(',').map(str::trim) {
        let all = kept::all().into_iter().filter(|kept| !kept.known);
        let named: Vec<Kept> = all.filter(|kept| part == "kept" || part == kept.name).collect();
        for kept in &named {
            if many::kinds_of(kept).is_none_or(|kinds| kinds.contains(&kept.kind)) {
                println!("{} is back: {}", kept.name, kept.kind);
                return Err(String::new());
            }
        }
        if !named.is_empty() {
            continue;
        }
        let (from, until) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(from)?, number(until)?);
        for from in (first..=last).step_by(10) {
            if let Some((seed, kind)) = many::run(from..(from + 10).min(last + 1)).news.first() {
                println!("seed {seed} shows {kind}");
                return Err(String::new());
            }
        }
    }
    println!("nothing in {which}");
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
        let news = many::run(1..FIXED + 1).news;
        // A fresh seed may show what no change of this day has caused: that is told, and is for who runs `make simulate`.
        for (seed, kind) in many::run(fresh..fresh + FRESH).news {
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
    let mut wrong = Vec::new();
    for kept in kept::all() {
        match (many::kinds_of(&kept).map(|kinds| kinds.contains(&kept.kind)), kept.known) {
            (Some(true), true) | (Some(false), false) => {
                println!("{}: as expected ({})", kept.name, kept.kind);
            }
            (Some(false), true) => wrong.push(format!(
                "{} is not found any more: if it has been repaired, say `state: passing` in its file",
                kept.name
            )),
            (Some(true), false) => wrong.push(format!("{} is back: {}", kept.name, kept.kind)),
            (None, _) => wrong.push(format!("{}: the world itself came to an end", kept.name)),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// A number of an argument.
///
/// # Errors
/// It is none.
pub(crate) fn number(text: &str) -> Result<u64, String> {
    text.trim().parse::<u64>().map_err(|_| format!("{text} is no number"))
}

/// Everything on one processor: who runs when is nearly always the same then.
pub(crate) fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Removes the disks of this process.
pub(crate) fn clean() {
    let _ = std::fs::remove_dir_all(preload::root());
}
