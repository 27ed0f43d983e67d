//! The arrows: lower layers never see upper ones, and each outside crate has one door.
//!
//! Reads the sources as text. A wrong import is named with its file and line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `src/`, lowest layer first; those in one row do not see each other.
const LAYERS: &[&[&str]] = &[
    &["support"],
    &["reference"],
    &["listener", "credentials", "store"],
    &["upstream"],
    &["pull"],
    &["serve", "prepull"],
    &["admin"],
    &["config"],
    &["reload"],
    &["app"],
    &["cli", "fuzzing"],
];

/// Outside crates that are used in one place only.
const DOORS: &[(&str, &str)] = &[
    ("sled", "store/table.rs"),
    ("sha2", "reference/digest.rs"),
    ("toml_edit", "config/file.rs"),
    ("strsim", "config/variables.rs"),
    ("prometheus", "support/metrics.rs"),
    ("hyper_rustls", "upstream/transport/connect.rs"),
    ("http_auth", "upstream/auth/challenge.rs"),
    ("clap", "cli/"),
    ("indicatif", "cli/"),
    ("tar", "cli/import.rs"),
    ("toml_edit", "cli/"),
    ("similar", "cli/setup/"),
    ("listenfd", "cli/service.rs"),
    ("sd_notify", "cli/service.rs"),
    ("tracing_subscriber", "cli/"),
    ("serde_saphyr", "support/yaml.rs"),
    ("lru", "support/bounded_map.rs"),
    ("arc_swap", "support/live.rs"),
    ("tokio_util", "support/tasks.rs"),
    ("psl", "upstream/auth/realm.rs"),
];

/// Pairs that the rows above would allow and the design does not.
const NEVER: &[(&str, &str)] = &[("upstream", "store"), ("upstream", "listener"), ("pull", "listener")];

#[test]
fn no_module_looks_upwards() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let from = module_of(&file);
        let Some(from_layer) = layer_of(&from) else {
            assert!(matches!(from.as_str(), "lib" | "main"), "{from} is in no layer: name it in this test");
            continue;
        };
        for (line, to) in imports(&text) {
            let Some(to_layer) = layer_of(&to) else { continue };
            let upwards = to != from && to_layer >= from_layer;
            let never = NEVER.contains(&(from.as_str(), to.as_str()));
            if upwards || never {
                wrong.push(format!("src/{}:{line}: {from} must not use {to}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn each_outside_crate_has_one_door() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (name, door) in DOORS {
            let path = file.to_str().unwrap();
            // A crate may have several doors.
            let mut doors = DOORS.iter().filter(|(other, _)| other == name);
            let through_it =
                doors.any(|(_, door)| path == *door || door.ends_with('/') && path.starts_with(door));
            for (number, line) in text.lines().enumerate() {
                let uses = uses(line, name) && !line.trim_start().starts_with("//");
                // `crate::metrics` and the like are ours.
                if uses && !through_it && !line.contains(&format!("crate::support::{name}::")) {
                    wrong.push(format!("src/{path}:{}: {name} is used through {door} only", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whether a line has `name::` as a word of its own: `Ordering::` is no use of ring.
fn uses(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::"))
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

#[test]
fn the_reader_of_imports_sees_what_is_there() {
    let text = "use crate::store::Store;\nuse crate::{\n    pull, serve::respond,\n};\nfn f() { crate::cli::run() }\n// crate::app is prose";
    let found: Vec<(usize, String)> = imports(text);
    let expected = [(1, "store"), (2, "pull"), (2, "serve"), (5, "cli")];
    assert_eq!(found, expected.map(|(line, name)| (line, name.to_owned())));
    assert!(layer_of("cli") > layer_of("store"));
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Line and first name of everything reached through `crate::`, groups opened at their top level.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let code: String = text
        .lines()
        .map(|line| if line.trim_start().starts_with("//") { "\n".to_owned() } else { format!("{line}\n") })
        .collect();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut name) = (0, String::new());
            let mut names = Vec::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => names.push(std::mem::take(&mut name)),
                    _ if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            names.push(name);
            let first = |name: &String| name.trim().split("::").next().unwrap_or_default().to_owned();
            found.extend(names.iter().map(first).filter(|name| !name.is_empty()).map(|name| (line, name)));
        } else {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push((line, name));
        }
    }
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files
                    .push((path.strip_prefix(&root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 30, "the sources were not found");
    files
}
