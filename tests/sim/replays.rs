//! Whether a seed replays: each is run twice, by two processes, and everything that was written down is compared.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::referee::Violation;
use crate::run::{clean, history, number, pin};
use crate::world::History;
use crate::{draw, preload, story};

/// Everything that was written down: what happened, the daemon's log, and what the referee found.
fn record(history: &History, violations: &[Violation]) -> String {
    let own = preload::root().to_string_lossy().into_owned();
    let text = format!("{}\n{}\n{:?}\n", story::tell(history, violations), history.log, history.quiet);
    text.replace(&own, "/disk")
}

/// Runs seeds in this process and leaves the record of each in `directory`: `record FROM UNTIL CPU DIRECTORY`.
pub(crate) fn record_all(from: &str, until: &str, cpu: &str, directory: &str) -> Result<(), String> {
    pin(number(cpu)? as usize);
    for seed in number(from)?..number(until)? {
        let (history, violations) = history(&draw::plan(seed));
        let kinds: Vec<&str> = violations.iter().map(|found| found.kind.as_str()).collect();
        let text = format!("{}\n{}", kinds.join(" "), record(&history, &violations));
        fs::write(Path::new(directory).join(seed.to_string()), text).map_err(|e| e.to_string())?;
    }
    clean();
    Ok(())
}

/// Runs each seed of `1-50` twice and says which of them differ, and where first: `replays 1-50`. A seed that shows other
/// violations the second time is an error; one whose log differs is told.
pub(crate) fn replays(seeds: &str) -> Result<(), String> {
    let (from, last) = seeds.split_once('-').unwrap_or((seeds, seeds));
    let (from, until) = (number(from)?, number(last)? + 1);
    let runs = [preload::root().join("first"), preload::root().join("second")];
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut children = Vec::new();
    for (at, directory) in runs.iter().enumerate() {
        fs::create_dir_all(directory).map_err(|e| e.to_string())?;
        let mut command = preload::worker();
        command.args(["record", &from.to_string(), &until.to_string(), &(at % processors).to_string()]);
        children.push(command.arg(directory).spawn().map_err(|e| e.to_string())?);
    }
    for mut child in children {
        child.wait().map_err(|e| e.to_string())?;
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
