//! The documents that name files of the tree name files that exist.

use std::fs;
use std::path::{Path, PathBuf};

use crate::rows::MODULES;

/// Documents about the tree itself: what looks like a file at its top is one.
const ABOUT_THE_TREE: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md"];
/// How a path begins that is looked for; `target/` is there only after a build.
const OF_THE_TREE: &[&str] = &["src/", "tests/", "docs/", "config/", "fuzz/", ".github/"];
/// Where a path is looked for: the map of the code names its files from `src/` on, docs/testing.md those of the simulated
/// world from `tests/sim/` on.
const ROOTS: &[&str] = &["", "src", "tests/sim"];

#[test]
fn a_document_does_not_send_its_reader_to_files_that_are_gone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for document in documents(root) {
        let text = fs::read_to_string(root.join(&document)).unwrap();
        let is_about_the_tree = ABOUT_THE_TREE.iter().any(|name| document == Path::new(name));
        let named: Vec<&str> = text.split('`').filter(|word| is_path(word, is_about_the_tree)).collect();
        let gone: Vec<&&str> = named.iter().filter(|path| !is_there(root, path)).collect();
        assert!(!is_about_the_tree || named.len() > 10, "no paths were found in {document:?}: {named:?}");
        assert!(gone.is_empty(), "{document:?} names what does not exist: {gone:?}");
        found += named.len();
    }
    assert!(found > 100, "{found} paths were found");
}

/// `pull::blob::fill`: a module of `src/` with what is in it, a test of which may be cut short (`…`).
#[test]
fn a_document_does_not_name_modules_that_are_gone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for document in documents(root) {
        let text = fs::read_to_string(root.join(&document)).unwrap();
        let named: Vec<&str> = text.split('`').filter(|word| is_module_path(word)).collect();
        let gone: Vec<&&str> = named.iter().filter(|path| !is_in_the_code(&root.join("src"), path)).collect();
        assert!(gone.is_empty(), "{document:?} names what is not there: {gone:?}");
        found += named.len();
    }
    assert!(found > 100, "{found} paths were found");
}

fn is_module_path(word: &str) -> bool {
    let is_named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '…');
    let first = word.split_once("::").map(|(first, _)| first);
    first.is_some_and(|first| MODULES.concat().contains(&first)) && word.chars().all(is_named)
}

/// Whether all but the last part of the path, and `tests` or `…_tests` before it, are modules, and the last is one or
/// stands in the code of the one before it; a name cut short may stand in a file below that.
fn is_in_the_code(src: &Path, path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    let directory = |length: usize| parts[..length].iter().fold(src.to_owned(), |at, part| at.join(part));
    let file = |length: usize| {
        let directory = directory(length);
        [directory.with_extension("rs"), directory.join("mod.rs")].into_iter().find(|file| file.exists())
    };
    let Some((length, file)) = (1..=parts.len()).rev().find_map(|length| Some((length, file(length)?)))
    else {
        return false;
    };
    let name = match &parts[length..] {
        [] => return true,
        [name] => *name,
        [tests, name] if tests.ends_with("tests") => *name,
        _ => return false,
    };
    let (wanted, below) = (name.trim_matches('…'), directory(length));
    let is_cut = name != wanted;
    let has_it = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|code| has_word(&code, wanted, is_cut));
    has_it(&file) || beside(&file).iter().any(has_it) || is_cut && files_below(&below).iter().any(has_it)
}

/// The tests of `x.rs` that are in `x_tests.rs` or `x_…_tests.rs`.
fn beside(file: &Path) -> Vec<PathBuf> {
    let start = format!("{}_", file.file_stem().unwrap_or_default().display());
    let is_beside = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().display().to_string();
        name.starts_with(&start) && name.ends_with("_tests.rs")
    };
    files_below(file.parent().unwrap()).into_iter().filter(is_beside).collect()
}

fn has_word(code: &str, wanted: &str, is_cut: bool) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    is_cut && code.contains(wanted) || code.split(|c| !is_name(c)).any(|word| word == wanted)
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn documents(root: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(root.join("docs")).unwrap().flatten().map(|entry| entry.path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages = pages.map(|path| path.strip_prefix(root).unwrap().to_owned());
    ABOUT_THE_TREE.iter().map(PathBuf::from).chain(pages).collect()
}

fn is_path(word: &str, with_files_at_the_top: bool) -> bool {
    let below = OF_THE_TREE.iter().any(|directory| word.starts_with(directory));
    let at_the_top = with_files_at_the_top
        && !word.contains('/')
        && [".toml", ".md"].iter().any(|end| word.ends_with(end));
    let of_the_code = word.contains('/') && (word.ends_with(".rs") || is_of_a_module(word));
    !word.contains(|c: char| c.is_whitespace() || matches!(c, '*' | '<' | '…'))
        && (below || at_the_top || of_the_code)
}

/// Whether it is a path within a module of `src/`, without an ending: `pull/blob/fill`.
fn is_of_a_module(word: &str) -> bool {
    let first = word.split('/').next().unwrap_or_default();
    let is_name = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '/');
    MODULES.iter().flat_map(|row| row.iter()).any(|module| *module == first) && word.chars().all(is_name)
}

fn is_there(root: &Path, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    ROOTS.iter().map(|base| root.join(base)).any(|base| {
        base.join(path).exists() || is_of_a_module(path) && base.join(format!("{path}.rs")).exists()
    })
}
