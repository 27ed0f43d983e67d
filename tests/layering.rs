//! The arrows: lower layers never see upper ones, between modules and within them, and each outside crate is
//! used in one place.
//!
//! Reads the sources as text. A wrong import is named with its file and line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "layering/comments.rs"]
mod comments;
#[path = "layering/documents.rs"]
mod documents;
#[path = "layering/imports.rs"]
mod imports;
#[path = "layering/mutations.rs"]
mod mutations;
#[path = "layering/rows.rs"]
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use imports::{Source, calls, imports, methods, sources, uses};
use rows::{MODULES, NEVER, USED_ONLY_IN, WITHIN, WITHOUT_CIRCLES};

#[test]
fn no_module_uses_one_above_it() {
    let layer_of = |module: &str| MODULES.iter().position(|row| row.contains(&module));
    let mut wrong = Vec::new();
    for source in sources() {
        let from = source.module();
        let Some(from_layer) = layer_of(from) else {
            assert!(
                matches!(from, "lib" | "main"),
                "{from} is in no layer: name it in tests/layering/rows.rs"
            );
            continue;
        };
        for import in imports(&source) {
            let to = import.path.split("::").next().unwrap();
            let Some(to_layer) = layer_of(to) else { continue };
            let upwards = to != from && to_layer >= from_layer;
            if upwards || NEVER.contains(&(from, to)) {
                wrong.push(format!("{}:{}: {from} must not use {to}", source.path, import.line));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_of_a_module_uses_one_above_it() {
    let sources = sources();
    let mut wrong = Vec::new();
    for (module, rows) in WITHIN {
        let row_of = |file: &str| rows.iter().position(|row| row.contains(&file));
        let files: BTreeMap<String, &Source> =
            sources.iter().filter(|s| s.module() == *module).map(|s| (s.file(), s)).collect();
        for named in rows.iter().flat_map(|row| row.iter()) {
            assert!(files.contains_key(*named), "{module}/{named} is in a row and not in src");
        }
        for (file, source) in &files {
            let Some(from) = row_of(file) else {
                wrong.push(format!(
                    "{}: it is in no row of {module}: name it in tests/layering/rows.rs",
                    source.path
                ));
                continue;
            };
            for import in imports(source) {
                let Some(to) = target(&import.path, module, &files).filter(|to| to != file) else { continue };
                if row_of(&to).is_some_and(|to| to >= from) {
                    wrong.push(format!("{}:{}: {file} must not use {to}", source.path, import.line));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_of_a_module_reaches_a_file_that_reaches_it_back() {
    let sources = sources();
    let mut wrong = Vec::new();
    for module in WITHOUT_CIRCLES {
        let files: BTreeMap<String, &Source> =
            sources.iter().filter(|s| s.module() == *module).map(|s| (s.file(), s)).collect();
        let arrows = arrows(module, &files);
        for file in files.keys() {
            let circle: Vec<_> =
                reached(file, &arrows).into_iter().filter(|to| reached(to, &arrows).contains(file)).collect();
            if !circle.is_empty() {
                wrong.push(format!("src/{module}: {file} reaches {} and is reached back", circle.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// From each file to those that it imports, or of which it calls a method that no other file of the module defines.
fn arrows(module: &str, files: &BTreeMap<String, &Source>) -> BTreeMap<String, BTreeSet<String>> {
    let mut defined: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
    for (file, source) in files {
        for method in methods(source) {
            defined.entry(method).or_default().insert(file);
        }
    }
    let only_definer = |method: &str| match defined.get(method) {
        Some(files) if files.len() == 1 => files.first().map(|file| (*file).clone()),
        _ => None,
    };
    let arrows = files.iter().map(|(file, source)| {
        let imported = imports(source).into_iter().filter_map(|import| target(&import.path, module, files));
        let called = calls(source).into_iter().filter_map(only_definer);
        (file.clone(), imported.chain(called).filter(|to| to != file).collect())
    });
    arrows.collect()
}

fn reached(from: &String, arrows: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&String> = arrows[from].iter().collect();
    while let Some(file) = open.pop() {
        if seen.insert(file.clone()) {
            open.extend(&arrows[file]);
        }
    }
    seen
}

/// The file of a module that a path leads to: the longest module path that is a file.
fn target(path: &str, module: &str, files: &BTreeMap<String, &Source>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    if parts.first() != Some(&module) {
        return None;
    }
    while parts.len() > 1 {
        let file = parts[1..].join("/");
        if files.contains_key(&file) {
            return Some(file);
        }
        parts.pop();
    }
    Some("mod".to_owned())
}

#[test]
fn each_outside_crate_is_used_in_one_place() {
    let mut wrong = Vec::new();
    for source in sources() {
        let path = source.path.strip_prefix("src/").unwrap();
        let is_in = |place: &str| path == place || place.ends_with('/') && path.starts_with(place);
        for (name, place) in USED_ONLY_IN {
            let is_there = USED_ONLY_IN.iter().any(|(other, place)| other == name && is_in(place));
            for (number, line) in source.text.lines().enumerate() {
                let uses = uses(line, name) && !line.trim_start().starts_with("//");
                // `crate::support::metrics` and the like are ours.
                if uses && !is_there && !line.contains(&format!("crate::support::{name}::")) {
                    wrong.push(format!("{}:{}: {name} is used in {place} only", source.path, number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
