//! Whether a seed replays: each is run twice, by two processes, and everything that was written down is compared.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::referee::Violation;
use crate::run::{clean, history, number, pin};
use crate::world::History;
use crate::{draw, preload, story};

/// Everything that was written down, except what is measured by the real clock: what happened, the daemon's log and
/// numbers, and in the first line what the referee found.
fn text(history: &mut History, violations: &[Violation]) -> String {
    for quiet in &mut history.quiet {
        quiet.numbers.retain(|name, _| !name.contains("_seconds"));
    }
    let kinds: Vec<&str> = violations.iter().map(|found| found.kind.as_str()).collect();
    let told = story::tell(history, violations);
    let text = format!("{}\n{told}\n{}\n{:#?}\n", kinds.join(" "), history.log, history.quiet);
    text.replace(&*preload::root().to_string_lossy(), "/disk")
}

/// Runs a seed in this process and writes down everything: `record SEED CPU FILE`.
pub(crate) fn record(seed: &str, cpu: &str, file: &str) -> Result<(), String> {
    pin(number(cpu)? as usize);
    let (mut history, violations) = history(&draw::plan(number(seed)?));
    fs::write(file, text(&mut history, &violations)).map_err(|e| e.to_string())?;
    clean();
    Ok(())
}

/// Runs each seed of `1-50` twice and says which of them differ, and where first: `replays 1-50`. A seed that shows other
/// violations the second time is an error; one whose record differs is told.
pub(crate) fn replays(seeds: &str) -> Result<(), String> {
    let (from, last) = seeds.split_once('-').unwrap_or((seeds, seeds));
    let (from, until) = (number(from)?, number(last)? + 1);
    let runs = [preload::root().join("first"), preload::root().join("second")];
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        fs::create_dir_all(run).map_err(|e| e.to_string())?;
        let (run, cpu) = (run.clone(), (at % processors).to_string());
        threads.push(std::thread::spawn(move || {
            for seed in (from..until).map(|seed| seed.to_string()) {
                let mut command = preload::worker();
                let _ = command.args(["record", &seed, &cpu]).arg(run.join(&seed)).status();
            }
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
    let (mut same, mut judged_otherwise) = (0, Vec::new());
    for seed in from..until {
        let read = |run: &Path| fs::read_to_string(run.join(seed.to_string())).unwrap_or_default();
        let (first, second) = (read(&runs[0]), read(&runs[1]));
        if first.lines().next() != second.lines().next() || first.is_empty() {
            judged_otherwise.push(seed);
        }
        if first == second {
            same += 1;
            println!("seed {seed}: {:016x}", hash(&first));
            continue;
        }
        let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        println!("seed {seed}: {:016x} and {:016x}", hash(&first), hash(&second));
        if let Some((a, b)) = differs {
            println!("  first: {a}\n  second: {b}");
        }
    }
    clean();
    println!("{same} of {} seeds replay to the same record", until - from);
    if judged_otherwise.is_empty() {
        return Ok(());
    }
    Err(format!("seeds {judged_otherwise:?} were judged otherwise the second time"))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
