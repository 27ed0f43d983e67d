//! Histories that are kept, each with its story in words: `seeds/*.txt`.
//!
//! ```text
//! What happens, in words.
//!
//! kind: bytes/wrong-whole-damaged
//! covers: service/refused-damaged
//! state: known
//! setup {..}
//! step {..}
//! ```
//! `known` is a fault that is not repaired yet: the history must still show it, and its kinds are no news elsewhere.
//! `passing` is one that has been: nothing may be wrong any more. A repair turns the one word into the other.

use std::fs;
use std::path::{Path, PathBuf};

use crate::plan::{Plan, Step};

/// A history that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) name: String,
    pub(crate) story: String,
    pub(crate) kind: String,
    /// Other kinds that the same fault shows itself by.
    pub(crate) covers: Vec<String>,
    pub(crate) known: bool,
    pub(crate) plan: Plan,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/seeds")
}

/// All of them, by name.
pub(crate) fn all() -> Vec<Kept> {
    let entries = fs::read_dir(directory()).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))).collect()
}

/// Whether a kind is among those that are known; `*` stands for anything.
pub(crate) fn is_known(known: &[String], kind: &str) -> bool {
    known.iter().any(|pattern| matches(pattern, kind))
}

fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == kind,
        Some((before, after)) => {
            let rest = kind.strip_prefix(before);
            rest.is_some_and(|rest| (0..=rest.len()).any(|at| matches(after, &rest[at..])))
        }
    }
}

/// Kinds of violations that are known.
pub(crate) fn known() -> Vec<String> {
    let all = all().into_iter().filter(|kept| kept.known);
    all.flat_map(|kept| kept.covers.into_iter().chain([kept.kind])).collect()
}

/// Reads one.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn read(path: &Path) -> Result<Kept, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut kept = Kept {
        name,
        story: String::new(),
        kind: String::new(),
        covers: Vec::new(),
        known: false,
        plan: Plan { seed: 0, setup: Default::default(), steps: Vec::new() },
    };
    for (number, line) in text.lines().enumerate() {
        let wrong = |e: serde_json::Error| format!("line {}: {e}", number + 1);
        if let Some(rest) = line.strip_prefix("kind: ") {
            kept.kind = rest.trim().to_owned();
        } else if let Some(rest) = line.strip_prefix("covers: ") {
            kept.covers.extend(rest.split(',').map(|kind| kind.trim().to_owned()));
        } else if let Some(rest) = line.strip_prefix("state: ") {
            kept.known = match rest.trim() {
                "known" => true,
                "passing" => false,
                other => return Err(format!("line {}: {other:?} is neither known nor passing", number + 1)),
            };
        } else if let Some(rest) = line.strip_prefix("seed ") {
            kept.plan.seed = rest.trim().parse().map_err(|_| format!("line {}: no number", number + 1))?;
        } else if let Some(rest) = line.strip_prefix("setup ") {
            kept.plan.setup = serde_json::from_str(rest).map_err(wrong)?;
        } else if let Some(rest) = line.strip_prefix("step ") {
            let step: Step = serde_json::from_str(rest).map_err(wrong)?;
            kept.plan.steps.push(step);
        } else {
            kept.story += line;
            kept.story.push('\n');
        }
    }
    Ok(kept)
}

/// The text of one, and where it belongs.
pub(crate) fn write(kept: &Kept) -> (PathBuf, String) {
    let mut text = format!("{}\n\nkind: {}\n", kept.story.trim(), kept.kind);
    if !kept.covers.is_empty() {
        text += &format!("covers: {}\n", kept.covers.join(", "));
    }
    text += &format!("state: {}\nseed {}\n", if kept.known { "known" } else { "passing" }, kept.plan.seed);
    text += &format!("setup {}\n", serde_json::to_string(&kept.plan.setup).unwrap());
    for step in &kept.plan.steps {
        text += &format!("step {}\n", serde_json::to_string(step).unwrap());
    }
    (directory().join(format!("{}.txt", kept.name)), text)
}
