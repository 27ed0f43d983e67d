//! The sources as text, and what they import, define and call.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A file of `src/`, its tests left out.
pub(crate) struct Source {
    /// From the root of the project.
    pub(crate) path: String,
    /// Without comments and without inline tests; lines stay where they are.
    pub(crate) text: String,
}

/// A path that a file names, from the crate's root on.
#[derive(Debug, PartialEq)]
pub(crate) struct Import {
    pub(crate) line: usize,
    pub(crate) path: String,
}

impl Source {
    /// The first part of its path: `pull` for `src/pull/access/grants.rs`.
    pub(crate) fn module(&self) -> &str {
        self.path.trim_start_matches("src/").split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Its place in the module: `access/grants`, `access` for `access/mod.rs`, `mod` for the module's own front.
    pub(crate) fn file(&self) -> String {
        let inside = self.path.splitn(3, '/').nth(2).unwrap_or("mod.rs").trim_end_matches(".rs");
        inside.strip_suffix("/mod").unwrap_or(inside).to_owned()
    }

    /// The module that `super` is seen from, as names from the crate's root on.
    fn module_path(&self) -> Vec<&str> {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inside.strip_suffix("/mod").unwrap_or(inside).split('/').collect()
    }
}

/// All sources but files of tests.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![root.join("src")];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                directories.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, text: without_tests(&text) });
            }
        }
    }
    assert!(found.len() > 30, "the sources were not found");
    found
}

/// Comments are emptied, and what follows `#[cfg(test)]` up to the end of its block.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut in_tests = false;
    for line in text.lines() {
        in_tests |= line.starts_with("#[cfg(test)]");
        if !in_tests && !line.trim_start().starts_with("//") {
            kept.push_str(line);
        }
        kept.push('\n');
        let ends = line == "}" || line.ends_with(';') && !line.starts_with(' ');
        in_tests &= !ends;
    }
    kept
}

/// Everything reached through `crate::` and `super::`, groups opened.
pub(crate) fn imports(source: &Source) -> Vec<Import> {
    let (text, module) = (&source.text, source.module_path());
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let before = &text[..at];
            let is_within = before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':'));
            // `pub(in crate::store)` says who may see something, and sees nothing itself.
            if is_within || before.ends_with("pub(in ") {
                continue;
            }
            let line = before.matches('\n').count() + 1;
            let mut base: Vec<&str> = if start == "super::" { module.clone() } else { Vec::new() };
            let mut rest = &text[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            let rest = rest.strip_prefix("crate::").unwrap_or(rest);
            for path in paths(rest) {
                let path = base.iter().copied().chain([path.as_str()]).collect::<Vec<_>>().join("::");
                found.push(Import { line, path });
            }
        }
    }
    found
}

/// The paths that a text begins with: one, or those of a group.
fn paths(text: &str) -> Vec<String> {
    let name: String =
        text.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '*')).collect();
    let after = &text[name.len()..];
    let Some(group) = after.strip_prefix('{').filter(|_| name.is_empty() || name.ends_with("::")) else {
        return vec![name.trim_end_matches(':').to_owned()];
    };
    let (mut depth, mut member, mut members) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => members.push(std::mem::take(&mut member)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                member.push(c);
            }
        }
    }
    members.push(member);
    let inside =
        members.iter().map(|member| member.trim()).filter(|member| !member.is_empty()).flat_map(paths);
    inside.map(|inside| format!("{name}{}", inside.trim_start_matches("self"))).collect()
}

/// Methods that a file defines.
pub(crate) fn methods(source: &Source) -> BTreeSet<&str> {
    let text = source.text.as_str();
    let functions = text.match_indices("fn ").filter_map(|(at, _)| {
        let rest = &text[at + 3..];
        let name = &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_')?];
        let arguments = rest[rest.find('(')? + 1..].trim_start();
        let receiver = arguments.split([',', ')']).next()?;
        receiver.split([':', ' ', '&']).any(|word| word == "self").then_some(name)
    });
    functions.filter(|name| !COMMON.contains(name)).collect()
}

/// Methods that a file calls.
pub(crate) fn calls(source: &Source) -> BTreeSet<&str> {
    let text = source.text.as_str();
    let calls = text.match_indices('.').filter_map(|(at, _)| {
        let rest = &text[at + 1..];
        let name = &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_')?];
        rest[name.len()..].starts_with('(').then_some(name)
    });
    calls.collect()
}

/// Names of methods of the standard library, which say nothing about whose method is called.
const COMMON: &[&str] = &[
    "new", "clone", "get", "len", "iter", "next", "insert", "remove", "lock", "read", "write", "send", "run",
    "is_empty", "poll", "with", "take", "find", "keep", "size", "digest", "check", "map", "clear", "retain",
    "flush", "end", "any", "all", "as_str", "push", "name", "drop", "append", "open", "kind", "path",
    "close", "store",
];

/// Whether a line has `name::` as a word of its own: `Ordering::` is no use of ring.
pub(crate) fn uses(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::"))
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

#[test]
fn the_reader_of_imports_sees_what_is_there() {
    let text = "use crate::store::Store;\nuse crate::{\n    pull, serve::respond::{self, Refusal},\n};\nuse super::{a, b::c};\n\
                pub(in crate::serve) fn f() { crate::cli::run() }\n// crate::app is prose\n#[cfg(test)]\nmod tests {\n    use crate::app;\n}\n";
    let source = Source { path: "src/serve/deep/file.rs".to_owned(), text: without_tests(text) };
    let found: Vec<(usize, String)> =
        imports(&source).into_iter().map(|import| (import.line, import.path)).collect();
    let expected = [
        (1, "store::Store"),
        (2, "pull"),
        (2, "serve::respond::"),
        (2, "serve::respond::Refusal"),
        (6, "cli::run"),
        (5, "serve::deep::a"),
        (5, "serve::deep::b::c"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
    assert_eq!((source.module(), source.file().as_str()), ("serve", "deep/file"));
}

#[test]
fn methods_and_calls_are_told_from_functions() {
    let text = "impl A {\n    fn own<T>(self) {}\n    pub fn changed(&mut self, a: T) { self.b.called(1); free() }\n}\nfn free(a: &B) {}\n";
    let source = Source { path: "src/pull/a.rs".to_owned(), text: text.to_owned() };
    assert_eq!(Vec::from_iter(methods(&source)), ["changed", "own"]);
    assert_eq!(Vec::from_iter(calls(&source)), ["called"]);
}
